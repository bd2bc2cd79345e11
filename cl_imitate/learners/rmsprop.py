"""Centred RMSProp: a gradient over the running standard deviation of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class CentredRMSState(NamedTuple):
    """Running means of gradients and of their squares, each as the weights."""

    mean: Any
    square: Any


def scale_by_centred_rms(*, decay: float, eps: float) -> optax.GradientTransformation:
    """g / (sqrt(E[g^2] - E[g]^2) + eps), both means with the same decay, from 0 and without correction.

    Source: Graves (2013), equations 38 to 41, with eps outside the root, as the implementations of DQN have it. We
    differ from `optax.scale_by_stddev` in that the variance is never under 0: of a gradient that is the same again
    and again it is so by rounding, and one root of that would make the weight NaN for good.
    """

    def init(params):
        nothing = jax.tree.map(jnp.zeros_like, params)
        return CentredRMSState(mean=nothing, square=jax.tree.map(jnp.copy, nothing))

    def update(updates, state, params=None):
        del params
        mean = optax.tree.update_moment(updates, state.mean, decay, 1)
        square = optax.tree.update_moment_per_elem_norm(updates, state.square, decay, 2)

        def direction(g, mean, square):
            deviation = jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0.0))
            return g / (deviation + eps)

        scaled = jax.tree.map(direction, updates, mean, square)
        return scaled, CentredRMSState(mean=mean, square=square)

    return optax.GradientTransformation(init, update)
