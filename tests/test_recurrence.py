"""The chunks of a linear recurrence against the recurrence itself, step by step."""

import jax
import numpy as np
import pytest

from cl_imitate.imitators.recurrence import CHUNK, chunked_recurrence


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
