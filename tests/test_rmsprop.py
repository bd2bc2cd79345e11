"""Centred RMSProp where its variance is nothing, and against optax where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cl_imitate.learners.rmsprop import scale_by_centred_rms

OURS = scale_by_centred_rms(decay=0.95, eps=0.01)


def directions(optimiser, gradients) -> np.ndarray:
    """What each of the gradients [T, P] is turned into."""
    _, found = jax.lax.scan(
        lambda state, gradient: optimiser.update(gradient, state)[::-1],
        optimiser.init(gradients[0]),
        gradients,
    )
    return np.asarray(found)


def noisy(share: float) -> jax.Array:
    rng = np.random.default_rng(0)
    always = rng.normal(size=2000)
    return jnp.asarray(always * (1.0 + share * rng.normal(size=(600, 2000))), jnp.float32)


@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-4])
def test_a_gradient_that_hardly_changes_leaves_finite_directions(share):
    found = directions(OURS, noisy(share))
    assert np.isfinite(found).all()
    assert (np.abs(found[-1]) <= 100.0 * np.abs(np.asarray(noisy(share)[-1])) * (1 + 1e-6)).all()


def test_gradients_that_change_go_where_optax_sends_them():
    theirs = optax.scale_by_stddev(decay=0.95, eps=0.01, eps_in_sqrt=False)
    np.testing.assert_allclose(directions(OURS, noisy(0.5)), directions(theirs, noisy(0.5)), rtol=1e-4)
