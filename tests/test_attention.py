import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate.imitators import attention

pytestmark = pytest.mark.unoptimised


def heads(num_steps, key=0, batch=2, num_heads=2, size=8):
    parts = jax.random.split(jax.random.key(key), 3)
    return tuple(jax.random.normal(k, (batch, num_steps, num_heads, size)) for k in parts)


@pytest.mark.parametrize(
    ("num_steps", "reach"), [(5, None), (300, None), (300, 7), (300, 128), (300, 200), (5, 9)]
)
def test_blocked_attention_equals_the_plain_one_in_value_and_gradient(num_steps, reach):
    q, k, v = heads(num_steps)
    window = None if reach is None else (reach - 1, 0)

    def plain(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=window)

    def ours(q, k, v):
        return attention.causal_attention(q, k, v, None, reach=reach)

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


@pytest.mark.parametrize(
    ("angles", "offset", "tolerance"),
    [(attention.window_angles, 1000, 2e-3), (attention.endless_angles, 2_000_000_000, 2e-5)],
)
def test_rotation_depends_on_the_distance_alone(angles, offset, tolerance):
    q, k, _ = heads(6)

    def scores(offset):
        angle = angles(jnp.arange(6) + offset, 8)
        return jnp.einsum(
            "bqhk,bshk->bhqs",
            attention.rotate(q, attention.cos_sin(angle)),
            attention.rotate(k, attention.cos_sin(angle)),
        )

    np.testing.assert_allclose(scores(0), scores(offset), atol=tolerance)
    assert np.abs(np.asarray(scores(0) - jnp.einsum("bqhk,bshk->bhqs", q, k))).max() > 0.1


@pytest.mark.parametrize(("reach", "hides"), [(None, False), (7, False), (None, True)])
def test_attention_of_bfloat16_heads_is_the_float32_one_rounded(reach, hides):
    q, k, v = (x.astype(jnp.bfloat16) for x in heads(150))
    is_there = jnp.arange(150)[None].repeat(2, axis=0) % 5 > 0 if hides else None

    def out_and_gradients(*heads):
        out, back = jax.vjp(lambda *x: attention.causal_attention(*x, is_there, reach=reach), *heads)
        return out, *back(jnp.sin(out))

    rounded = jax.jit(out_and_gradients)(q, k, v)
    exact = jax.jit(out_and_gradients)(*(x.astype(jnp.float32) for x in (q, k, v)))
    for one, two in zip(rounded, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        assert jnp.linalg.norm(one.astype(jnp.float32) - two) < 0.01 * jnp.linalg.norm(two)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
@pytest.mark.parametrize("reach", [None, 128])
def test_the_fused_kernel_equals_the_blocked_form(reach):
    q, k, v = heads(300, size=64)

    def out_and_gradients(products):
        def attend(*x):
            return attention.causal_attention(*x, None, reach=reach, products=products)

        out, back = jax.vjp(attend, q, k, v)
        return out, *back(jnp.sin(q))

    for one, two in zip(out_and_gradients("bfloat16"), out_and_gradients("float32"), strict=True):
        assert jnp.linalg.norm(one - two) < 0.02 * jnp.linalg.norm(two)


def test_the_two_countings_of_angles_agree():
    step = jnp.arange(500)
    one, two = attention.window_angles(step, 8), attention.endless_angles(step, 8)
    for function in (jnp.cos, jnp.sin):
        np.testing.assert_allclose(function(one), function(two), atol=1e-4)


def test_a_hidden_step_in_a_sliding_window_is_as_in_a_whole_one():
    q, k, v = heads(300)
    is_there = jnp.arange(300)[None] % 3 > 0
    is_there = jnp.broadcast_to(is_there, (2, 300))
    whole = attention.causal_attention(q, k, v, is_there)
    sliding = attention.causal_attention(q, k, v, is_there, reach=140)
    np.testing.assert_allclose(sliding[:, :140], whole[:, :140], rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(sliding - whole))[:, 140:].max() > 1e-3


def test_one_step_against_a_cache_is_the_last_row_of_the_whole():
    q, k, v = heads(9)
    whole = attention.causal_attention(q, k, v, None)[:, -1]
    cache = attention.attend_cache(
        q[:, -1], jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2), jnp.ones((2, 9), bool)
    )
    np.testing.assert_allclose(cache, whole, rtol=1e-5, atol=1e-6)
