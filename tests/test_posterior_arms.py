"""Learners inside the posterior are the learners they claim to be, and it finds the one it watches."""

import dataclasses
import functools
import pathlib
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config, keys, load_config, populations, simulate
from cl_imitate.evaluation import posterior_arms, posterior_walk
from cl_imitate.evaluation.controls.posterior_places import hypotheses
from cl_imitate.evaluation.posterior_walk import Ensemble
from cl_imitate.imitators import learner_posterior as lib
from cl_imitate.imitators.learner_posterior import Hypothesis
from cl_imitate.types import History
from tests.ensembles import assert_same

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"


class Watched(NamedTuple):
    """Learners, what they lived, and what became of them."""

    population: populations.Population
    learner: config.Learner  # with its rates
    history: History
    snapshot: simulate.Ensemble
    chunk_steps: int


def watch(experiment: config.Experiment, num: int, num_steps: int, chunk_steps: int) -> Watched:
    population = populations.make("held_out", experiment).members(np.arange(num))
    population = dataclasses.replace(population, block_size=num)
    parts, ensemble = [], None
    for kept, history in simulate.advance(
        population.newborn(),
        population.streams,
        population.env_params,
        population.rates,
        **population.static,
        num_steps=num_steps,
        chunk_steps=chunk_steps,
    ):
        ensemble = kept
        parts.append(jax.tree.map(np.asarray, history))
    assert ensemble is not None
    history = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
    return Watched(population, experiment.learner, history, ensemble, chunk_steps)


def ensemble(watched: Watched, whom: list[Hypothesis], *, shares_causes: bool = True, **options) -> Ensemble:
    population = watched.population
    mixture, settings = lib.make_mixture(
        whom,
        population.family.env.spec,
        **{"copies": options.pop("copies", 1), "at_once": options.pop("at_once", 1)},
    )
    shape = (len(mixture.hypothesis_of), population.num_learners)
    init = jax.vmap(lambda key: keys.stream(key, keys.Stream.LEARNER_INIT))(population.learner_keys)
    replay = jnp.broadcast_to(population.streams.replay, shape)
    causes = lib.make_causes(mixture, jnp.broadcast_to(init, shape), replay)
    if not shares_causes:
        others = keys.members(keys.root(99), shape[0] * shape[1]).reshape(shape)
        causes = lib.make_causes(mixture, others, jax.random.clone(others))
    return Ensemble(mixture=mixture, settings=settings, causes=causes, truth=0, **options)


def read(watched: Watched, found: Ensemble, *, removed: int | None = None, keep_steps: tuple[int, ...] = ()):
    num_hypotheses = found.mixture.num_hypotheses
    prior = np.ones((watched.population.num_learners, num_hypotheses))
    if removed is not None:
        prior[:, removed] = 0.0
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior / prior.sum(axis=1, keepdims=True))
    return posterior_arms.read(
        posterior_walk.begin(watched.population, found, log_prior),
        watched.population,
        watched.history,
        found,
        act_keys=keys.members(keys.root(5), watched.population.num_learners),
        chunk_steps=watched.chunk_steps,
        keep_steps=keep_steps,
        tick=lambda _: None,
    )


# --- exactly the learner

SCHEDULES = {
    "Polyak": (),
    "a period, warm-up and pairs of steps": (
        "learner.target_period_updates=4",
        "learner.learning_starts_steps=16",
        "learner.steps_per_update=2",
        "learner.updates_per_iteration=2",
    ),
}


