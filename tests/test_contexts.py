import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config
from cl_imitate.histories import contexts
from cl_imitate.types import NUM_AGES, History, age_bucket

pytestmark = pytest.mark.unoptimised

NUM_LEARNERS, NUM_STEPS, NUM_ACTIONS = 5, 60, 3


def history() -> History:
    """Every observation names its learner, every action and reward its step."""
    learner, step = np.mgrid[:NUM_LEARNERS, :NUM_STEPS]
    return History(
        obs=jnp.asarray(learner * 50 + step % 50, jnp.uint8),
        action=jnp.asarray(step % NUM_ACTIONS, jnp.uint8),
        reward=jnp.asarray(step % 5, jnp.int8),
        terminated=jnp.asarray(step % 10 == 9),
        truncated=jnp.asarray(step % 10 == 4),
        explored=jnp.zeros((NUM_LEARNERS, NUM_STEPS), bool),
    )


def sample(key=0, fork=60, context=16, num=256, **changes):
    training = config.Training(**changes)
    return contexts.sample_windows(
        jax.random.key(key),
        history(),
        jnp.int32(fork),
        training=training,
        context_steps=context,
        num_windows=num,
        num_actions=NUM_ACTIONS,
    )


def test_a_window_never_crosses_two_learners_and_holds_consecutive_steps():
    context = sample()
    learner, step = np.divmod(np.asarray(context.tokens.obs, int), 50)
    assert (learner == learner[:, :1]).all()
    assert ((np.diff(step, axis=1) % 50) == 1).all()
    assert set(learner[:, 0]) == set(range(NUM_LEARNERS))


def test_a_token_tells_what_the_previous_step_brought():
    tokens, action, is_there = contexts.window(
        history(), jnp.int32(2), jnp.int32(8), length=4, end=jnp.int32(60), num_actions=NUM_ACTIONS
    )
    np.testing.assert_array_equal(tokens.obs, [108, 109, 110, 111])
    np.testing.assert_array_equal(action, [2, 0, 1, 2])
    np.testing.assert_array_equal(tokens.prev_action, [1, 2, 0, 1])
    np.testing.assert_array_equal(tokens.prev_reward, [2, 3, 4, 0])
    np.testing.assert_array_equal(tokens.prev_done, [False, False, True, False])
    np.testing.assert_array_equal(tokens.age, age_bucket(jnp.arange(8, 12)))
    assert is_there.all()
    assert not tokens.is_begin.any()


def test_only_a_history_s_first_step_is_a_beginning():
    tokens, _, is_there = contexts.window(
        history(), jnp.int32(1), jnp.int32(-2), length=5, end=jnp.int32(60), num_actions=NUM_ACTIONS
    )
    np.testing.assert_array_equal(is_there, [False, False, True, True, True])
    np.testing.assert_array_equal(tokens.is_begin, [False, False, True, False, False])
    assert tokens.prev_action[2] == NUM_ACTIONS
    assert tokens.prev_reward[2] == 0
    assert not tokens.prev_done[2]


@pytest.mark.parametrize("fork", [10, 16, 40])
def test_nothing_from_after_the_fork_is_ever_in_a_window(fork):
    context = sample(fork=fork, num=512)
    step = np.asarray(context.tokens.obs, int) % 50
    assert (step < fork).all()
    counts = np.asarray(context.weight)
    assert counts[:, : min(16, fork)].all()
    assert not counts[:, fork:].any()


def test_every_start_occurs_and_a_share_is_forced_to_the_start():
    context = sample(num=4000, start_of_history=0.25)
    start = np.asarray(context.tokens.obs[:, 0], int) % 50
    assert set(start) == set(range(45))
    assert np.asarray(context.tokens.is_begin[:, 0]).mean() == pytest.approx(0.25 + 0.75 / 45, abs=0.03)
    aligned = sample(num=512, start_every_steps=10)
    assert (np.asarray(aligned.tokens.obs[:, 0], int) % 50 % 10 == 0).all()


def test_the_age_is_hidden_in_a_share_of_windows_whole_windows_at_a_time():
    context = sample(num=4000, unknown_age=0.5)
    hidden = np.asarray(context.tokens.age) == 0
    assert (hidden == hidden[:, :1]).all()
    assert hidden[:, 0].mean() == pytest.approx(0.5, abs=0.03)


def test_after_a_skip_a_token_tells_what_the_last_step_before_it_brought():
    skip = contexts.Skip(at=jnp.int32(2), num_steps=jnp.int32(20))
    tokens, action, is_there = contexts.window(
        history(), jnp.int32(2), jnp.int32(8), length=6, end=jnp.int32(32), num_actions=NUM_ACTIONS, skip=skip
    )
    np.testing.assert_array_equal(tokens.obs[:4], [108, 109, 130, 131])
    np.testing.assert_array_equal(action[:4], np.array([8, 9, 30, 31]) % NUM_ACTIONS)
    np.testing.assert_array_equal(tokens.prev_action[:4], np.array([7, 8, 9, 30]) % NUM_ACTIONS)
    np.testing.assert_array_equal(tokens.prev_reward[:4], np.array([7, 8, 9, 30]) % 5)
    np.testing.assert_array_equal(tokens.prev_done[:4], [False, False, True, False])
    np.testing.assert_array_equal(tokens.age[:4], age_bucket(jnp.array([8, 9, 30, 31])))
    np.testing.assert_array_equal(is_there, [True] * 4 + [False] * 2)


