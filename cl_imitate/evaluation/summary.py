"""What is kept of streams of any length, added up on the device: returns, places visited, action cross-entropy.

A rollout of ten million steps leaves as much as one of a thousand: its size is that of the blocks and places counted.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate.types import Spec, SymbolObservation

MAX_PLACES = 4096
MIN_ROOM = 32  # blocks
_ODD = np.random.default_rng(0).integers(0, 2**31, 1 << 12, dtype=np.uint32) * 2 + 1


@struct.dataclass(kw_only=True)
class Summary:
    """Of streams with any leading axes; room for R blocks of steps, of which K count; V places."""

    step: jax.Array  # int32 []: steps added
    num_blocks: jax.Array  # int32 []: K
    return_so_far: jax.Array  # float32 [...]: of the episode under way
    returns: jax.Array  # float32 [..., R]: of the episodes that ended in a block, summed
    episodes: jax.Array  # int32 [..., R]: how many ended
    cross_entropy: jax.Array  # float32 [..., R]: nats, summed over a block's steps
    visits: jax.Array  # int32 [..., V]: how often a place was acted at


def init(lead: tuple[int, ...], *, num_blocks: int, num_places: int) -> Summary:
    """Of nothing yet. The room is rounded up to a power of two: rollouts of like lengths share a compiled program."""
    room = max(MIN_ROOM, 1 << (num_blocks - 1).bit_length())
    return _nothing(num_blocks, lead=lead, room=room, num_places=num_places)


@functools.partial(jax.jit, static_argnames=("lead", "room", "num_places"))
def _nothing(num_blocks, *, lead: tuple[int, ...], room: int, num_places: int) -> Summary:
    return Summary(
        step=jnp.int32(0),
        num_blocks=jnp.int32(num_blocks),
        return_so_far=jnp.zeros(lead, jnp.float32),
        returns=jnp.zeros((*lead, room), jnp.float32),
        episodes=jnp.zeros((*lead, room), jnp.int32),
        cross_entropy=jnp.zeros((*lead, room), jnp.float32),
        visits=jnp.zeros((*lead, num_places), jnp.int32),
    )


def add(
    summary: Summary,
    *,
    reward: jax.Array,
    done: jax.Array,
    cross_entropy: jax.Array,
    place: jax.Array,
    block_steps: int,
) -> Summary:
    """One step of every stream, each argument [...]; steps past the last block are not counted.

    Rewards that are whole numbers are added exactly up to 2^24.
    """
    block = summary.step // block_steps
    counts = block < summary.num_blocks
    block = jnp.minimum(block, summary.num_blocks - 1)
    so_far = summary.return_so_far + reward.astype(jnp.float32)
    ended = done & counts

    def add_to(sums, values):
        old = jax.lax.dynamic_index_in_dim(sums, block, axis=-1)
        return jax.lax.dynamic_update_index_in_dim(sums, old + values[..., None], block, axis=-1)

    return Summary(
        step=summary.step + 1,
        num_blocks=summary.num_blocks,
        return_so_far=jnp.where(done, 0.0, so_far),
        returns=add_to(summary.returns, jnp.where(ended, so_far, 0.0)),
        episodes=add_to(summary.episodes, ended.astype(jnp.int32)),
        cross_entropy=add_to(summary.cross_entropy, jnp.where(counts, cross_entropy, 0.0)),
        visits=add_visits(summary.visits, place[..., None], jnp.broadcast_to(counts, place.shape)[..., None]),
    )


def add_visits(visits: jax.Array, place: jax.Array, counts: jax.Array) -> jax.Array:
    """Visits [..., V] and the places of T more steps [..., T], those that count."""
    rows = visits.reshape(-1, visits.shape[-1])
    row = jnp.arange(rows.shape[0])[:, None]
    more = counts.reshape(rows.shape[0], -1).astype(jnp.int32)
    return rows.at[row, place.reshape(rows.shape[0], -1)].add(more).reshape(visits.shape)


def num_places(spec: Spec) -> int:
    """How many places `place` tells apart."""
    return _num_exact(spec) or MAX_PLACES


def _num_exact(spec: Spec) -> int | None:
    if not isinstance(spec.observation, SymbolObservation):
        return None
    exact = spec.observation.num_symbols * spec.num_actions
    return exact if exact <= MAX_PLACES else None


def place(spec: Spec, obs: jax.Array, action: jax.Array) -> jax.Array:
    """The pair of an observation [..., its shape] and an action [...] as a number, int32 [...].

    Symbols are told apart exactly if there are few enough; everything else is hashed to `MAX_PLACES` values, so that
    two pairs are taken for one with a chance of 1 in that many.
    """
    lead = action.shape
    if _num_exact(spec):
        return obs.reshape(lead).astype(jnp.int32) * spec.num_actions + action.astype(jnp.int32)
    values = jnp.concatenate(
        [obs.reshape(*lead, -1).astype(jnp.uint32), action[..., None].astype(jnp.uint32)], axis=-1
    )
    factors = jnp.asarray(_ODD[: values.shape[-1]]).reshape(*[1] * len(lead), -1)
    mixed = jnp.sum((values + 1) * factors, axis=-1, dtype=jnp.uint32)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
    return (mixed >> (32 - 12)).astype(jnp.int32)


def visits_of(spec: Spec, obs: jax.Array, action: jax.Array) -> np.ndarray:
    """Visits int [N, V] of histories' observations [N, T, ...] and actions [N, T]."""
    return np.asarray(_visits_of(obs, action, spec=spec))


@functools.partial(jax.jit, static_argnames=("spec",))
def _visits_of(obs, action, *, spec: Spec):
    nothing = jnp.zeros((action.shape[0], num_places(spec)), jnp.int32)
    return add_visits(nothing, place(spec, obs, action), jnp.ones(action.shape, bool))


def _counted(summary: Summary, values: jax.Array) -> np.ndarray:
    """Values [..., R] on the host, [..., K]."""
    return np.asarray(values)[..., : int(summary.num_blocks)]


def block_cross_entropy(summary: Summary, block_steps: int) -> np.ndarray:
    """float32 [..., K] on the host: nats an action, mean over each block's steps."""
    return _counted(summary, summary.cross_entropy) / np.float32(block_steps)


def block_means(summary: Summary) -> np.ndarray:
    """float32 [..., K] on the host: mean return of the episodes that ended in each block, NaN where none did."""
    returns, episodes = (
        _counted(summary, summary.returns).astype(np.float64),
        _counted(summary, summary.episodes),
    )
    return (returns / np.where(episodes, episodes, np.nan)).astype(np.float32)


def occupancy_distance(visits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Total variation between two ways [..., V] of spending time: 0 the same shares, 1 no place in common."""

    def shares(counts):
        return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)

    return 0.5 * np.abs(shares(visits) - shares(others)).sum(axis=-1)
