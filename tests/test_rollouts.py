"""The arms of one cell, in a world whose rewards are coins that no action can touch: equal keys, equal returns."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import keys, load_config, populations, simulate
from cl_imitate.evaluation import prompts, rollouts
from cl_imitate.evaluation.closed_loop import Frozen, Members, start
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.learner_arms import learner_arm, learner_arms, transplanted
from cl_imitate.evaluation.protocols import Protocol, protocols
from cl_imitate.evaluation.scene import (
    Count,
    Scene,
    last_episode_end,
    make_prompt,
    make_scene,
    part_name,
    prompt_for,
)
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import History

pytestmark = pytest.mark.unoptimised

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
START, CONTEXT, SEEDS = 32, 16, 2
SPAN = Protocol(
    name="process",
    label="coins",
    population="held_out",
    fork_step=START,
    prompt_step=START,
    learner_step=START,
    horizon_steps=32,
    now_steps=32,
    masked=True,
    transplant=True,
)


@functools.cache
def experiment():
    return load_config.load(
        SMOKE,
        (
            "environment={family='bandit',num_contexts=2,episode_steps=8}",
            "shapes.num_outcomes=2",
            "evaluation.rungs=[]",
            "evaluation.months=[]",
            "learner.epsilon_start=0.5",
            "learner.epsilon_end=0.1",
            "learner.epsilon_decay_steps=64",
        ),
    )


@functools.cache
def lived() -> tuple[populations.Population, simulate.Ensemble, History]:
    """Held-out learners with coins for rewards: the context decides how they are loaded, never the action."""
    population = populations.make("held_out", experiment())
    coins = jnp.full_like(population.env_params.reward_probability, 0.2).at[:, 1].set(0.8)
    population = dataclasses.replace(
        population, env_params=population.env_params.replace(reward_probability=coins)
    )
    [(ensemble, history)] = simulate.advance(
        population.newborn(),
        population.streams,
        population.env_params,
        population.rates,
        **population.static,
        num_steps=START,
        chunk_steps=START,
    )
    return population, jax.tree.map(jnp.copy, ensemble), jax.tree.map(np.asarray, history)


def scene(protocol: Protocol = SPAN, **changes) -> Scene:
    population, snapshot, past = lived()
    made = make_scene(
        protocol, 3, experiment(), population, snapshot, population, past, chunk_steps=16, best_history=1.0
    )
    return dataclasses.replace(made, **changes)


@functools.cache
def frozen() -> Frozen:
    population, _, _ = lived()
    imitator = make_imitator(experiment().imitator, population.family.env.spec, context_steps=CONTEXT)
    params = jax.vmap(imitator.init)(keys.members(keys.root(5), SEEDS))
    return Frozen(imitator=imitator, context_steps=CONTEXT, params=params, num_seeds=SEEDS)


def nothing(_: int) -> None:
    pass


def run(one: Scene):
    count = Count()
    learners = learner_arms(one, one.snapshot, count=count, tick=nothing)
    return rollouts.run_protocol(one, learners, frozen(), source_step=START, count=count, tick=nothing), count


def test_all_arms_of_a_cell_meet_the_same_coins():
    [cell], count = run(scene())
    arms = {
        *("imitator", "imitator_argmax", "imitator_wiped", "imitator_masked", "imitator_prompted"),
        *("learner", "learner_held", "learner_transplanted"),
    }
    assert set(cell.returns) == arms | {"random"}
    coins = cell.returns["learner"][0]
    assert len(np.unique(coins)) > 2  # coins, not constants
    for arm in arms:
        for seed in cell.returns[arm]:
            np.testing.assert_array_equal(seed, coins, err_msg=arm)
    assert count.td_updates == 2 * 32 * 4  # going on and transplanted; four learners, one update a step


def test_the_held_learner_is_followed_to_the_end_where_the_task_grows_and_judged_on_its_first_steps():
    whole = dataclasses.replace(SPAN, horizon_steps=64, now_steps=16, held_whole=True)
    found = {
        name: learner_arms(one, one.snapshot, count=Count(), tick=nothing)
        for name, one in (
            ("whole", scene(whole)),
            ("now", scene(dataclasses.replace(whole, held_whole=False))),
        )
    }
    held = {name: np.isfinite(one.returns["learner_held"]).all(axis=(0, 1)) for name, one in found.items()}
    assert held["whole"].all()
    assert not held["now"][-1]
    jax.tree.map(np.testing.assert_array_equal, found["whole"].held_history, found["now"].held_history)
    assert found["whole"].held_history.action.shape[1] == 16


def test_other_keys_or_another_age_are_other_coins():
    """The test above would see an arm that took its own."""
    [cell], _ = run(scene())
    one = scene()
    arms = {}
    for name, changed in {
        "env_keys": dataclasses.replace(one, env_keys=keys.members(keys.root(99), 4)),
        "age": dataclasses.replace(one, protocol=dataclasses.replace(SPAN, learner_step=START + 8)),
    }.items():
        arms[name] = imitator_arms(
            changed,
            frozen(),
            ways=("imitator",),
            prompt_step=START,
            num_steps=32,
            count=Count(),
            tick=nothing,
        ).returns["imitator"]
    for name, returns in arms.items():
        assert (returns[0] != cell.returns["learner"][0]).any(), name


def test_where_nothing_is_known_the_random_policy_is_run_with_the_same_keys():
    population, _, _ = lived()
    unknown = dataclasses.replace(population, family=population.family._replace(exact_return=None))
    [cell], _ = run(scene(population=unknown))
    np.testing.assert_allclose(cell.random_return, cell.returns["learner"][0].mean(axis=-1), rtol=1e-6)
    assert np.isnan(cell.optimal_return).all()
    assert not cell.ceiling_is_exact


def test_a_cell_s_ceiling_is_for_the_epsilon_at_the_end_of_its_span():
    [cell], _ = run(scene())
    assert cell.epsilon_at_start == pytest.approx(0.3)  # half of the decay of 64 steps
    assert cell.epsilon == pytest.approx(0.1)
    population, _, _ = lived()
    exact = population.family.exact_return(population.env_params, 0.1, age=START)
    np.testing.assert_allclose(cell.ceiling_return, exact)


def test_a_held_learner_acts_at_the_fork_s_epsilon():
    one = scene(dataclasses.replace(SPAN, horizon_steps=512, now_steps=512), block_steps=16)
    arm = learner_arm(one, "held", num_steps=512, hold=True, keeps_history=True, count=Count(), tick=nothing)
    share = arm.history.explored.mean()
    assert 0.25 < share < 0.35  # 0.3 at the fork; going on, it would fall to 0.1


def test_a_prompt_ends_with_the_last_whole_episode():
    done = np.zeros((2, 12), bool)
    done[0, [3, 9]] = True
    past = lived()[2].replace(terminated=done, truncated=np.zeros_like(done))
    np.testing.assert_array_equal(last_episode_end(past, 12), [10, 0])
    np.testing.assert_array_equal(last_episode_end(past, 9), [4, 0])
    _, _, whole = lived()
    prompt = make_prompt(scene(), START, length=CONTEXT)
    np.testing.assert_array_equal(prompt.last_action, whole.action[:, START - 1])
    np.testing.assert_array_equal(prompt.last_reward, whole.reward[:, START - 1])
    np.testing.assert_array_equal(prompt.tokens.obs, whole.obs[:, START - CONTEXT : START])
    assert prompt.is_there.all()


@pytest.mark.parametrize("kind", ["linear_recurrence", "gru"])
def test_an_imitator_without_a_window_is_prompted_with_the_whole_history(kind):
    spec = lived()[0].family.env.spec
    config = dataclasses.replace(experiment().imitator, kind=kind, width=16, num_heads=2)
    imitator = make_imitator(config, spec, context_steps=12)  # 32 steps: two whole pieces and one of 8
    params = jax.vmap(imitator.init)(jax.random.split(jax.random.key(0), SEEDS))
    frozen = Frozen(imitator=imitator, context_steps=12, params=params, num_seeds=SEEDS)
    prompt = prompt_for(frozen, scene(), START)
    assert len(prompt.earlier) == 2
    num = prompt.is_there.shape[0]
    read = functools.partial(
        prompts.read, params, prompts.empty_memory(imitator, SEEDS, num), imitator=imitator
    )
    at_once = read(make_prompt(scene(), START, length=START))
    for one, other in zip(jax.tree.leaves(read(prompt)), jax.tree.leaves(at_once), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    last = read(make_prompt(scene(), START, length=12))
    assert not np.allclose(jax.tree.leaves(last)[0], jax.tree.leaves(at_once)[0], rtol=1e-3)


def test_a_transformer_is_prompted_with_its_window_alone():
    imitator = make_imitator(experiment().imitator, lived()[0].family.env.spec, context_steps=12)
    frozen = Frozen(imitator=imitator, context_steps=12, params=None, num_seeds=SEEDS)
    assert prompt_for(frozen, scene(), START).earlier == ()


def test_who_has_ended_no_episode_begins_with_an_empty_context_and_is_told_so():
    past = lived()[2]
    done = np.asarray(past.truncated).copy()
    done[0] = False
    unended = dataclasses.replace(scene(), past=past.replace(truncated=done))
    prompt = make_prompt(unended, START, length=CONTEXT)
    assert np.asarray(prompt.is_empty).tolist() == [True] + [False] * (len(done) - 1)
    spec = lived()[0].family.env.spec
    imitator = make_imitator(experiment().imitator, spec, context_steps=CONTEXT)
    params = jax.vmap(imitator.init)(jax.random.split(jax.random.key(0), 1))
    off = jnp.zeros(1, bool)
    rollout = start(
        Members(params=params, is_argmax=off, wipes=off, masks=off),
        unended.snapshot.env_state,
        jnp.zeros(len(done), jnp.int32),
        prompt,
        imitator=imitator,
        spec=spec,
        start_step=START,
        num_blocks=1,
    )
    np.testing.assert_array_equal(rollout.is_begin[0], prompt.is_empty)
    np.testing.assert_array_equal(rollout.prev_done[0], ~prompt.is_empty)
    assert (int(rollout.prev_action[0, 0]), float(rollout.prev_reward[0, 0])) == (0, 0.0)
    np.testing.assert_array_equal(rollout.prev_action[0, 1:], past.action[1:, START - 1])


def test_a_transplanted_learner_keeps_weights_and_age_and_forgets_its_replay():
    population, snapshot, _ = lived()
    newborn = population.newborn()
    moved = transplanted(scene(snapshot=newborn), snapshot)
    for kept, own in zip(
        jax.tree.leaves((moved.learner.params, moved.learner.opt_state)),
        jax.tree.leaves((snapshot.learner.params, snapshot.learner.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(kept, own)
    assert int(moved.clock.step) == START
    assert int(moved.clock.env_step) == 0
    assert int(moved.clock.cursor.num_added) == 1


def test_arms_of_other_words_have_other_names():
    words = ["rung 1 a b", "rung 1 a_b", "rung 1 A b", "rung 1 a b ", "rung 1 (a, b)", "x" * 200, "x" * 201]
    names = {part_name(one, "learner").lower() for one in words}
    assert len(names) == len(words)
    assert all(re.fullmatch(r"[a-z0-9._+-]+", name) for name in names)


@pytest.mark.parametrize(
    ("every", "start", "initial", "is_followed"),
    [
        (0, 0, 2, [False, False]),
        (16, 0, 2, [False, False]),  # full at 32, before both forks
        (48, 0, 2, [True, False]),  # full at 96, between them
        (48, 64, 2, [True, True]),  # at 112 and at 160
        (16, 0, 0, [False, False]),  # of its full size from the first
        (16, 1000, 2, [False, False]),
    ],
)
def test_where_the_ring_grows_after_a_fork_the_held_learner_is_followed_over_all_of_later(
    every, start, initial, is_followed
):
    growth = {"grow_every_steps": every, "grow_from_step": start, "initial_positions": initial}
    cells = protocols(
        load_config.load(SMOKE, [f"environment.{key}={value}" for key, value in growth.items()])
    )
    assert [one.held_whole for one in cells if one.name == "now_and_later"] == is_followed
    assert not any(one.held_whole for one in cells if one.name != "now_and_later")