SKIPPING = {"skip_ahead": 0.5, "start_every_steps": 5, "fork": 50, "context": 15, "num": 4000}


def test_of_the_windows_that_tell_ages_a_share_skips_from_one_end_of_an_episode_to_a_later_one():
    context = sample(**SKIPPING)
    learner, step = np.divmod(np.asarray(context.tokens.obs, int), 50)
    is_there = np.asarray(context.weight, bool)
    assert (learner == learner[:, :1]).all()
    ahead = np.where(is_there[:, 1:], np.diff(step, axis=1) - 1, 0)
    skips = ahead.sum(axis=1)
    row, place = np.nonzero(ahead)
    assert (np.bincount(row, minlength=4000) <= 1).all()
    assert set(place + 1) == {5, 10}
    assert set(skips[row]) == set(range(5, 50 - 2 * 5 + 1, 5))
    assert (step[is_there] < 50).all()
    hidden = np.asarray(context.tokens.age)[:, 0] == 0
    assert (skips[hidden] == 0).all()
    far = ~hidden & (step[:, 0] == 0)  # from there on no skip is short of room: one in nine is of no step
    assert (skips[far] > 0).mean() == pytest.approx(0.5 * (1 - (1 / 9 + 1 / 8) / 2), abs=0.06)
    ages = np.asarray(age_bucket(jnp.asarray(step)))
    told = ~hidden[:, None] & is_there
    np.testing.assert_array_equal(np.asarray(context.tokens.age)[told], ages[told])


def test_a_window_that_skips_nothing_is_what_it_is_where_none_skips():
    skipping, plain = sample(**SKIPPING), sample(**{**SKIPPING, "skip_ahead": 0.0})
    step = np.asarray(skipping.tokens.obs, int) % 50
    same = (np.asarray(skipping.weight, bool).all(axis=1)) & (np.diff(step, axis=1) == 1).all(axis=1)
    assert 0.5 < same.mean() < 0.9
    for one, other in zip(jax.tree.leaves(skipping), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(np.asarray(one)[same], np.asarray(other)[same])


def test_the_same_update_draws_the_same_windows():
    key = jax.random.key(5)
    one, two, other = (jax.random.key_data(contexts.batch_key(key, update)) for update in (7, 7, 8))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_a_prompt_ends_where_it_must_and_hides_what_is_before_birth():
    tokens, is_there = contexts.prompt_windows(
        history(), jnp.array([4, 10, 20, 60, 30]), length=8, num_actions=NUM_ACTIONS
    )
    np.testing.assert_array_equal(is_there[0], [False] * 4 + [True] * 4)
    assert is_there[1:].all()
    np.testing.assert_array_equal(np.asarray(tokens.obs[:, -1], int) % 50, [3, 9, 19, 9, 29])
    assert (np.asarray(tokens.age) == 0).all()


def test_a_prompt_tells_all_its_ages_or_none_as_a_window_of_training_does():
    told, _ = contexts.prompt_windows(
        history(), jnp.full(5, 20), length=8, num_actions=NUM_ACTIONS, tell_ages=True
    )
    np.testing.assert_array_equal(told.age, np.tile(age_bucket(jnp.arange(12, 20)), (5, 1)))


def test_ages_grow_with_the_logarithm():
    ages = np.asarray(age_bucket(jnp.array([0, 1, 3, 7, 15, 1_000_000])))
    np.testing.assert_array_equal(np.diff(ages[:5]), 2)
    assert ages[0] == 1
    assert ages[-1] < 65


def test_an_age_begins_at_the_very_step_that_doubles_it():
    for doublings in range(2, 31):  # at the first one there is no step between
        before, at = np.asarray(age_bucket(jnp.array([2**doublings - 2, 2**doublings - 1])))
        assert (before, at) == (2 * doublings, 2 * doublings + 1), doublings
    assert age_bucket(jnp.int32(2**31 - 1)) == NUM_AGES - 2


def test_a_thinned_history_holds_every_third_episode_whole_from_the_first_on():
    step = jnp.arange(2 * 40).reshape(2, 40)  # ten episodes of four steps
    whole = History(
        obs=step, action=step, reward=step, terminated=step > 90, truncated=step % 4 == 3, explored=step > 90
    )
    thinned = contexts.thin(whole, every_episodes=3, episode_steps=4)
    kept = [0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27, 36, 37, 38, 39]
    np.testing.assert_array_equal(thinned.obs, [kept, [40 + t for t in kept]])
    np.testing.assert_array_equal(thinned.truncated[0], [t % 4 == 3 for t in kept])
    for lived, expected in ((0, 0), (4, 4), (12, 4), (16, 8), (24, 8), (40, 16)):
        assert contexts.thinned_step(lived, every_episodes=3, episode_steps=4) == expected
        assert (thinned.obs[0] < lived).sum() == expected
    assert contexts.thin(whole, every_episodes=1, episode_steps=4) is whole
