"""Named random streams, derived by meaning and index.

Every random number of a run comes from one typed key. It is never split in sequence: a child key is
the parent folded with *what it is for* (`stream`) and *which one* (`member`, `at_step`). So learner i
draws the same numbers in an ensemble of 4 or 4,000, and a resumed run draws what it would have drawn.

Both are small whole numbers, so of one parent a name and a step can have the same child. Where a parent has both kinds
(an arm's key for actions, with the coin or resampling beside it), the named child is folded once more before anything
is drawn from it; no bits are shared then. A new use should fold the name first, and steps into that.
"""

import enum

import jax


class Stream(enum.IntEnum):
    """What a key is for. Values are part of the reproducibility contract: append, never renumber."""

    LEARNER_INIT = 0
    ENV = 1
    ACT = 2
    REPLAY = 3
    TASK = 4
    VARIANT = 5
    IMITATOR_INIT = 6
    BATCH = 7
    DROPOUT = 8
    ARM_ENV = 9
    ARM_ACT = 10
    RECORDED = 11
    HELD_OUT = 12
    HELD_OUT_TRAIN_TASKS = 13
    IMITATOR = 14
    RUNG = 15
    FRESH = 16
    BOOTSTRAP = 17
    ENV_INIT = 18
    SHAM = 40
    TEST_TIME = 41
    SEEN = 42
    SKIP = 43


def root(seed: int) -> jax.Array:
    """The one key of a run, from its master seed, 0 <= seed < 2**32 (jax takes larger ones modulo that)."""
    return jax.random.key(seed)


def stream(key: jax.Array, name: Stream) -> jax.Array:
    """The child key for one purpose."""
    return jax.random.fold_in(key, int(name))


def member(key: jax.Array, index: jax.Array | int) -> jax.Array:
    """The child key of ensemble member `index` (a learner, a task, an imitator seed)."""
    return jax.random.fold_in(key, index)


def members(key: jax.Array, num: int, *, first: int = 0) -> jax.Array:
    """Keys `[num]` of members first .. first + num - 1; member i does not depend on `num`."""
    indices = jax.numpy.arange(first, first + num)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def at_step(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """The child key of one time step or update."""
    return jax.random.fold_in(key, step)