@functools.cache
def smoke(name: str) -> Watched:
    changes = ("learner.replay_capacity=48", "learner.batch_size=8", "learner.hidden=[8]", *SCHEDULES[name])
    return watch(load_config.load(SMOKE, changes), 3, 64, 16)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_hypothesis_that_stops_at_an_age_is_the_learner_s_snapshot_of_that_age(name):
    watched = smoke(name)
    whom = [Hypothesis(name="the learner", learner=watched.learner)]
    whom.append(Hypothesis(name="stopped", learner=watched.learner, stops_at_step=32))
    _, kept = read(watched, ensemble(watched, whom), keep_steps=(32, 64))
    at_32, at_the_end = [kept[step].posterior.particles[0].params for step in (32, 64)]
    learner, stopped = (lambda leaf: np.asarray(leaf[0])), (lambda leaf: np.asarray(leaf[1]))
    assert_same(jax.tree.map(learner, at_32), jax.tree.map(stopped, at_the_end))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_truth_lives_the_learner_s_life_bit_for_bit(name):
    """The replay's ring goes round once: 64 steps in 48 places."""
    watched = smoke(name)
    own = watched.learner
    whom = [
        Hypothesis(name="slower", learner=dataclasses.replace(own, learning_rate=1e-4)),
        Hypothesis(name="double", learner=dataclasses.replace(own, double_q=True)),
        Hypothesis(name="truth", learner=own),
    ]
    _, kept = read(watched, ensemble(watched, whom), keep_steps=(64,))
    found, snapshot = kept[64].posterior, watched.snapshot.learner
    (of_rates, of_double) = found.particles
    assert_same(jax.tree.map(lambda leaf: leaf[1], of_rates.params), snapshot.params)
    assert_same(jax.tree.map(lambda leaf: leaf[1], of_rates.target_params), snapshot.target_params)
    assert_same(jax.tree.map(lambda leaf: leaf[1], of_rates.opt_state), snapshot.opt_state)
    assert_same(found.rows, snapshot.rows)
    assert int(found.update) == int(watched.snapshot.clock.update)
    for other in (jax.tree.map(lambda leaf: leaf[0], of_rates.params), of_double.params):
        last, learner = jax.tree.leaves(other)[0], jax.tree.leaves(snapshot.params)[0]
        assert not np.array_equal(
            np.asarray(last).reshape(-1)[: learner.size], np.asarray(learner).reshape(-1)
        )


