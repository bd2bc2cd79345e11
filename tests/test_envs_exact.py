import itertools

import jax
import numpy as np
import pytest
from envs_rollout import SHAPES, TABULAR, assert_mean, episode_returns, rollout, sample, standard

from cl_imitate.config import DarkRoom, KeyToDoor, Lock, Shapes
from cl_imitate.envs import tasks
from cl_imitate.envs.exact import exact_return
from cl_imitate.envs.tabular import make_params

pytestmark = pytest.mark.unoptimised

TINY = Shapes(num_symbols=4, num_actions=2, num_states=4, num_outcomes=2)
EPSILONS = (0.0, 0.3, 1.0)


def tiny_mdp(seed):
    """Three states (one more is padding), two actions, two outcomes, three steps."""
    rng = np.random.default_rng(seed)
    return make_params(
        shapes=TINY,
        next_state=rng.integers(0, 3, (3, 2, 2)),
        reward_probability=rng.random((3, 2, 2)),
        outcome_probability=rng.dirichlet(np.ones(2), (3, 2)),
        observation=np.arange(3),
        start_state=1,
        horizon_steps=3,
    )


def enumerated(params, epsilon, *, age=0):
    """The best epsilon-soft expected return, by recursion over all futures; presses of 1 or 2."""
    task = jax.tree.map(np.asarray, params)

    def active(now):
        grow, grown = int(task.grow_every_steps), 0
        if grow and now > task.grow_from_step:
            grown = (now - int(task.grow_from_step)) // grow
        return min(int(task.num_states), int(task.initial_states) + grown)

    def after(state, action, t, pressed):
        acts = task.presses == 1 or pressed == action
        if not acts:
            return value(state, t + 1, action)
        total = 0.0
        for outcome in range(2):
            arrival = int(task.next_state[state, action, outcome])
            arrival = 0 if arrival >= active(age + t) else arrival
            probability = float(task.outcome_probability[state, action, outcome])
            reward = float(task.reward_probability[state, action, outcome])
            total += probability * (reward + value(arrival, t + 1, None))
        return total

    def value(state, t, pressed):
        if t == task.horizon_steps:
            return 0.0
        q = [after(state, action, t, pressed) for action in range(2)]
        return (1 - epsilon) * max(q) + epsilon * sum(q) / 2

    starts = [1] if task.resets else range(active(age))
    return np.mean([value(start, 0, None) for start in starts])


CASES = {
    "plain": {},
    "double press": {"presses": np.int32(2), "horizon_steps": np.int32(5)},
    "growing": {"initial_states": np.int32(1), "grow_every_steps": np.int32(2), "start_state": np.int32(0)},
    "without reset": {"resets": np.bool_(False)},
    "growing later": {
        "initial_states": np.int32(1),
        "grow_every_steps": np.int32(1),
        "grow_from_step": np.int32(1),
        "resets": np.bool_(False),
    },
    "growing without reset": {
        "initial_states": np.int32(1),
        "grow_every_steps": np.int32(1),
        "resets": np.bool_(False),
    },
}


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("case", CASES)
def test_the_return_equals_that_of_enumerating_all_futures(case, epsilon):
    for seed, age in itertools.product(range(3), (0, 1)):
        params = tiny_mdp(seed).replace(**CASES[case])
        if case == "growing":
            params = params.replace(start_state=np.int32(1), initial_states=np.int32(2))
        stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
        np.testing.assert_allclose(
            exact_return(stacked, epsilon, age=age)[0], enumerated(params, epsilon, age=age), rtol=1e-6
        )


def test_tasks_of_different_kinds_can_be_stacked():
    kinds = [tiny_mdp(seed).replace(**changes) for seed, changes in enumerate(CASES.values())]
    kinds[3] = kinds[3].replace(horizon_steps=np.int32(4))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *kinds)
    alone = [exact_return(jax.tree.map(lambda leaf: np.asarray(leaf)[None], kind), 0.2)[0] for kind in kinds]
    np.testing.assert_allclose(exact_return(stacked, 0.2), alone, rtol=1e-6)


