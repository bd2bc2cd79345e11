"""Balance a pole on a cart: the one family whose observations are real numbers. It is a check of the learner.

Source: Barto, Sutton & Anderson (1983), with the sizes, the thresholds and the Euler steps of Gym's CartPole-v1
(Brockman et al. 2016). gymnax has it too, but there a mass or a length that is changed changes less than it should,
because their sum and product are fields of their own; here they are computed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate.envs.base import Env, Spec, TimeStep, VectorObservation

OBSERVATION = VectorObservation(4)  # position, velocity, angle, angular velocity; SI units, radians
NUM_ACTIONS = 2  # push left, push right
_START = 0.05


@struct.dataclass(kw_only=True)
class CartPoleParams:
    """One task: float32 [] each, SI units and radians, but for the last."""

    gravity: jax.Array
    cart_mass: jax.Array
    pole_mass: jax.Array
    half_length: jax.Array  # of the pole
    force: jax.Array
    seconds_per_step: jax.Array
    largest_position: jax.Array
    largest_angle: jax.Array
    max_episode_steps: jax.Array  # int32 []: then the episode is truncated

    @property
    def total_mass(self) -> jax.Array:
        return self.cart_mass + self.pole_mass


@struct.dataclass(kw_only=True)
class CartPoleState:
    """Where a life is."""

    physics: jax.Array  # float32 [4]
    step_in_episode: jax.Array  # int32 []
    age: jax.Array  # int32 []: steps lived, kept over episodes


def params(max_episode_steps: int) -> CartPoleParams:
    """The usual cart and pole."""
    values = (9.8, 1.0, 0.1, 0.5, 10.0, 0.02, 2.4, np.float32(12 * 2 * np.pi / 360))
    names = list(CartPoleParams.__dataclass_fields__)
    fields = {name: jnp.float32(value) for name, value in zip(names[:-1], values, strict=True)}
    return CartPoleParams(**fields, max_episode_steps=jnp.int32(max_episode_steps))


def move(params: CartPoleParams, physics: jax.Array, action: jax.Array) -> jax.Array:
    """The physics float32 [4] one Euler step later."""
    position, velocity, angle, spin = physics
    force = jnp.where(action == 1, params.force, -params.force)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    push = (force + params.pole_mass * params.half_length * spin**2 * sine) / params.total_mass
    spin_up = (params.gravity * sine - cosine * push) / (
        params.half_length * (4.0 / 3.0 - params.pole_mass * cosine**2 / params.total_mass)
    )
    speed_up = push - params.pole_mass * params.half_length * spin_up * cosine / params.total_mass
    step = params.seconds_per_step
    return jnp.stack(
        [position + step * velocity, velocity + step * speed_up, angle + step * spin, spin + step * spin_up]
    )


@functools.cache
def make_env() -> Env:
    """The bundle."""

    def first(key: jax.Array, age: jax.Array):
        physics = jax.random.uniform(key, (4,), minval=-_START, maxval=_START)
        state = CartPoleState(physics=physics, step_in_episode=jnp.int32(0), age=age)
        return state, OBSERVATION.pack(physics)

    def init(key: jax.Array, params: CartPoleParams):
        del params
        return first(key, jnp.int32(0))

    def reset(key: jax.Array, params: CartPoleParams, state: CartPoleState):
        del params
        return first(key, state.age)

    def step(key: jax.Array, params: CartPoleParams, state: CartPoleState, action: jax.Array):
        physics = move(params, state.physics, action)
        going_on = CartPoleState(
            physics=physics, step_in_episode=state.step_in_episode + 1, age=state.age + 1
        )
        terminated = (jnp.abs(physics[0]) > params.largest_position) | (
            jnp.abs(physics[2]) > params.largest_angle
        )
        truncated = ~terminated & (going_on.step_in_episode >= params.max_episode_steps)
        done = terminated | truncated
        started, first_obs = first(key, going_on.age)
        final_obs = OBSERVATION.pack(physics)
        return jax.tree.map(lambda new, old: jnp.where(done, new, old), started, going_on), TimeStep(
            obs=jnp.where(done, first_obs, final_obs),
            reward=jnp.float32(1.0),
            terminated=terminated,
            truncated=truncated,
            final_obs=final_obs,
        )

    spec = Spec(
        observation=OBSERVATION,
        num_actions=NUM_ACTIONS,
        reward_dtype="int8",
        can_truncate=True,
        episode_steps=None,
    )
    return Env(spec=spec, init=init, reset=reset, step=step)
