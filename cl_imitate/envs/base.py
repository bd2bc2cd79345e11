"""The environment bundle: pure functions for ONE environment; `vmap` is the caller's.

The interface follows gymnax 1.0: typed keys, `terminated` and `truncated` apart, auto-reset always on with
the final observation returned. Two things are added. Observations are *compact* (a uint8 symbol, or a
bit-packed uint8 screen), so they are stored once in the smallest exact type everywhere; and a reset keeps the
state's *age*, the number of steps lived since the very first one, which open-ended tasks depend on.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

EnvParams = Any  # a pytree: the task
EnvState = Any  # a pytree: evolves


@dataclasses.dataclass(frozen=True)
class SymbolObservation:
    """A single symbol, uint8 [], in 0 .. num_symbols - 1."""

    num_symbols: int

    @property
    def shape(self) -> tuple[int, ...]:
        return ()


@dataclasses.dataclass(frozen=True)
class ScreenObservation:
    """A binary screen [height, width, channels], stored as uint8 [num_bytes], little bit first."""

    height: int
    width: int
    channels: int

    @property
    def num_bits(self) -> int:
        return self.height * self.width * self.channels

    @property
    def shape(self) -> tuple[int, ...]:
        return (-(-self.num_bits // 8),)

    def pack(self, screen: jax.Array) -> jax.Array:
        """Boolean or 0/1 screens [..., height, width, channels] -> uint8 [..., num_bytes]."""
        flat = screen.reshape(*screen.shape[:-3], self.num_bits) != 0
        return jnp.packbits(flat, axis=-1, bitorder="little")

    def unpack(self, packed: jax.Array) -> jax.Array:
        """uint8 [..., num_bytes] -> float32 0/1 screens [..., height, width, channels]."""
        bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & jnp.uint8(1)
        flat = bits.reshape(*packed.shape[:-1], -1)[..., : self.num_bits]
        return flat.reshape(*packed.shape[:-1], self.height, self.width, self.channels).astype(jnp.float32)


Observation = SymbolObservation | ScreenObservation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What a learner or an imitator must know of an environment; hashable, so it can be static under jit."""

    observation: Observation
    num_actions: int
    reward_dtype: str  # "int8" where rewards are small integers (stored exactly), else "float32"
    can_truncate: bool  # False: an episode ends by termination only, so a next row is a next observation
    episode_steps: int | None  # the fixed episode length, or None where it varies


@struct.dataclass(kw_only=True)
class TimeStep:
    """What one step returns. After the end of an episode `obs` is already the next episode's first."""

    obs: jax.Array
    reward: jax.Array  # float32 []
    terminated: jax.Array  # bool []
    truncated: jax.Array  # bool []
    final_obs: jax.Array  # the observation before auto-reset (equal to `obs` inside an episode)


class Env(NamedTuple):
    """Pure functions for one environment. Each consumes its key.

    init(key, params) -> (state, obs): a new life, age 0.
    reset(key, params, state) -> (state, obs): a new episode of the same life; age is kept.
    step(key, params, state, action) -> (state, TimeStep): auto-resets.
    """

    spec: Spec
    init: Callable[[jax.Array, EnvParams], tuple[EnvState, jax.Array]]
    reset: Callable[[jax.Array, EnvParams, EnvState], tuple[EnvState, jax.Array]]
    step: Callable[[jax.Array, EnvParams, EnvState, jax.Array], tuple[EnvState, TimeStep]]