def test_dark_room_has_the_published_mean_optimum_over_all_goals():
    environment = DarkRoom(size=9, episode_steps=20)
    shapes = Shapes()
    optima = []
    for split in ("train", "held_out"):
        family = tasks.make(environment, shapes=shapes, split=split)
        params = jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), 1000))
        goals = np.asarray(params.reward_probability)[:, :81, 0, 0].argmax(axis=1)  # noop on the goal pays
        _, one_of_each = np.unique(goals, return_index=True)
        optima += family.exact_return(jax.tree.map(lambda leaf, i=one_of_each: leaf[i], params), 0.0).tolist()
    assert len(optima) == 81
    assert np.mean(optima) == pytest.approx((80 * 16.5 + 20) / 81)
    assert round(np.mean(optima), 2) == 16.54


@pytest.mark.parametrize("on_wrong", ["stay", "advance", "reset"])
def test_lock_pays_one_a_step_to_perfect_knowledge_and_a_fifth_to_chance(on_wrong):
    family = tasks.make(Lock(episode_steps=16, on_wrong=on_wrong), shapes=SHAPES)
    params = sample(family)
    for epsilon, expected in ((0.0, 16.0), (0.1, 16 * 0.92), (1.0, 3.2)):
        np.testing.assert_allclose(family.exact_return(params, epsilon), expected, rtol=1e-6)


def test_key_to_door_pays_two_to_perfect_knowledge_with_time():
    family = tasks.make(KeyToDoor(size=5, episode_steps=50), shapes=SHAPES)
    np.testing.assert_allclose(family.exact_return(sample(family), 0.0), 2.0)
    hurried = tasks.make(KeyToDoor(size=5, episode_steps=1), shapes=SHAPES)
    assert hurried.exact_return(sample(hurried), 0.0).max() <= 1.0


def test_bandit_pays_the_best_arm_to_perfect_knowledge():
    family = tasks.make(TABULAR["bandit_contexts"], shapes=SHAPES)
    params = sample(family)
    arms = np.asarray(params.reward_probability)[:, :3, :, 0]
    np.testing.assert_allclose(
        family.exact_return(params, 0.0), 10 * arms.max(axis=2).mean(axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(family.exact_return(params, 1.0), 10 * arms.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in TABULAR if name != "lock_endless"])
def test_chance_earns_in_the_environment_what_was_computed(name):
    family, params, run = standard(name)
    returns = episode_returns(run, 1000 // family.env.spec.episode_steps)
    assert_mean(returns.mean(axis=1) - family.exact_return(params, 1.0), 0.0)


@pytest.mark.parametrize("changes", [{"presses": 2}, {"presses": 3}, {"reward_every": 3}])
@pytest.mark.parametrize("name", ["lock_reset", "dark_room", "random_mdp"])
def test_chance_earns_what_was_computed_with_presses_and_delay(name, changes):
    family, params, _ = standard(name)
    changed = params.replace(**{leaf: np.full(64, value, np.int32) for leaf, value in changes.items()})
    returns = episode_returns(rollout(family, changed), 1000 // family.env.spec.episode_steps)
    assert_mean(returns.mean(axis=1) - family.exact_return(changed, 1.0), 0.0)


def test_chance_earns_what_was_computed_while_states_are_still_opening():
    family, params, _ = standard("random_mdp")
    changes = {"initial_states": 1, "grow_every_steps": 8}
    params = params.replace(**{leaf: np.full(64, value, np.int32) for leaf, value in changes.items()})
    returns = episode_returns(rollout(family, params), 5)
    for episode in range(5):
        computed = family.exact_return(params, 1.0, age=20 * episode)
        assert_mean(returns[:, episode] - computed, 0.0)
    assert np.std(family.exact_return(params, 1.0) - family.exact_return(params, 1.0, age=20)) > 0.5


def test_a_task_without_a_leading_axis_is_an_error():
    with pytest.raises(ValueError, match=r"needed: \[n, S, A, O\]"):
        exact_return(tiny_mdp(0), 0.0)
