import jax
import numpy as np
import pytest
from envs_rollout import SHAPES, rollout, sample, standard

from cl_imitate.config import Lock, Shapes
from cl_imitate.envs import tasks
from cl_imitate.envs.tabular import make_env, make_params

pytestmark = pytest.mark.unoptimised

RING = Shapes(num_symbols=8, num_actions=2, num_states=5)


def ring(**changes):
    """Positions 0 .. 3; action 1 pays and moves on, action 0 does nothing."""
    position = np.arange(4)
    params = make_params(
        shapes=RING,
        next_state=np.stack([position, (position + 1) % 4], axis=1)[..., None],
        reward_probability=np.stack([np.zeros(4), np.ones(4)], axis=1)[..., None],
        observation=position + 3,
        horizon_steps=6,
    )
    return params.replace(**{name: np.asarray(value) for name, value in changes.items()})


def play(params, actions):
    env = make_env(RING, 6)
    state, obs = env.init(jax.random.key(0), params)
    seen, rewards, finals, ends = [int(obs)], [], [], []
    step = jax.jit(env.step)
    for t, action in enumerate(actions):
        state, out = step(jax.random.fold_in(jax.random.key(1), t), params, state, np.int32(action))
        seen.append(int(out.obs))
        finals.append(int(out.final_obs))
        rewards.append(int(out.reward))
        ends.append(bool(out.truncated))
    return seen, rewards, finals, ends


def test_a_table_is_walked_and_an_episode_starts_again():
    seen, rewards, finals, ends = play(ring(), [1, 0, 1, 1, 1, 1, 1, 0])
    assert seen == [3, 4, 4, 5, 6, 3, 3, 4, 4]
    assert rewards == [1, 0, 1, 1, 1, 1, 1, 0]
    assert finals == [4, 4, 5, 6, 3, 4, 4, 4]
    assert ends == [False] * 5 + [True] + [False] * 2


def test_without_reset_an_episode_goes_on_where_the_last_one_ended():
    seen, _, finals, ends = play(ring(resets=False), [1] * 8)
    assert seen[1:] == finals == [4, 5, 6, 3, 4, 5, 6, 3]
    assert ends == [False] * 5 + [True] + [False] * 2


