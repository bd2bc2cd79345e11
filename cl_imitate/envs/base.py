"""The environment bundle: pure functions for ONE environment; `vmap` is the caller's.

The interface follows gymnax 1.0: typed keys, `terminated` and `truncated` apart, auto-reset always on with
the final observation returned. Two things are added. Observations are *compact* (a uint8 symbol, a bit-packed
uint8 screen, or the bytes of a vector), so they are stored once in the smallest exact type everywhere; and a reset
keeps the state's *age*, the number of steps lived since the very first one, which open-ended tasks depend on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import struct

from cl_imitate.types import Observation, ScreenObservation, Spec, SymbolObservation, VectorObservation

__all__ = [
    "Env",
    "EnvParams",
    "EnvState",
    "Observation",
    "ScreenObservation",
    "Spec",
    "SymbolObservation",
    "TimeStep",
    "VectorObservation",
]

EnvParams = Any  # a pytree: the task
EnvState = Any  # a pytree: evolves


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
