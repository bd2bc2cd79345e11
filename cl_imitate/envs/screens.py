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


def show(layers: jax.Array, params: ScreenParams) -> jax.Array:
    """A game's layers, bool [its channels, 10, 10] -> packed uint8 [88]: padded, channels permuted, mirrored.

    A cell's channels are the bits of a number; eight numbers of seven bits are then seven bytes.
    """
    num_layers = layers.shape[0]
    shown = jnp.arange(SCREEN.channels, dtype=jnp.uint8)
    is_source = params.channel_source[None, :] == jnp.arange(num_layers)[:, None]
    bits = jnp.sum(is_source.astype(jnp.uint8) << shown[None, :], axis=1, dtype=jnp.uint8)
    cells = jnp.sum(layers.astype(jnp.uint8) * bits[:, None, None], axis=0, dtype=jnp.uint8)
    cells = jnp.where(params.mirrored, cells[:, ::-1], cells).reshape(-1)
    groups = jnp.pad(cells, (0, -len(cells) % 8)).reshape(-1, 8)
    place = jnp.arange(7, dtype=jnp.uint8)[None, :]
    packed = (groups[:, :7] >> place) | (groups[:, 1:] << (7 - place))
    return packed.reshape(-1)[: SCREEN.shape[0]]
