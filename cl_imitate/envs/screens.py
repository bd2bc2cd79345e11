"""What can be changed about a game on a screen without touching its rules: the task of a screen family.

A task has no hidden parameters, only these leaves, so all variants of a game share one compiled program.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.envs.base import ScreenObservation

SCREEN = ScreenObservation(height=10, width=10, channels=7)  # the largest of the four games' (Freeway)
NUM_ACTIONS = 6  # noop, left, up, right, down, fire: the full set, in every game


@struct.dataclass(kw_only=True)
class ScreenParams:
    """One task; `screen_params()` is the game as it is."""

    num_channels: jax.Array  # int32 []: the game's own; the rest is padding
    channel_source: jax.Array  # int32 [7]: shown channel c is the game's channel_source[c]
    action_meaning: jax.Array  # int32 [6]: action a does what the game's action_meaning[a] does
    mirrored: jax.Array  # bool []: left and right of the screen exchanged; the actions are not
    reward_sign: jax.Array  # float32 []: 1, or -1
    reward_every: jax.Array  # int32 []: paid at every d-th step of an episode, and at its last
    sticky_probability: jax.Array  # float32 []: the last action is repeated instead of the chosen one


def screen_params(*, num_channels: int, sticky_probability: float) -> ScreenParams:
    """The game unchanged."""
    return ScreenParams(
        num_channels=jnp.int32(num_channels),
        channel_source=jnp.arange(SCREEN.channels, dtype=jnp.int32),
        action_meaning=jnp.arange(NUM_ACTIONS, dtype=jnp.int32),
        mirrored=jnp.bool_(False),
        reward_sign=jnp.float32(1.0),
        reward_every=jnp.int32(1),
        sticky_probability=jnp.float32(sticky_probability),
    )


def show(screen: jax.Array, params: ScreenParams) -> jax.Array:
    """A game's screen [10, 10, its channels] -> packed uint8 [88], padded, permuted, mirrored."""
    padding = SCREEN.channels - screen.shape[-1]
    padded = jnp.pad(screen.astype(jnp.uint8), ((0, 0), (0, 0), (0, padding)))[..., params.channel_source]
    return SCREEN.pack(jnp.where(params.mirrored, padded[:, ::-1], padded))
