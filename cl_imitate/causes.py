"""A learner's hidden causes as `imitator.sees` shows them: made again from its key at every step, never stored.

**Replay.** What a uniform replay hides of an update is how often it drew each past transition. The draw depends on the
learner's replay key, the update's number and how much there is to draw from, and the latter two on the age alone; so
`drawn_ages` makes it again anywhere, by the function that the learner itself draws with (`draw_back`). A transition is
named by its age: how many steps before the update's own step it was made. That is a place in the stream that an
imitator reads, whoever made the stream; in closed loop the places are those that the matched learner would have drawn,
and what stands there is the imitator's own.

The order within a batch changes nothing, so a batch is shown as the mean of its ages' rotations, cos(w age) and
sin(w age) at `NUM_REPLAY_FEATURES` / 2 frequencies w: the Fourier transform of how often each step was drawn. The
frequencies lie over all of 0 to pi, one in each equal part of it at an irrational place. So the counts of as many last
steps as there are features are told exactly where none is older, and older steps look like none of them (the products
of two ages' rotations are at most 0.35 of an age's own up to 4,096 steps). Frequencies in a geometric row, as positions
usually have, tell only 32 numbers of 128 steps.

The update that follows step t is shown with step t + 1, beside the reward that step t brought: no action before it
depends on it. Nothing is shown where there was no update. (Where an arm begins a new episode in the middle of one, the
learner leaves out the one transition that was cut, if it draws it; here it is shown like any other.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import keys
from cl_imitate.types import NUM_REPLAY_FEATURES, Causes, ReplayTimes

_GOLDEN = (5.0**0.5 - 1.0) / 2.0


def draw_back(key: jax.Array, available: jax.Array, *, batch_size: int, kind: str) -> jax.Array:
    """How far behind the newest row each transition of a batch begins, int32 [B] from 1 on. Consumes the key.

    "uniform": with replacement among the `available` last ones (int32 []). "latest": the last B in order, nothing
    random; those above `available` do not exist.
    """
    if kind == "latest":
        return jnp.arange(1, batch_size + 1)
    return jax.random.randint(key, (batch_size,), 1, jnp.maximum(available, 1) + 1)


def update_after(times: ReplayTimes, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The number of the update that follows a step of a learner's life, int32 [], and whether there is one, bool []."""
    lived = step + 1 - times.starts_steps
    return lived // times.every_steps - 1, (lived > 0) & (lived % times.every_steps == 0)


def drawn_ages(times: ReplayTimes, replay_key: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many steps before `step` each transition of the update after `step` was made, int32 [B]; and whether it
    counts, bool [B]: it exists and there is such an update."""
    update, is_made = update_after(times, step)
    available = jnp.minimum(step + 1, times.capacity - 1)
    # Negative numbers of updates that there are not are no numbers to fold a key with.
    key = keys.at_step(replay_key, jnp.maximum(update, 0))
    back = draw_back(key, available, batch_size=times.batch_size, kind=times.kind)
    return back - 1, is_made & (back <= available)


@functools.cache
def _rotations(num_ages: int) -> np.ndarray:
    """cos and sin of every age, float32 [ages, features]; computed in float64, for far ages turn many times."""
    half = NUM_REPLAY_FEATURES // 2
    part = np.arange(half)
    frequencies = np.pi * (part + (part + 1) ** 2 * _GOLDEN % 1.0) / half
    angle = np.arange(num_ages)[:, None] * frequencies
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def replay_features(times: ReplayTimes, replay_key: jax.Array, step: jax.Array) -> jax.Array:
    """What is shown of the update after `step`, float32 [features]; zeros where there is none (or `step` is -1)."""
    age, counts = drawn_ages(times, replay_key, step)
    weight = counts.astype(jnp.float32) / jnp.maximum(jnp.sum(counts.astype(jnp.float32)), 1.0)
    rotations = jnp.asarray(_rotations(times.capacity - 1))
    return jnp.sum(weight[:, None] * rotations[jnp.clip(age, 0, times.capacity - 2)], axis=0)


def shown(causes: Causes, learner: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """What one learner's token of each of these steps shows, int32 [L]: replay [L, features], and the seed's features
    [L, features] if they are to be seen."""
    key = jax.random.wrap_key_data(jnp.asarray(causes.replay_key_data)[learner])
    replay = jax.vmap(lambda one: replay_features(causes.times, key, one))(step - 1)
    if causes.seed is None:
        return replay, None
    seed = jnp.asarray(causes.seed)[learner]
    return replay, jnp.broadcast_to(seed, (*step.shape, *seed.shape))