@pytest.mark.slow
def test_some_at_once_are_the_same_learners_up_to_rounding():
    watched = smoke("Polyak")
    own = watched.learner
    whom = [
        Hypothesis(name=str(rate), learner=dataclasses.replace(own, learning_rate=rate))
        for rate in (5e-3, 1e-3)
    ]
    _, kept = read(watched, ensemble(watched, whom, at_once=2), keep_steps=(16,))
    _, alone = read(watched, ensemble(watched, whom), keep_steps=(16,))
    for one, other in zip(
        jax.tree.leaves(kept[16].posterior.particles),
        jax.tree.leaves(alone[16].posterior.particles),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_history_of_another_world_is_refused():
    watched = smoke("Polyak")
    whom = [Hypothesis(name="truth", learner=watched.learner)]
    # the other way round: another learner's world
    turned = jax.tree.map(lambda leaf: leaf[::-1], watched.population.env_params)
    moved = watched._replace(population=dataclasses.replace(watched.population, env_params=turned))
    with pytest.raises(ValueError, match="is not that of the histories"):
        read(moved, ensemble(moved, whom))


# --- resampling, on the stream


def test_particles_that_are_resampled_gather_on_what_the_learner_does():
    watched = smoke("Polyak")
    own = watched.learner
    frozen = Hypothesis(name="frozen", learner=own, stops_at_step=0)
    found = ensemble(
        watched,
        [Hypothesis(name="truth", learner=own), frozen],
        shares_causes=False,
        copies=4,
        resample_below=0.9,
    )
    lived, kept = read(watched, found, keep_steps=(64,))
    held = np.asarray(kept[64].posterior.particles[0].hypothesis)  # [8, n]
    assert not np.array_equal(held, np.repeat([[0], [1]], 4, axis=0) * np.ones((1, 3), int))
    counted = np.stack([(held == index).mean(axis=0) for index in (0, 1)], axis=1)
    np.testing.assert_allclose(lived.weights[:, -1].sum(axis=1), 1.0, rtol=1e-4)
    assert (
        np.abs(lived.weights[:, -1] - counted).max() < 0.6
    )  # weights follow the particles, not only their own sum


# --- Dark Room 5x5

DARK_ROOM = (
    "environment={family='dark_room',size=5,episode_steps=20}",
    "shapes={num_symbols=32,num_states=32}",
    "learner={learning_rate=1e-2,discount=0.9,epsilon_start=1.0,epsilon_end=0.05,epsilon_decay_steps=300,"
    "hidden=[32],batch_size=32,replay_capacity=2048}",
    "evaluation.rungs=[]",
    "evaluation.months=[]",
    "evaluation.fork_steps=[800]",
    "evaluation.now_fork_step=800",
    "evaluation.later_fork_step=800",
    "evaluation.stage_steps=[0]",
    "evaluation.block_steps=40",
    "evaluation.now_steps=40",
    "evaluation.later_steps=80",
    "evaluation.elsewhere_steps=80",
    "simulation.num_held_out=16",
    "simulation.block_size=16",
)


def dark_room(num: int) -> tuple[Watched, list[Hypothesis]]:
    """Learners in 40 recorded episodes, and at least 24 hypotheses with the truth first."""
    experiment = load_config.load(SMOKE, DARK_ROOM)
    return watch(experiment, num, 800, 40), hypotheses(experiment.learner, experiment.controls.posterior)


def _truth_is_found(num: int) -> None:
    watched, whom = dark_room(num)
    assert len(whom) >= 24
    found = ensemble(watched, whom)
    lived, _ = read(watched, found)
    assert (found.mixture.hypothesis_of == 0).sum() == 1
    by_hypothesis = np.zeros_like(lived.same)
    by_hypothesis[:, found.mixture.hypothesis_of] = lived.same
    course = (lived.weights * by_hypothesis[:, None]).sum(axis=-1)  # [n, C]
    assert course[:, -1].min() > 0.99
    distance = lived.distance.reshape(num, course.shape[1], -1)
    once_found = (np.cumsum(course > 0.99, axis=1) > 0)[:, :-1]
    assert once_found.sum() > 5 * num  # of 19 chunks of steps each
    assert np.nanmean(distance[:, 1:][once_found]) < 1e-3
    without, _ = read(watched, found, removed=0)
    worse = (without.log_loss - lived.log_loss).mean(axis=1)  # nats an action of each learner
    assert worse.min() > 0
    assert worse.mean() > 0.01
    assert without.weights[:, :, 0].max() == 0.0


def test_on_dark_room_the_truth_is_found_among_24_and_missed_where_it_is_left_out():
    _truth_is_found(2)


@pytest.mark.slow
def test_on_dark_room_the_truth_is_found_among_24_by_every_one_of_16_streams():
    _truth_is_found(16)


def test_blocks_of_streams_are_walked_on_every_device_and_come_back_in_order():
    def one(streams, count):
        return streams.tolist(), count, jnp.zeros(()).devices()

    first, second = jax.local_devices()[:2]
    assert posterior_arms.by_block(5, 2, one) == [
        ([0, 1], 2, {first}), ([2, 3], 2, {first}), ([4, 4], 1, {second}),
    ]  # fmt: skip


def test_two_that_leave_half_of_the_devices_idle_walk_side_by_side_and_others_in_turn():
    devices, met = jax.local_devices(), threading.Barrier(2, timeout=30)
    assert len(devices) == 2

    def meets(where):
        met.wait()  # alone, it would wait in vain
        return where

    assert posterior_arms.both(1, meets, meets) == (devices[:1], devices[1:])
    order = []
    found = posterior_arms.both(
        2, lambda where: order.append("first") or where, lambda _: order.append("second")
    )
    assert found == (devices, None)
    assert order == ["first", "second"]


def test_an_error_of_either_is_the_caller_s():
    def fails(where):
        raise ZeroDivisionError

    for pair in ((fails, len), (len, fails)):
        for num_blocks in (1, 2):
            with pytest.raises(ZeroDivisionError):
                posterior_arms.both(num_blocks, *pair)
