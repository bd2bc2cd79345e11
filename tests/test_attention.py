import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate.imitators import attention


def heads(num_steps, key=0, batch=2, num_heads=2, size=8):
    parts = jax.random.split(jax.random.key(key), 3)
    return tuple(jax.random.normal(k, (batch, num_steps, num_heads, size)) for k in parts)


@pytest.mark.parametrize("num_steps", [5, 300])
def test_blocked_attention_equals_the_plain_one_in_value_and_gradient(num_steps):
    q, k, v = heads(num_steps)

    def plain(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    def ours(q, k, v):
        return attention.causal_attention(q, k, v, None)

    def both(function):
        def loss(q, k, v):
            out = function(q, k, v)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)

    ((_, out), grads), ((_, expected), expected_grads) = both(ours), both(plain)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    for one, two in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_a_hidden_step_influences_no_other():
    q, k, v = heads(10)
    is_there = jnp.ones((2, 10), bool).at[:, 4].set(False)
    out = attention.causal_attention(q, k, v, is_there)
    other = attention.causal_attention(q, k.at[:, 4].add(3.0), v.at[:, 4].add(3.0), is_there)
    changed = np.abs(np.asarray(out - other)).max(axis=(0, 2, 3)) > 0
    np.testing.assert_array_equal(changed, np.arange(10) == 4)


def test_rotation_depends_on_the_distance_alone():
    q, k, _ = heads(6)

    def scores(offset):
        position = jnp.arange(6) + offset
        return jnp.einsum("bqhk,bshk->bhqs", attention.rotate(q, position), attention.rotate(k, position))

    np.testing.assert_allclose(scores(0), scores(1000), rtol=1e-2, atol=2e-3)
    assert np.abs(np.asarray(scores(0) - jnp.einsum("bqhk,bshk->bhqs", q, k))).max() > 0.1


def test_one_step_against_a_cache_is_the_last_row_of_the_whole():
    q, k, v = heads(9)
    whole = attention.causal_attention(q, k, v, None)[:, -1]
    cache = attention.attend_cache(
        q[:, -1], jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2), jnp.ones((2, 9), bool)
    )
    np.testing.assert_allclose(cache, whole, rtol=1e-5, atol=1e-6)
