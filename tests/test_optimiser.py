"""What AdamW does here besides following gradients: decay of matrices, clipping, rates of its own a member."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cl_imitate import config
from cl_imitate.optimiser import make_optimiser, rates_of

TRAINING = config.Training(
    num_updates=40,
    warmup_updates=4,
    learning_rate=1e-2,
    final_learning_rate=1e-2,
    weight_decay=0.1,
    clip_norm=1.0,
)


def params() -> dict:
    ones = {"kernel": jnp.full((3, 2), 2.0), "bias": jnp.full(2, 2.0)}
    return {"blocks": ones, "norm": {"scale": jnp.full(3, 2.0)}}


def after(gradient, *, updates: int = 5, training=TRAINING):
    """Weights and the optimiser's state after some equal gradients."""
    optimiser, found = make_optimiser(training), params()
    state = optimiser.init(found)
    for _ in range(updates):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes types, as `train` says too
            step, state = optimiser.update(gradient, state, found)
        found = optax.apply_updates(found, step)
    return found, state


def test_matrices_decay_and_vectors_do_not():
    found, _ = after(jax.tree.map(jnp.zeros_like, params()))
    # the rates of the five updates: 0, a quarter, a half, three quarters of the highest, the highest
    shrunk = 2.0 * np.prod([1.0 - 0.1 * 1e-2 * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)])
    np.testing.assert_allclose(found["blocks"]["kernel"], shrunk, rtol=1e-6)
    np.testing.assert_array_equal(found["blocks"]["bias"], 2.0)
    np.testing.assert_array_equal(found["norm"]["scale"], 2.0)


@pytest.mark.parametrize("size", [0.1, 1000.0])
def test_gradients_are_clipped_by_the_norm_of_all_of_them_together(size):
    gradient = jax.tree.map(jnp.ones_like, params())
    gradient["norm"]["scale"] = jnp.full(3, size)
    _, state = after(gradient, updates=1)
    [moments] = [one for one in jax.tree.leaves(state, is_leaf=_has_moments) if _has_moments(one)]
    norm = np.sqrt(8.0 + 3.0 * size**2)  # eight other entries of 1
    np.testing.assert_allclose(moments.mu["blocks"]["bias"], 0.1 * min(1.0, 1.0 / norm), rtol=1e-5)


def _has_moments(node) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


def test_each_member_has_a_rate_of_its_own():
    rates = rates_of(TRAINING, 2).replace(learning_rate=jnp.array([1e-2, 2e-2]))

    def moved(rate):
        optimiser = make_optimiser(TRAINING, rate)
        state = optimiser.init(params())
        with jax.numpy_dtype_promotion("standard"):
            for _ in range(2):  # the first has rate 0
                step, state = optimiser.update(jax.tree.map(jnp.ones_like, params()), state, params())
        return step["blocks"]["bias"]

    slow, fast = jax.vmap(moved)(rates)
    np.testing.assert_allclose(fast, 2.0 * slow, rtol=1e-5)
