import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate.learners import replay as replay_lib
from cl_imitate.types import ScreenObservation, Spec, SymbolObservation


def make_spec(*, can_truncate: bool, reward_dtype: str = "int8", screen: bool = False) -> Spec:
    observation = ScreenObservation(3, 3, 2) if screen else SymbolObservation(200)
    return Spec(
        observation=observation,
        num_actions=4,
        reward_dtype=reward_dtype,
        can_truncate=can_truncate,
        episode_steps=None,
    )


def fill(spec: Spec, *, capacity: int, num_rows: int, kind: str = "uniform", batch_size: int = 64):
    """A ring after `num_rows` adds, and the transitions a plain list would hold."""
    rng = np.random.default_rng(0)
    replay = replay_lib.make_replay(spec, capacity=capacity, batch_size=batch_size, kind=kind)
    shape = spec.observation.shape
    obs = jnp.asarray(rng.integers(0, 200, shape), jnp.uint8)
    rows, cursor, kept = replay.init(obs), replay_lib.first_cursor(), []
    add = jax.jit(replay.add)
    for step in range(num_rows):
        following = jnp.asarray(rng.integers(0, 200, shape), jnp.uint8)
        final = jnp.asarray(rng.integers(0, 200, shape), jnp.uint8)
        action, reward, terminated = jnp.int32(step % 4), jnp.float32(step % 7 - 3), jnp.bool_(step % 5 == 0)
        rows = add(rows, cursor, following, action, reward, terminated, final)
        cursor = replay_lib.advance(cursor)
        target = final if spec.can_truncate else following
        kept.append((obs, action, reward, terminated, target))
        obs = following
    return replay, rows, cursor, kept


def as_tuples(batch) -> list[tuple]:
    batch = jax.tree.map(np.asarray, batch)  # a row of a device's array would be a program's work
    return [
        (
            bytes(batch.obs[i]),
            int(batch.action[i]),
            float(batch.reward[i]),
            bool(batch.terminated[i]),
            bytes(batch.next_obs[i]),
        )
        for i in range(len(batch.action))
    ]


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("reward_dtype", ["int8", "float32"])
@pytest.mark.parametrize("can_truncate", [False, True])
@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_samples_are_exactly_the_transitions_still_in_the_ring(screen, reward_dtype, can_truncate, num_rows):
    spec = make_spec(can_truncate=can_truncate, reward_dtype=reward_dtype, screen=screen)
    capacity = 16
    replay, rows, cursor, kept = fill(spec, capacity=capacity, num_rows=num_rows)
    allowed = {
        (bytes(np.asarray(o)), int(a), float(r), bool(t), bytes(np.asarray(n)))
        for o, a, r, t, n in kept[-(capacity - 1) :]
    }
    sample = jax.jit(replay.sample)
    seen = set()
    for seed in range(8):
        batch, weight = sample(jax.random.key(seed), rows, cursor)
        np.testing.assert_array_equal(weight, 1.0)
        seen |= set(as_tuples(batch))
    assert seen == allowed


def test_latest_returns_the_last_transitions_newest_first_and_uses_no_key():
    spec = make_spec(can_truncate=True)
    replay, rows, cursor, kept = fill(spec, capacity=16, num_rows=5, kind="latest", batch_size=8)
    batch, weight = replay.sample(jax.random.key(0), rows, cursor)
    np.testing.assert_array_equal(weight, [1, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch.action[:5], [int(row[1]) for row in reversed(kept)])
    other, _ = replay.sample(jax.random.key(1), rows, cursor)
    np.testing.assert_array_equal(batch.obs, other.obs)


def test_an_empty_ring_gives_weight_zero():
    spec = make_spec(can_truncate=True)
    replay, rows, cursor, _ = fill(spec, capacity=16, num_rows=0)
    _, weight = replay.sample(jax.random.key(0), rows, cursor)
    np.testing.assert_array_equal(weight, 0.0)


@pytest.mark.parametrize("can_truncate", [False, True])
def test_a_restart_replaces_the_newest_observation_and_voids_only_what_it_cut(can_truncate):
    spec = make_spec(can_truncate=can_truncate)
    replay, rows, cursor, kept = fill(spec, capacity=32, num_rows=6, kind="latest", batch_size=6)
    rows = replay.restart(rows, cursor, jnp.uint8(250))
    batch, weight = replay.sample(jax.random.key(0), rows, cursor)
    np.testing.assert_array_equal(weight, [1.0 if can_truncate else 0.0, 1, 1, 1, 1, 1])
    if can_truncate:
        assert batch.next_obs[0] == kept[-1][4]
    rows = replay.add(
        rows, cursor, jnp.uint8(1), jnp.int32(2), jnp.float32(1), jnp.bool_(False), jnp.uint8(1)
    )
    batch, weight = replay.sample(jax.random.key(0), rows, replay_lib.advance(cursor))
    assert batch.obs[0] == 250
    assert weight[0] == 1.0


def test_an_ensemble_s_ring_is_its_members_rings():
    spec = make_spec(can_truncate=True)
    replay = replay_lib.make_replay(spec, capacity=8, batch_size=4, kind="uniform")
    first = jnp.array([1, 2, 3], jnp.uint8)
    cursor = replay_lib.first_cursor()
    values = (
        first + jnp.uint8(9),
        jnp.array([0, 1, 2]),
        jnp.array([1.0, 0.0, 1.0]),
        jnp.zeros(3, bool),
        first,
    )
    together = replay.add(replay.init(first), cursor, *values)
    for i in range(3):
        alone = replay.add(replay.init(first[i]), cursor, *(value[i] for value in values))
        np.testing.assert_array_equal(together[i], alone)
