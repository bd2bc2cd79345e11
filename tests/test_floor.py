"""Clones on a small Lock: what is hidden differs and nothing else, and each figure against its definition."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from cl_imitate import config, keys, load_config, populations, simulate
from cl_imitate.evaluation import divergence
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.controls import floor
from cl_imitate.evaluation.controls.study import Study
from cl_imitate.evaluation.scene import make_prompt
from cl_imitate.imitators.make import make_imitator

pytestmark = pytest.mark.unoptimised

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
LEARNERS, CLONES, FORK, LATER = 2, 4, 64, 64


def experiment(**learner: Any) -> config.Experiment:
    smoke = load_config.load(SMOKE)
    return dataclasses.replace(
        smoke,
        learner=dataclasses.replace(smoke.learner, **learner),
        controls=config.Controls(
            run=("floor",), floor_learners=LEARNERS, floor_clones=CLONES, floor_states=8
        ),
    )


def make_study(of: config.Experiment) -> Study:
    held_out = populations.make("held_out", of)
    [(snapshot, history)] = simulate.advance(
        held_out.newborn(),
        held_out.streams,
        held_out.env_params,
        held_out.rates,
        **held_out.static,
        num_steps=FORK,
        chunk_steps=FORK,
    )
    assert snapshot is not None
    history = jax.tree.map(np.asarray, history)
    kept = jax.tree.map(np.asarray, snapshot)
    imitator = make_imitator(of.imitator, held_out.family.env.spec, context_steps=16)
    params = jax.vmap(imitator.init)(keys.members(jax.random.key(0), 2))
    frozen = Frozen(imitator=imitator, context_steps=16, params=params, num_seeds=2)
    return Study(
        experiment=of,
        spec=held_out.family.env.spec,
        chunk_steps=32,
        population=lambda name: populations.make(name, of),
        snapshot=lambda population, step: kept,
        history=lambda name: history,
        imitators={of.imitator.context_steps: {FORK: frozen}},
        tick=lambda steps: None,
    )


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study(experiment())


@pytest.fixture(scope="module")
def measured(study) -> dict[str, np.ndarray]:
    return floor.measure(study)


@pytest.fixture(scope="module")
def clones(study) -> tuple[Any, Any, np.ndarray]:
    scene = floor.later_scene(study, LEARNERS)
    looks = floor._looks(study.experiment, study.chunk_steps)
    states = looks[:, None] - 1 - np.arange(8)[::-1]
    return scene, floor._Clones(study, scene, looks, states, own_environment=False), states


def test_clone_zero_is_the_learner_that_goes_on_bit_for_bit(study, clones):
    scene, lived, _ = clones
    population = scene.population
    begun = simulate.begin_episode(
        floor.rows(scene.snapshot, np.arange(LEARNERS)),
        jax.random.clone(scene.reset_keys),
        population.env_params,
        env=population.family.env,
        dqn=population.dqn,
    )
    streams = population.streams.replace(env=scene.env_keys)
    chunks = simulate.advance(
        begun, streams, population.env_params, population.rates, **population.static, num_steps=LATER,
        chunk_steps=32,
    )  # fmt: skip
    history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *[one for _, one in chunks])
    for name in ("obs", "action", "reward", "explored"):
        np.testing.assert_array_equal(getattr(lived.history, name), getattr(history, name))


def test_an_imitator_that_is_its_learner_at_every_step_has_no_excess(monkeypatch):
    """Where clones do not differ the floor is nothing, and how a learner moves from step to step adds nothing to it."""
    study = make_study(experiment(replay="latest", epsilon_start=0.0, epsilon_end=0.0, learning_rate=3e-2))
    scene = floor.later_scene(study, LEARNERS)
    population = scene.population
    begun = simulate.begin_episode(
        floor.rows(scene.snapshot, np.arange(LEARNERS)), jax.random.clone(scene.reset_keys), population.env_params,
        env=population.family.env, dqn=population.dqn,
    )  # fmt: skip
    said = [floor._policies(population, begun, np.asarray(begun.obs)[:, None])[:, 0]]
    for kept, _ in simulate.advance(
        begun, population.streams.replace(env=scene.env_keys), population.env_params, population.rates,
        **population.static, num_steps=LATER, chunk_steps=1, keep_steps=range(FORK + LATER),
    ):  # fmt: skip
        assert kept is not None
        said.append(floor._policies(population, kept, np.asarray(kept.obs)[:, None])[:, 0])
    own = np.log(np.maximum(np.stack(said, axis=1), 1e-6))  # [L, T + 1, A]

    monkeypatch.setattr(
        divergence, "forced_over", lambda imitator, params, prompt, history, wanted: own[None][:, :, wanted]
    )
    found = floor.measure(study)
    assert (found["clone_tv"] == 0).all()
    assert found["imitator_tv"].max() < 1e-4
    assert found["imitator_nats"].max() < 1e-3
    assert (np.diff(own.argmax(axis=-1), axis=1) != 0).mean() > 0.1  # it does move


def key_numbers(found: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.key_data(found)).reshape(LEARNERS, CLONES, -1)


def test_clones_differ_in_exploration_and_replay_and_share_their_environment(clones):
    scene, _, _ = clones
    shared = floor.clone_streams(scene.population, scene.env_keys, CLONES, own_environment=False)
    own = floor.clone_streams(scene.population, scene.env_keys, CLONES, own_environment=True)
    for name in ("act", "replay"):
        numbers = key_numbers(getattr(shared, name))
        assert len(np.unique(numbers.reshape(-1, numbers.shape[-1]), axis=0)) == LEARNERS * CLONES
        np.testing.assert_array_equal(numbers, key_numbers(getattr(own, name)))
    assert (key_numbers(shared.env) == key_numbers(shared.env)[:, :1]).all()
    numbers = key_numbers(own.env)  # those of a Lock change nothing, but others' would
    assert len(np.unique(numbers.reshape(-1, numbers.shape[-1]), axis=0)) == LEARNERS * CLONES
    np.testing.assert_array_equal(numbers[:, 0], key_numbers(shared.env)[:, 0])


def test_without_exploration_and_replay_luck_clones_are_one_and_the_floor_is_zero():
    study = make_study(experiment(replay="latest", epsilon_start=0.0, epsilon_end=0.0))
    looks, states = np.array([32, 64]), np.array([[30, 31], [62, 63]])
    lived = floor._Clones(study, floor.later_scene(study, LEARNERS), looks, states, own_environment=False)
    assert (floor._among(lived.policies)["clone_tv"] == 0).all()
    assert (floor._from_others(lived.visits) == 0).all()


def test_clones_come_to_differ_and_every_figure_has_its_axes(study, measured):
    seeds, looks = 2, 2
    assert measured["looks"].tolist() == [32, 64]
    for name in ("clone_tv", "clone_nats", "own_environment_clone_tv"):
        assert measured[name].shape == (LEARNERS, CLONES, looks)
    assert measured["clone_tv"][..., -1].mean() > 0
    for name in ("imitator_tv", "imitator_nats", "imitator_own_nats"):
        assert measured[name].shape == (seeds, LEARNERS, looks)
    assert measured["clone_occupancy"].shape == (LEARNERS, CLONES)
    assert measured["imitator_occupancy"].shape == (seeds, LEARNERS)
    told = floor.answer(study.experiment, measured)
    assert told["estimate"] == pytest.approx(measured["clone_tv"].mean())
    assert told["excess_nats"]["estimate"] == pytest.approx(
        measured["imitator_nats"].mean() - measured["clone_nats"].mean()
    )
    assert told["closed_loop"]["excess"]["estimate"] == pytest.approx(
        measured["imitator_occupancy"].mean() - measured["clone_occupancy"].mean()
    )
    json.dumps({key: value for key, value in told.items() if key != "curve"})


def test_the_imitators_figures_are_of_what_it_says_where_the_clones_were_looked_at(study, clones, measured):
    """Against the whole stream read at once, a look at a time."""
    scene, lived, states = clones
    frozen = study.imitators[study.experiment.imitator.context_steps][FORK]
    prompt = make_prompt(scene, FORK, length=16)
    every = divergence.forced_over(
        frozen.imitator, frozen.params, prompt, lived.history, np.arange(LATER)
    )  # [S, L, T, A]
    said = np.exp(every[:, :, states[1]])
    others = lived.policies[:, 1:, 1]
    expected = 0.5 * np.abs(said - others.mean(1)[None]).sum(-1).mean(-1)
    np.testing.assert_allclose(measured["imitator_tv"][..., 1], expected, rtol=1e-5)
    each = [divergence.nats(others[:, j], said).mean(-1) for j in range(CLONES - 1)]
    np.testing.assert_allclose(measured["imitator_nats"][..., 1], np.mean(each, axis=0), rtol=1e-4)


def test_reading_on_over_blocks_is_reading_the_first_block_as_teacher_forcing_does(study, clones):
    scene, lived, _ = clones
    frozen = study.imitators[study.experiment.imitator.context_steps][FORK]
    prompt, size = make_prompt(scene, FORK, length=16), frozen.imitator.block_steps
    begun = divergence.forced_over(frozen.imitator, frozen.params, prompt, lived.history, np.arange(size))
    first = jax.tree.map(lambda leaf: leaf[:, :size], lived.history)
    measured = divergence.teacher_forced(
        frozen.imitator, frozen.params, prompt, first, scene.snapshot.learner, scene.population.rates,
        scene.snapshot.clock.step, dqn=scene.population.dqn,
    )  # fmt: skip
    taken = np.take_along_axis(begun, first.action[None, :, :, None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(-taken.mean(-1), measured["imitator_cross_entropy"], rtol=1e-5)


def test_each_clone_is_compared_with_the_mean_of_the_others_by_definition():
    rng = np.random.default_rng(0)
    policies = rng.dirichlet(np.ones(3), size=(1, 4, 1, 1))
    found = floor._among(policies)
    for m in range(4):
        rest = np.delete(policies[0], m, axis=0).mean(0)[0, 0]
        own = policies[0, m, 0, 0]
        assert found["clone_tv"][0, m, 0] == pytest.approx(0.5 * np.abs(own - rest).sum())
        assert found["clone_nats"][0, m, 0] == pytest.approx((own * np.log(own / rest)).sum())


def test_the_mean_of_the_clones_is_the_best_prediction_and_has_no_excess():
    rng = np.random.default_rng(1)
    policies = rng.dirichlet(np.ones(3), size=200)
    best = divergence.nats(policies, policies.mean(0)).mean()
    worse = divergence.nats(policies, np.array([0.5, 0.25, 0.25])).mean()
    assert best < worse


def test_work_names_the_steps_that_are_told(study):
    told = []
    floor.measure(dataclasses.replace(study, tick=told.append))
    assert sum(told) == floor.work(study.experiment)


def test_looks_are_few_and_end_chunks_and_blocks():
    of = dataclasses.replace(experiment(), evaluation=config.Evaluation(later_steps=10_000, block_steps=20))
    looks = floor._looks(of, 50)
    assert len(looks) <= 32
    assert (looks % 100 == 0).all()
    assert looks[-1] <= 10_000


@pytest.mark.parametrize("each", [{}, {"steps_per_update": 4, "target_period_updates": 20}])
@pytest.mark.parametrize(("chunk", "num_states"), [(32, 8), (80, 16), (16, 16), (16, 40)])
def test_the_clones_can_be_asked_at_every_state_and_are_lived_in_larger_chunks_elsewhere(
    each, chunk, num_states
):
    of = experiment(**each)
    of = dataclasses.replace(of, controls=dataclasses.replace(of.controls, floor_states=num_states))
    looks, spu = np.arange(chunk, 10 * chunk + 1, chunk), of.learner.steps_per_update
    states = floor._states(of, looks)
    assert (np.diff(states) >= 0).all()
    assert (states[:, -1] == looks - spu).all()
    few = simulate.chunk_plan((chunk,), of.learner, at_most=spu * num_states)
    pieces = floor._pieces(looks, states, few=few, one=spu)
    ends = [0]
    for num_steps, size in pieces:
        ends += range(ends[-1] + size, ends[-1] + num_steps + 1, size)
    assert ends[-1] == looks[-1]
    assert set(states.ravel()) | set(looks) <= set(ends)
    if chunk > 2 * spu * num_states:
        assert len(ends) < looks[-1] / spu
