"""The data that walks the corridor, with its axes and its time convention.

Axes: N learners, T env steps, B batch, L context steps, A actions.

Time: row t of a history holds what the learner saw and did at step t, and what came of it:
`obs[t]` -> `action[t]` -> `reward[t]`, `terminated[t]`, `truncated[t]`. The observation that followed is
`obs[t + 1]`; if row t ended an episode, `obs[t + 1]` is the first observation of the next one.
Step counts are the learner's age: row 0 is the first step after random initialisation.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


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
        flat = screen.reshape(*screen.shape[:-3], self.num_bits)
        return jnp.packbits(flat.astype(jnp.bool_), axis=-1, bitorder="little")

    def unpack(self, packed: jax.Array) -> jax.Array:
        """uint8 [..., num_bytes] -> float32 0/1 screens [..., height, width, channels]."""
        flat = jnp.unpackbits(packed, axis=-1, count=self.num_bits, bitorder="little")
        return flat.reshape(*packed.shape[:-1], self.height, self.width, self.channels).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class VectorObservation:
    """Real numbers float32 [num_values], stored as their bytes, uint8 [4 * num_values]."""

    num_values: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (4 * self.num_values,)

    def pack(self, values: jax.Array) -> jax.Array:
        """float32 [..., num_values] -> uint8 [..., 4 * num_values]."""
        raw = jax.lax.bitcast_convert_type(values, jnp.uint8)
        return raw.reshape(*values.shape[:-1], 4 * self.num_values)

    def unpack(self, packed: jax.Array) -> jax.Array:
        """uint8 [..., 4 * num_values] -> float32 [..., num_values]."""
        raw = packed.reshape(*packed.shape[:-1], self.num_values, 4)
        return jax.lax.bitcast_convert_type(raw, jnp.float32)


Observation = SymbolObservation | ScreenObservation | VectorObservation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What a learner or an imitator must know of an environment; hashable, so it can be static under jit."""

    observation: Observation
    num_actions: int
    reward_dtype: str  # "int8" where rewards are small integers (stored exactly), else "float32"
    can_truncate: bool  # False: an episode ends by termination only, so a next row is a next observation
    episode_steps: int | None  # the fixed episode length, or None where it varies
    num_channels: int | None = None  # of a screen: no task ever lights the channels from here on


@struct.dataclass(kw_only=True)
class Transition:
    """One transition for a TD update. `next_obs` is the observation before any auto-reset."""

    obs: jax.Array
    action: jax.Array  # int32 []
    reward: jax.Array  # float32 []
    terminated: jax.Array  # bool []; truncation bootstraps, so it is not part of the update
    next_obs: jax.Array


NUM_REPLAY_FEATURES = 128
"""How many numbers show which past steps an update drew; see `causes`."""
NUM_SEED_FEATURES = 128
"""How many numbers show a learner's initialisation; see `visibility`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayTimes:
    """When learners update, and from what they draw; hashable, the same for all learners of a run."""

    starts_steps: int
    every_steps: int
    capacity: int
    batch_size: int
    kind: str  # "uniform" or "latest"


@struct.dataclass(kw_only=True)
class Causes:
    """What `imitator.sees` shows of N learners' hidden causes beyond the coin."""

    replay_key_data: jax.Array  # uint32 [N, 2]: of each learner's replay stream
    seed: (
        jax.Array | None
    )  # float32 [N, NUM_SEED_FEATURES]: of each one's initialisation; for those who see it
    times: ReplayTimes = struct.field(pytree_node=False)


@struct.dataclass(kw_only=True)
class History:
    """Everything learners observed and did, `[N, T]`, from random initialisation, nothing left out."""

    obs: jax.Array  # uint8 [N, T] symbols, or uint8 [N, T, bytes]: bit-packed screens, vectors
    action: jax.Array  # uint8 [N, T]
    reward: jax.Array  # int8 or float32 [N, T]
    terminated: jax.Array  # bool [N, T]
    truncated: jax.Array  # bool [N, T]
    explored: jax.Array  # bool [N, T]: the epsilon coin came up "explore"
    causes: Causes | None = None  # never on disk: made again where an imitator is to see them


def empty_history(spec: "Spec", shape: tuple[int, int]) -> History:
    """Room for a history [N, T] on the host."""
    flags = {name: np.zeros(shape, bool) for name in ("terminated", "truncated", "explored")}
    fields: dict[str, Any] = {
        "obs": np.zeros((*shape, *spec.observation.shape), np.uint8),
        "action": np.zeros(shape, np.uint8),
        "reward": np.zeros(shape, spec.reward_dtype),
        **flags,
    }
    return History(**fields)


@struct.dataclass(kw_only=True)
class StepTokens:
    """What an imitator is told at a step, any leading axes. Of the learner's inside, no more than `imitator.sees`."""

    obs: jax.Array  # uint8 [...] or [..., bytes]
    prev_action: jax.Array  # int32 [...]; A means "none" (the first step of a life)
    prev_reward: jax.Array  # float32 [...]
    prev_done: jax.Array  # bool [...]: the previous step ended an episode
    is_begin: jax.Array  # bool [...]: first step of a history, or of a wiped memory
    age: jax.Array  # int32 [...]: log bucket of the learner's age, 0 = unknown
    coin: jax.Array | None = None  # bool [...]: this step's action is drawn at random; for those who see it
    replay: jax.Array | None = (
        None  # float32 [..., features]: what the update since the last step drew; likewise
    )
    seed: jax.Array | None = None  # float32 [..., features]: the learner's initialisation; likewise


@struct.dataclass(kw_only=True)
class Context:
    """Training windows, `[B, L]`; each lies inside one history."""

    tokens: StepTokens
    action: jax.Array  # int32 [B, L]: the action actually taken, the target
    weight: jax.Array  # float32 [B, L]: 0 past the end of a short history, else 1


NUM_AGES = 65
"""Age tokens: 0 is "unknown", then two buckets an octave of steps lived, up to 2^32."""
_HALF_OCTAVES = np.array([math.isqrt(2**half - 1) for half in range(1, 63)], np.int32)
"""Steps lived at which the next bucket begins: the least whole number from 2^(m / 2) on, less one."""


def age_bucket(step: jax.Array) -> jax.Array:
    """The age token of steps lived, int32, any shape; 1 for a newborn, two more for each doubling.

    It is 1 + floor(2 log2(step + 1)), by integers: a device's logarithm may fall short of a power of two.
    """
    lived = jnp.searchsorted(_HALF_OCTAVES, step.astype(jnp.int32), side="right", method="compare_all")
    return 1 + lived.astype(jnp.int32)