def test_double_press_acts_at_every_second_press_in_a_row():
    seen, rewards, *_ = play(
        ring(presses=np.int32(2), horizon_steps=np.int32(99)), [1, 1, 1, 1, 1, 0, 1, 0, 0, 1, 1]
    )
    assert rewards == [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert seen == [3, 3, 4, 4, 5, 5, 5, 5, 5, 5, 5, 6]


def test_a_press_is_forgotten_at_the_end_of_an_episode():
    _, rewards, *_ = play(ring(presses=np.int32(2), horizon_steps=np.int32(3)), [1, 1, 1, 1, 1, 1])
    assert rewards == [0, 1, 0, 0, 1, 0]


def test_delayed_reward_is_paid_every_so_often_and_at_the_end():
    _, rewards, *_ = play(ring(reward_every=np.int32(4)), [1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0])
    assert rewards == [0, 0, 0, 3, 0, 2, 0, 0, 0, 1, 0, 0]


def test_a_ring_grows_with_age_and_over_episodes():
    growing = ring(initial_states=np.int32(1), grow_every_steps=np.int32(4), resets=np.bool_(False))
    seen, *_ = play(growing, [1] * 22)
    one, two, three, four = [3] * 4, [4, 3, 4, 3], [4, 5, 3, 4], [5, 6, 3, 4, 5, 6, 3, 4, 5, 6]
    assert seen[1:] == one + two + three + four


def test_a_ring_that_does_not_grow_keeps_its_first_size():
    assert play(ring(initial_states=np.int32(2), resets=np.bool_(False)), [1] * 4)[0] == [3, 4, 3, 4, 3]


def test_outcomes_and_rewards_come_with_their_probabilities():
    shapes = Shapes(num_symbols=4, num_actions=2, num_states=4, num_outcomes=3)
    params = make_params(
        shapes=shapes,
        next_state=np.broadcast_to([1, 2], (3, 2, 2)),
        outcome_probability=np.broadcast_to([0.2, 0.8], (3, 2, 2)),
        reward_probability=np.broadcast_to([0.5, 0.1], (3, 2, 2)),
        observation=np.arange(3),
        horizon_steps=10**6,
    )
    env = make_env(shapes, 10**6)
    state, _ = env.init(jax.random.key(0), params)
    num = 20_000
    steps = jax.jit(jax.vmap(env.step, (0, None, None, None)))
    _, out = steps(jax.random.split(jax.random.key(1), num), params, state, np.int32(0))
    is_first = np.asarray(out.obs) == 1
    assert set(np.unique(out.obs)) == {1, 2}  # the padded third outcome never comes
    for values, expected in (
        (is_first, 0.2),
        (np.asarray(out.reward)[is_first], 0.5),
        (np.asarray(out.reward)[~is_first], 0.1),
    ):
        assert abs(values.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / values.size)


def test_a_padded_outcome_leads_where_the_last_real_one_does():
    _, params, _ = standard("dark_room")
    next_state = np.asarray(params.next_state)
    assert np.array_equal(next_state[..., 1:], next_state[..., :1].repeat(2, axis=-1))
    assert not np.asarray(params.outcome_probability)[..., 1:].any()


def test_one_outcome_costs_no_sampling():
    jaxpr = jax.make_jaxpr(make_env(RING, 6).step)
    env = make_env(RING, 6)
    state, _ = env.init(jax.random.key(0), ring())
    text = str(jaxpr(jax.random.key(0), ring(), state, np.int32(0)))
    assert "cumsum" not in text
    assert "cond[" not in text


def test_starts_are_uniform_where_there_are_several():
    _, params, _ = standard("bandit_contexts")
    family = standard("bandit_contexts")[0]
    one = jax.tree.map(lambda leaf: leaf[0], params)
    _, obs = jax.jit(jax.vmap(family.env.init, (0, None)))(jax.random.split(jax.random.key(0), 3000), one)
    counts = np.bincount(obs, minlength=3)
    assert len(counts) == 3
    assert ((counts - 1000) ** 2 / 1000).sum() < 13.8  # chi-squared, 2 degrees, p = 0.001


def test_tables_of_another_number_of_actions_are_an_error():
    with pytest.raises(ValueError, match=r"3 actions, shapes.num_actions is 2"):
        make_params(
            shapes=RING,
            next_state=np.zeros((4, 3, 1)),
            reward_probability=np.zeros((4, 3, 1)),
            observation=np.zeros(4),
            horizon_steps=1,
        )


@pytest.mark.parametrize("on_wrong", ["stay", "advance", "reset"])
def test_lock_moves_on_only_as_configured(on_wrong):
    family = tasks.make(Lock(on_wrong=on_wrong, episode_steps=16), shapes=SHAPES)
    params = sample(family)
    run = rollout(family, params)
    n, t = np.arange(64), 3
    position, after = run.state.state[t - 1], run.state.state[t]
    is_right = np.asarray(params.reward_probability)[n, position, run.action[t], 0] == 1
    wrong = {"stay": position, "advance": (position + 1) % 8, "reset": 0 * position}[on_wrong]
    assert np.array_equal(run.out.reward[t], is_right)
    assert np.array_equal(after, np.where(is_right, (position + 1) % 8, wrong))


def test_the_observation_of_key_to_door_does_not_show_the_key():
    family, params, run = standard("key_to_door")
    for n in range(64):
        by_symbol = np.asarray(params.observation)[n]
        assert np.array_equal(by_symbol[:25], by_symbol[25:50])
    returns = run.out.reward.reshape(-1, 50, 64).sum(axis=1)
    assert set(np.unique(returns)) == {0.0, 1.0, 2.0}
    assert family.env.spec.episode_steps == 50


@pytest.mark.parametrize("on_wrong", ["stay", "advance", "reset"])
@pytest.mark.parametrize(("first", "every", "since"), [(2, 8, 0), (3, 16, 40), (2, 1, 64), (6, 5, 200)])
def test_an_open_ended_lock_lives_as_an_oracle_in_numpy_says(on_wrong, first, every, since):
    """Its ring has `first` positions until it grows: the oracle holds the ring as a list, and makes it longer."""
    environment = Lock(
        num_positions=6,
        resets=False,
        on_wrong=on_wrong,
        symbols="per_task",
        initial_positions=first,
        grow_every_steps=every,
        grow_from_step=since,
    )
    family = tasks.make(environment, shapes=SHAPES)
    params, run = sample(family), rollout(family, sample(family))
    right = np.asarray(params.reward_probability)[:, :6, :, 0].argmax(axis=2)  # the code, [N, 6]
    shown = np.asarray(params.observation)[:, :6]
    num_steps, num_lives = run.action.shape
    for life in range(0, num_lives, 9):
        ring, position = list(range(first)), 0
        for age in range(num_steps):
            assert run.obs[age, life] == shown[life, position]
            if age > since and (age - since) % every == 0 and len(ring) < 6:
                ring.append(len(ring))
            is_right = run.action[age, life] == right[life, position]
            assert run.out.reward[age, life] == float(is_right)
            if is_right or on_wrong == "advance":
                position = ring[(position + 1) % len(ring)] if position + 1 < len(ring) else ring[0]
            elif on_wrong == "reset":
                position = 0
