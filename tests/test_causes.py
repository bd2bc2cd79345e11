"""Replay indices made again from keys are those that learners drew: their updates, recomputed from recorded steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cl_imitate import causes, config, visibility
from cl_imitate.histories import contexts
from cl_imitate.learners.q_networks import make_q_network
from cl_imitate.types import NUM_REPLAY_FEATURES, Causes, History
from tests.ensembles import LEARNER, copy, group

pytestmark = pytest.mark.unoptimised

NUM, STEPS = 2, 40
RING = config.Lock(
    num_positions=4, episode_steps=8, resets=False
)  # what follows a row is the row that follows it
LEARNERS = {
    "every step": LEARNER,
    "a ring that is full": dataclasses.replace(LEARNER, replay_capacity=16),
    "every other step, from the eighth on": dataclasses.replace(
        LEARNER, steps_per_update=2, learning_starts_steps=8
    ),
    "the latest": dataclasses.replace(LEARNER, replay="latest"),
}
every_learner = pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)


def replay_key(learner: config.Learner, which: int) -> jax.Array:
    return jax.random.clone(group(NUM, learner, RING).streams.replay)[which]


def drawn(learner: config.Learner, which: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The ages that learner `which` of the group drew after `step`, and which of them count."""
    key = replay_key(learner, which)
    ages, counts = causes.drawn_ages(visibility.replay_times(learner), key, jnp.int32(step))
    return np.asarray(ages), np.asarray(counts)


def updated(learner: config.Learner, state, history: History, last_obs, which: int, step: int):
    """The weights of one learner after the update that follows `step`, from the rows that were drawn."""
    ages, counts = drawn(learner, which, step)
    assert counts.any()
    rows = step - ages[counts]
    obs = np.concatenate([history.obs[which], last_obs[which][None]])
    network = make_q_network(
        group(NUM, learner, RING).family.env.spec, hidden=learner.hidden, conv_features=1, products="float32"
    )

    def loss(params):
        value = network.apply(params, jnp.asarray(obs[rows]))[
            np.arange(len(rows)), history.action[which][rows]
        ]
        following = network.apply(state.target_params, jnp.asarray(obs[rows + 1])).max(axis=1)
        target = jnp.asarray(history.reward[which][rows], jnp.float32) + learner.discount * following
        return jnp.mean(0.5 * (target - value) ** 2)

    with jax.numpy_dtype_promotion("standard"):
        grads = jax.grad(loss)(state.params)
        direction, _ = optax.scale_by_adam().update(grads, state.opt_state, state.params)
    return jax.tree.map(lambda p, d: p - learner.learning_rate * d, state.params, direction)


@every_learner
def test_a_learners_update_recomputed_from_the_recorded_steps_it_is_shown_to_have_drawn(learner):
    one, chunk = group(NUM, learner, RING), learner.steps_per_update
    before, history = one.live(one.newborn(), STEPS, chunk_steps=chunk)
    after, more = one.live(copy(before), chunk, chunk_steps=chunk)
    assert not history.terminated.any()
    history = jax.tree.map(lambda a, b: np.concatenate([a, b], axis=1), history, more)
    for which in range(NUM):
        state, expected = (
            jax.tree.map(lambda leaf, i=which: leaf[i], ensemble.learner) for ensemble in (before, after)
        )
        found = updated(learner, state, history, np.asarray(after.obs), which, STEPS + chunk - 1)
        for name, leaf in jax.tree.leaves_with_path(found):
            np.testing.assert_allclose(
                leaf, dict(jax.tree.leaves_with_path(expected.params))[name], atol=2e-6, err_msg=str(name)
            )


def test_there_are_updates_where_learners_make_them_and_nothing_is_drawn_from_before_birth():
    learner = LEARNERS["every other step, from the eighth on"]
    made = [bool(drawn(learner, 0, step)[1].any()) for step in range(-1, 14)]
    assert [step for step, is_made in zip(range(-1, 14), made, strict=True) if is_made] == [9, 11, 13]
    for step in range(12):
        ages, counts = drawn(LEARNER, 0, step)
        assert counts.all()
        assert ((ages >= 0) & (ages <= step)).all()
    full = LEARNERS["a ring that is full"]
    assert np.concatenate([drawn(full, 0, step)[0] for step in range(20, 60)]).max() == 14


def test_a_batch_is_shown_as_the_mean_of_its_ages_rotations_and_nothing_where_there_is_none():
    learner = LEARNERS["every other step, from the eighth on"]
    times, half = visibility.replay_times(learner), NUM_REPLAY_FEATURES // 2
    golden = (np.sqrt(5) - 1) / 2
    frequency = np.array([np.pi / half * (k + np.modf(golden * (k + 1) ** 2)[0]) for k in range(half)])
    for step in (-1, 3, 9, 10, 35):
        ages, counts = drawn(learner, 1, step)
        angle = ages[counts][:, None] * frequency
        expected = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
        expected = expected.mean(axis=0) if counts.any() else np.zeros(2 * half)
        found = causes.replay_features(times, replay_key(learner, 1), jnp.int32(step))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_how_often_each_step_was_drawn_can_be_told_from_what_is_shown():
    step = NUM_REPLAY_FEATURES - 8
    key = replay_key(LEARNER, 0)
    roomy = dataclasses.replace(visibility.replay_times(LEARNER), capacity=512)
    ages, counts = causes.drawn_ages(roomy, jax.random.clone(key), jnp.int32(step))
    assert counts.all()
    found = causes.replay_features(roomy, key, jnp.int32(step))
    every = np.asarray(causes._rotations(step + 1), np.float64)
    told, *_ = np.linalg.lstsq(every.T, np.asarray(found, np.float64), rcond=None)
    expected = np.bincount(np.asarray(ages), minlength=step + 1)
    np.testing.assert_allclose(told * LEARNER.batch_size, expected, atol=1e-3)


def test_an_older_step_looks_like_none_of_the_last_ones():
    rotations = np.asarray(causes._rotations(4096), np.float64)
    alike = rotations[NUM_REPLAY_FEATURES:] @ rotations[:NUM_REPLAY_FEATURES].T / (NUM_REPLAY_FEATURES / 2)
    assert np.abs(alike).max() < 0.4


def test_a_window_shows_with_each_step_what_its_learner_drew_after_the_step_before():
    one = group(NUM, LEARNER, RING)
    _, history = one.live(one.newborn(), 16, chunk_steps=8)
    times = visibility.replay_times(LEARNER)
    seed = np.arange(2 * 3, dtype=np.float32).reshape(2, 3)
    data = np.asarray(jax.random.key_data(jax.random.clone(one.streams.replay)))
    seen = history.replace(causes=Causes(replay_key_data=data, seed=seed, times=times))
    shape = {"length": 8, "end": jnp.int32(16), "num_actions": 3}
    tokens, _, _ = contexts.window(seen, jnp.int32(1), jnp.int32(4), **shape)
    for place, step in enumerate(range(4, 12)):
        expected = causes.replay_features(times, replay_key(LEARNER, 1), jnp.int32(step - 1))
        np.testing.assert_allclose(tokens.replay[place], expected, atol=1e-6)
    np.testing.assert_array_equal(tokens.seed, np.tile(seed[1], (8, 1)))
    newborn, _, _ = contexts.window(seen, jnp.int32(1), jnp.int32(0), **shape)
    assert not np.asarray(newborn.replay[0]).any()
    assert np.asarray(newborn.replay[1:]).any(axis=1).all()
    hidden, _, _ = contexts.window(history, jnp.int32(1), jnp.int32(4), **shape)
    assert hidden.replay is None
    assert hidden.seed is None
