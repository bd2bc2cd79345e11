"""The data that walks the corridor, with its axes and its time convention.

Axes: N learners, T env steps, B batch, L context steps, A actions.

Time: row t of a history holds what the learner saw and did at step t, and what came of it:
`obs[t]` -> `action[t]` -> `reward[t]`, `terminated[t]`, `truncated[t]`. The observation that followed is
`obs[t + 1]`; if row t ended an episode, `obs[t + 1]` is the first observation of the next one.
Step counts are the learner's age: row 0 is the first step after random initialisation.
"""

import jax
from flax import struct


@struct.dataclass(kw_only=True)
class Transition:
    """One transition for a TD update. `next_obs` is the observation before any auto-reset."""

    obs: jax.Array
    action: jax.Array  # int32 []
    reward: jax.Array  # float32 []
    terminated: jax.Array  # bool []; truncation bootstraps, so it is not part of the update
    next_obs: jax.Array


@struct.dataclass(kw_only=True)
class History:
    """Everything learners observed and did, `[N, T]`, from random initialisation, nothing left out."""

    obs: jax.Array  # uint8 [N, T] symbols, or uint8 [N, T, bytes] bit-packed screens
    action: jax.Array  # uint8 [N, T]
    reward: jax.Array  # int8 or float32 [N, T]
    terminated: jax.Array  # bool [N, T]
    truncated: jax.Array  # bool [N, T]
    explored: jax.Array  # bool [N, T]: the epsilon coin came up "explore"


@struct.dataclass(kw_only=True)
class StepTokens:
    """What an imitator is told at a step, any leading axes. Nothing of the learner's inside."""

    obs: jax.Array  # uint8 [...] or [..., bytes]
    prev_action: jax.Array  # int32 [...]; A means "none" (the first step of a life)
    prev_reward: jax.Array  # float32 [...]
    prev_done: jax.Array  # bool [...]: the previous step ended an episode
    is_begin: jax.Array  # bool [...]: first step of a history, or of a wiped memory
    age: jax.Array  # int32 [...]: log bucket of the learner's age, 0 = unknown


@struct.dataclass(kw_only=True)
class Context:
    """Training windows, `[B, L]`; each lies inside one history."""

    tokens: StepTokens
    action: jax.Array  # int32 [B, L]: the action actually taken, the target
    weight: jax.Array  # float32 [B, L]: 0 past the end of a short history, else 1
