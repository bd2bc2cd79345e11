"""Replay as a ring of packed rows, one row a step, with a write position shared by the whole ensemble.

Row t holds the observation the learner saw at step t and what step t - 1 had brought: action, reward,
terminated. So a transition is two neighbouring rows and an observation is stored once. Where episodes can be
truncated, the row also holds the observation before the auto-reset, so that a target can bootstrap through.

The cost of adding and of sampling does not depend on the capacity: adding is one slice update at an index
that is not batched, sampling is with replacement.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate import causes
from cl_imitate.types import Spec, Transition


@struct.dataclass(kw_only=True)
class Cursor:
    """Where the ring stands; scalars, the same for every learner of an ensemble."""

    num_added: jax.Array  # int32 []: rows added in all


class Replay(NamedTuple):
    """Pure functions of a ring `rows`, uint8 [..., capacity, row bytes].

    init(obs) -> rows with the first observation as row 0 (leading axes of `obs` lead `rows`).
    add(rows, cursor, obs, action, reward, terminated, final_obs) -> rows; the caller then moves the cursor.
    restart(rows, cursor, obs) -> rows whose newest observation is `obs`: a new episode was begun from outside.
      Where the next observation is the following row, the transition that was cut is voided (weight 0).
    sample(key, rows, cursor) -> (Transition [B], weight [B]) for ONE learner, rows [capacity, row bytes].
    """

    init: Callable
    add: Callable
    restart: Callable
    sample: Callable


_TERMINATED, _VOID = 1, 2
"""Bits of a row's flags."""


def first_cursor() -> Cursor:
    """The cursor after `init`."""
    return Cursor(num_added=jnp.int32(1))


def advance(cursor: Cursor) -> Cursor:
    """The cursor after one `add`."""
    return Cursor(num_added=cursor.num_added + 1)


class _Layout(NamedTuple):
    """Where a row holds what: the observation, the one before the reset (if truncated), action, flags, reward."""

    shape: tuple[int, ...]  # of an observation
    num_obs: int  # bytes of an observation
    num_final: int  # bytes of the observation before an auto-reset; 0 where episodes are never truncated
    reward_dtype: Any

    @classmethod
    def of(cls, spec: Spec) -> "_Layout":
        num_obs = math.prod(spec.observation.shape)
        return cls(
            shape=spec.observation.shape,
            num_obs=num_obs,
            num_final=num_obs if spec.can_truncate else 0,
            reward_dtype=jnp.dtype(spec.reward_dtype),
        )


def _pack(layout: _Layout, obs, action, reward, terminated, final_obs) -> jax.Array:
    """One row, uint8 [..., row bytes]."""
    lead = action.shape
    fields = [obs.reshape(*lead, layout.num_obs)]
    if layout.num_final:
        fields.append(final_obs.reshape(*lead, layout.num_obs))
    raw = jax.lax.bitcast_convert_type(reward.astype(layout.reward_dtype), jnp.uint8)
    fields += [
        action.astype(jnp.uint8)[..., None],
        terminated.astype(jnp.uint8)[..., None],
        raw.reshape(*lead, layout.reward_dtype.itemsize),
    ]
    return jnp.concatenate(fields, axis=-1)


def _unpack(layout: _Layout, before: jax.Array, after: jax.Array) -> tuple[Transition, jax.Array]:
    """The transitions [B] of rows and the rows that follow them, [B, row bytes]; and which are not void."""
    num_obs, size = layout.num_obs, layout.reward_dtype.itemsize
    outcome = after[:, num_obs + layout.num_final :]
    raw = outcome[:, 2:].reshape(-1, *([size] if size > 1 else []))
    following = after[:, num_obs : 2 * num_obs] if layout.num_final else after[:, :num_obs]
    transition = Transition(
        obs=before[:, :num_obs].reshape(-1, *layout.shape),
        action=outcome[:, 0].astype(jnp.int32),
        terminated=(outcome[:, 1] & _TERMINATED) != 0,
        reward=jax.lax.bitcast_convert_type(raw, layout.reward_dtype).astype(jnp.float32),
        next_obs=following.reshape(-1, *layout.shape),
    )
    return transition, (outcome[:, 1] & _VOID) == 0


def make_replay(spec: Spec, *, capacity: int, batch_size: int, kind: str) -> Replay:
    """A replay of at most `capacity` - 1 transitions.

    `kind` "uniform" samples with replacement among what is there; "latest" returns the last `batch_size`
    transitions, newest first, and uses no randomness (weight 0 where there are fewer).
    """
    layout = _Layout.of(spec)

    def init(obs):
        lead = obs.shape[: obs.ndim - len(layout.shape)]
        nothing = jnp.zeros(lead, jnp.uint8)
        row = _pack(layout, obs, nothing, nothing.astype(jnp.float32), nothing, obs)
        rows = jnp.zeros((*lead, capacity, row.shape[-1]), jnp.uint8)
        return rows.at[..., 0, :].set(row)

    def add(rows, cursor, obs, action, reward, terminated, final_obs):
        row = _pack(layout, obs, action, reward, terminated, final_obs)
        where = cursor.num_added % capacity
        return jax.lax.dynamic_update_slice_in_dim(rows, row[..., None, :], where, axis=row.ndim - 1)

    def restart(rows, cursor, obs):
        where = (cursor.num_added - 1) % capacity
        row = jax.lax.dynamic_index_in_dim(rows, where, axis=rows.ndim - 2, keepdims=False)
        row = row.at[..., : layout.num_obs].set(obs.reshape(*row.shape[:-1], layout.num_obs))
        if not layout.num_final:
            flags = layout.num_obs + 1
            row = row.at[..., flags].set(row[..., flags] | _VOID)
        return jax.lax.dynamic_update_slice_in_dim(rows, row[..., None, :], where, axis=rows.ndim - 2)

    def sample(key, rows, cursor):
        newest = cursor.num_added - 1  # the newest row has no follower yet
        available = jnp.minimum(newest, capacity - 1)
        back = causes.draw_back(key, available, batch_size=batch_size, kind=kind)
        index = newest - back
        transition, is_valid = _unpack(layout, rows[index % capacity], rows[(index + 1) % capacity])
        return transition, ((back <= available) & is_valid).astype(jnp.float32)

    return Replay(init=init, add=add, restart=restart, sample=sample)
