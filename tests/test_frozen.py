import jax.numpy as jnp

from cl_imitate.evaluation.frozen import digest


def test_one_changed_bit_a_shape_or_a_name_changes_the_digest():
    tree = {"a": jnp.arange(4.0), "b": {"c": jnp.zeros((2, 3))}}
    same = {"b": {"c": jnp.zeros((2, 3))}, "a": jnp.arange(4.0)}
    assert digest(tree) == digest(same)
    others = [
        {**tree, "a": tree["a"].at[2].add(1e-6)},
        {**tree, "a": tree["a"].reshape(2, 2)},
        {**tree, "a": tree["a"].astype(jnp.int32)},
        {"a2": tree["a"], "b": tree["b"]},
    ]
    assert len({digest(other) for other in [tree, *others]}) == 5
