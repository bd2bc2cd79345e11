import itertools

import jax
import numpy as np
import pytest
from envs_rollout import ENVIRONMENTS, GAMES, SHAPES, TABULAR, first, rollout, sample, standard

from cl_imitate import keys
from cl_imitate.config import Bandit, DarkRoom, KeyToDoor, Lock, MinAtar, RandomMDP, Shapes
from cl_imitate.envs import tasks
from cl_imitate.envs.tabular import TabularParams

pytestmark = pytest.mark.unoptimised

each = pytest.mark.parametrize("name", ENVIRONMENTS)


def avals(tree):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


def task_bytes(params):
    """Tasks as bytes, so that equal tasks are equal."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return {b"".join(leaf[i].tobytes() for leaf in leaves) for i in range(len(leaves[0]))}


@each
def test_a_step_returns_what_the_spec_says(name):
    family, _, run = standard(name)
    spec = family.env.spec
    assert run.out.obs.dtype == run.out.final_obs.dtype == np.uint8
    assert run.out.obs.shape == run.out.final_obs.shape == (*run.out.reward.shape, *spec.observation.shape)
    assert run.out.reward.dtype == np.float32
    assert spec.reward_dtype == "int8"
    assert np.array_equal(run.out.reward, run.out.reward.astype(np.int8))
    assert run.out.terminated.dtype == run.out.truncated.dtype == np.bool_
    if not spec.observation.shape:
        assert run.out.obs.max() < spec.observation.num_symbols


@each
def test_a_step_keeps_every_type_so_that_the_second_one_is_not_traced_again(name):
    family, params, _ = standard(name)
    one = jax.tree.map(lambda leaf: leaf[0], params)
    key, action = jax.random.key(0), jax.numpy.int32(0)
    state, obs = jax.eval_shape(family.env.init, key, one)
    after_reset, reset_obs = jax.eval_shape(family.env.reset, key, one, state)
    after_step, out = jax.eval_shape(family.env.step, key, one, state, action)
    assert avals(state) == avals(after_reset) == avals(after_step)
    assert avals(obs) == avals(reset_obs) == avals(out.obs) == avals(out.final_obs)
    assert not any(weak for _, _, weak in avals(state) + avals(out))


@each
def test_terminated_and_truncated_are_never_both_and_episodes_have_their_length(name):
    family, _, run = standard(name)
    spec = family.env.spec
    assert not (run.out.terminated & run.out.truncated).any()
    assert spec.can_truncate or not run.out.truncated.any()
    if spec.episode_steps is not None:
        is_last = np.arange(1, len(run.out.truncated) + 1) % spec.episode_steps == 0
        assert (run.out.truncated == is_last[:, None]).all()


@each
def test_age_counts_every_step_over_episodes(name):
    *_, run = standard(name)
    assert (run.state.age == np.arange(1, len(run.state.age) + 1)[:, None]).all()


@pytest.mark.parametrize(
    "name", [name for name in ENVIRONMENTS if name not in ("freeway", "lock_endless", "cart_pole")]
)
def test_the_end_of_an_episode_shows_a_first_observation_and_keeps_the_final_one(name):
    family, params, run = standard(name)
    done = run.out.terminated | run.out.truncated
    assert done.any()
    inside = ~done
    assert np.array_equal(run.out.obs[inside], run.out.final_obs[inside])
    assert not np.array_equal(run.out.obs[done], run.out.final_obs[done]) or name == "bandit"
    starts = [np.asarray(first(family.env, jax.random.key(seed), params)[1]) for seed in range(20)]
    for n in range(done.shape[1]):
        allowed = {start[n].tobytes() for start in starts}
        assert {obs.tobytes() for obs in run.out.obs[done[:, n], n]} <= allowed


@each
def test_a_reset_begins_an_episode_and_keeps_the_age(name):
    family, params, run = standard(name)
    state = jax.tree.map(lambda leaf: leaf[6], run.state)
    after, obs = jax.jit(jax.vmap(family.env.reset))(keys.members(jax.random.key(1), 64), params, state)
    assert (np.asarray(after.age) == 7).all()
    assert (np.asarray(after.step_in_episode) == 0).all()
    assert name == "cart_pole" or (np.asarray(after.pending_reward) == 0).all()
    if name == "lock_endless":
        assert np.array_equal(obs, run.out.obs[6])
        assert np.array_equal(after.state, run.state.state[6])


@pytest.mark.parametrize("name", [*TABULAR, "breakout"])
def test_one_environment_alone_is_bit_equal_to_its_slice_of_many(name):
    family, params, run = standard(name)
    one = jax.tree.map(lambda leaf: leaf[3], params)
    init_key, run_key = jax.random.split(jax.random.key(0))
    state, obs = family.env.init(keys.member(init_key, 3), one)
    assert np.array_equal(obs, run.obs[0, 3])
    step = jax.jit(lambda *args: family.env.step(*args))  # a function of its own has a cache of its own
    for t in range(25):
        key = keys.member(keys.at_step(run_key, t), 3)
        if t < 2 and name in TABULAR:
            eager = family.env.step(jax.random.clone(key), one, state, run.action[t, 3])
            jitted = step(jax.random.clone(key), one, state, run.action[t, 3])
            jax.tree.map(np.testing.assert_array_equal, eager, jitted)
        state, out = step(key, one, state, run.action[t, 3])
        expected = jax.tree.map(lambda leaf, t=t: leaf[t, 3], (run.state, run.out))
        jax.tree.map(np.testing.assert_array_equal, (state, out), expected)
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", [name for name in TABULAR if name != "dark_room_torus"])
def test_train_and_held_out_tasks_are_disjoint(name):
    """In the torus room tasks differ in their start too, which is not hidden; see test_envs_splits."""
    found = {}
    for split in ("train", "held_out"):
        family = tasks.make(TABULAR[name], shapes=SHAPES, split=split)
        task_keys = keys.members(jax.random.key(0), 500)
        found[split] = task_bytes(jax.jit(jax.vmap(family.sample))(task_keys))
        assert len(found[split]) > 1
    assert not found["train"] & found["held_out"]


@pytest.mark.parametrize("name", ["lock_endless", "dark_room_torus", "random_mdp"])
def test_a_task_depends_on_its_key_alone(name):
    family = tasks.make(TABULAR[name], shapes=SHAPES)
    many = sample(family)
    one = jax.jit(family.sample)(keys.member(jax.random.key(0), 2))
    jax.tree.map(lambda leaf, leaves: np.testing.assert_array_equal(leaf, leaves[2]), one, many)


# For each leaf: a family in which it can be seen, and what it is changed to.
CHANGES = {
    "next_state": ("dark_room", lambda leaf: np.roll(leaf, 1, axis=2)),
    "outcome_probability": ("bandit_contexts", lambda leaf: np.ones_like(leaf) * [0.9, 0.05, 0.05]),
    "reward_probability": ("lock", lambda leaf: leaf * 0.5),
    "observation": ("lock", lambda leaf: leaf + 1),
    "num_states": ("lock_endless", lambda leaf: np.full_like(leaf, 2)),
    "start_state": ("dark_room", lambda leaf: leaf + 1),
    "num_start_states": ("bandit_contexts", lambda leaf: np.full_like(leaf, 1)),
    "resets": ("lock", lambda leaf: ~leaf),
    "horizon_steps": ("lock", lambda leaf: leaf - 1),
    "reward_every": ("lock", lambda leaf: leaf + 1),
    "presses": ("lock", lambda leaf: leaf + 1),
    "initial_states": ("lock", lambda leaf: leaf - 5),
    "grow_every_steps": ("lock_endless", lambda leaf: leaf + 100),
    "grow_from_step": ("lock_endless", lambda leaf: leaf + 60),
}


@pytest.mark.parametrize("leaf", CHANGES)
def test_every_parameter_of_a_task_changes_the_trajectory(leaf):
    name, change = CHANGES[leaf]
    family, params, run = standard(name)
    old = np.asarray(getattr(params, leaf))
    changed = rollout(family, params.replace(**{leaf: change(old).astype(old.dtype)}))
    assert any(
        not np.array_equal(before, after)
        for before, after in zip(jax.tree.leaves(run.out), jax.tree.leaves(changed.out), strict=True)
    )


def test_every_parameter_of_a_task_is_in_that_test():
    assert set(CHANGES) == set(TabularParams.__dataclass_fields__)


def test_every_hidden_parameter_of_every_family_reaches_its_table():
    for environment in (
        Lock(symbols="per_task"),
        DarkRoom(size=5, start="random_per_task"),
        KeyToDoor(size=5),
        Bandit(num_contexts=2),
        RandomMDP(),
    ):
        family = tasks._TABULAR[type(environment)]
        task = family.sample_task(jax.random.key(0), environment, SHAPES, "train")
        other = family.sample_task(jax.random.key(1), environment, SHAPES, "train")
        for field in task.__dataclass_fields__:
            mixed = task.replace(**{field: getattr(other, field)})
            tables = [
                task_bytes([np.asarray(leaf)[None] for leaf in jax.tree.leaves(params)])
                for params in (family.tabulate(which, environment, SHAPES) for which in (task, mixed))
            ]
            assert tables[0] != tables[1], field


def test_symbolic_families_share_one_program():
    made = [tasks.make(TABULAR[name], shapes=SHAPES) for name in ("dark_room", "random_mdp")]
    assert made[0].env is made[1].env
    shapes = [avals(jax.eval_shape(family.sample, jax.random.key(0))) for family in made]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("environment", "shapes", "words"),
    [
        (Lock(num_positions=65), SHAPES, ["lock", "num_states = 65", "shapes.num_states = 64"]),
        (Lock(num_positions=60), Shapes(num_symbols=32), ["num_symbols = 60", "shapes.num_symbols = 32"]),
        (KeyToDoor(size=9), Shapes(), ["num_states = 163"]),
        (DarkRoom(size=5), Shapes(num_actions=4), ["num_actions = 5"]),
        (Bandit(num_contexts=4), SHAPES, ["num_outcomes = 4", "shapes.num_outcomes = 3"]),
        (RandomMDP(num_outcomes=4), SHAPES, ["num_outcomes = 4"]),
        (Lock(grow_every_steps=16), SHAPES, ["grow_every_steps = 16", "never grows", "initial_positions"]),
        (Lock(initial_positions=9), SHAPES, ["initial_positions = 9", "num_positions = 8"]),
        (DarkRoom(size=2, num_held_out_goals=4), SHAPES, ["4 of 4", "0 to 3"]),
    ],
)
def test_a_family_that_does_not_fit_says_what_and_how_to_mend_it(environment, shapes, words):
    with pytest.raises(ValueError, match="Fix") as error:
        tasks.make(environment, shapes=shapes)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="held-out split is empty"):
        tasks.make(DarkRoom(num_held_out_goals=0), shapes=Shapes(), split="held_out")


def test_the_registry_names_and_describes_every_family():
    assert set(tasks.names()) == {environment.family for environment in ENVIRONMENTS.values()}
    assert [line.split()[0] for line in tasks.describe()] == list(tasks.names())


def test_levels_are_published_where_they_cannot_be_computed():
    for name, environment in itertools.chain(TABULAR.items(), [(g, MinAtar(game=g)) for g in GAMES]):
        family = tasks.make(environment, shapes=SHAPES)
        levels = (family.published_return, family.random_return)
        if name in GAMES:
            assert family.exact_return is None
            assert levels[0] > 5 * levels[1]
        else:
            assert family.exact_return is not None
            assert levels == (None, None)
