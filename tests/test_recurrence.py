"""The chunks of a linear recurrence against the recurrence itself, step by step; and how a GRU begins."""

import jax
import numpy as np
import pytest
from flax import nnx

from cl_imitate import config
from cl_imitate.imitators.recurrence import CHUNK, GRU, GRU_HALF_LIVES, chunked_recurrence


@pytest.mark.parametrize("num_steps", [1, CHUNK, 3 * CHUNK, 3 * CHUNK + 7])
def test_chunks_are_the_recurrence_from_any_state_on(num_steps):
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, num_steps, 2, 4)).astype(np.float32)
    log_keep = -rng.exponential(0.05, (2, num_steps, 2)).astype(np.float32)
    state = rng.normal(size=(2, 2, 4, 4)).astype(np.float32)
    read, after = jax.jit(chunked_recurrence, static_argnames="products")(
        q, k, v, log_keep, state, products="float32"
    )
    for t in range(num_steps):
        state = np.exp(log_keep[:, t])[..., None, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
        expected = np.einsum("ehk,ehkv->ehv", q[:, t], state)
        np.testing.assert_allclose(read[:, t], expected, rtol=1e-3, atol=1e-3, err_msg=str(t))
    np.testing.assert_allclose(after, state, rtol=1e-3, atol=1e-3)


def test_a_gru_s_units_keep_what_they_are_told_for_a_step_to_a_life_at_initialisation():
    imitator = config.Imitator(kind="gru", width=32, num_heads=2)
    gru = GRU(imitator, rngs=nnx.Rngs(0))
    bias = np.split(np.asarray(gru.from_state.bias[...]), 3)
    kept = np.log(0.5) / np.log(1 / (1 + np.exp(-bias[1])))
    np.testing.assert_allclose(kept[[0, -1]], GRU_HALF_LIVES, rtol=1e-3)
    np.testing.assert_allclose(np.diff(np.log(kept)), np.log(GRU_HALF_LIVES[1]) / 31, rtol=1e-3)
    assert not bias[0].any()
    assert not bias[2].any()
    for part in np.split(np.asarray(gru.from_state.kernel[...]), 3, axis=1):
        np.testing.assert_allclose(part @ part.T, np.eye(32), atol=1e-5)
