"""Temporal-difference errors and losses for ONE transition; `vmap` over a batch is the caller's."""

import chex
import jax
import jax.numpy as jnp


def q_learning_error(
    q_tm1: jax.Array,
    a_tm1: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    q_target_t: jax.Array,
    q_selector_t: jax.Array,
) -> jax.Array:
    """The (double) Q-learning error: r + discount * q_target[argmax q_selector] - q[a].

    Args:
      q_tm1: action values at the first state, [A]; the error's gradient flows through these alone.
      a_tm1: the action taken, int [].
      r_t: the reward, [].
      discount_t: the discount times (1 - terminated), []. A truncated step is not terminated.
      q_target_t: target network's values at the next state, [A].
      q_selector_t: values that pick the next action, [A]: `q_target_t` for Q-learning, the online
        network's for double Q-learning.

    Source: Watkins & Dayan (1992); Mnih et al. (2015); van Hasselt et al. (2016), eq. 4.
    """
    chex.assert_rank([q_tm1, a_tm1, r_t, discount_t, q_target_t, q_selector_t], [1, 0, 0, 0, 1, 1])
    chex.assert_type([q_tm1, a_tm1, r_t, discount_t], [float, int, float, float])
    bootstrap = q_target_t[jnp.argmax(q_selector_t)]
    target = jax.lax.stop_gradient(r_t + discount_t * bootstrap)
    return target - q_tm1[a_tm1]


def squared_loss(error: jax.Array) -> jax.Array:
    """Half the square, so that the gradient is the error."""
    return 0.5 * jnp.square(error)


def huber_loss(error: jax.Array) -> jax.Array:
    """Quadratic up to 1, linear beyond: the gradient is the error clipped to [-1, 1] (Mnih et al. 2015)."""
    magnitude = jnp.abs(error)
    quadratic = jnp.minimum(magnitude, 1.0)
    return 0.5 * jnp.square(quadratic) + (magnitude - quadratic)
