"""Sham histories: the real return curve, and nobody learns."""

import functools

import jax
import numpy as np
import pytest

from cl_imitate.evaluation.controls import sham
from tests import studies

pytestmark = pytest.mark.unoptimised

MANY = studies.experiment(
    "simulation.num_recorded=96", "controls.sham_stages=9", "controls.sham_level_steps=64"
)


@functools.cache
def made():
    study = studies.study(MANY)
    return (study, *sham.make_histories(study))


def curve(history) -> np.ndarray:
    """Mean returns by episode, [N, E]."""
    return np.asarray(history.reward, float).reshape(len(history.reward), -1, 8).sum(axis=-1)


def test_at_every_age_sham_returns_are_those_of_the_real_learners():
    study, history, _ = made()
    real, shammed = curve(study.history("recorded")), curve(history)
    assert real.shape == shammed.shape
    assert real[:, -4:].mean() > real[:, :2].mean() + 2.5  # there is a curve to be met
    error = np.sqrt((real.var(axis=0) + shammed.var(axis=0)) / len(real))
    assert (np.abs(real.mean(axis=0) - shammed.mean(axis=0)) < 4 * error).all()
    assert abs(real.mean() - shammed.mean()) < 0.3
    assert abs(real.std(axis=0).mean() - shammed.std(axis=0).mean()) < 0.5  # and as different from each other


def test_stages_that_do_not_follow_the_real_learners_would_be_seen():
    study, history, stages = made()
    population = study.population("recorded")
    params = sham.snapshots(population, sham.stage_steps(MANY), chunk_steps=8, tick=studies.nothing)
    last = np.full_like(stages[:, :2], 8)
    experts = sham.sham_histories(
        population, params, last, jax.random.key(3), episode_steps=8, tick=studies.nothing
    )
    assert curve(experts).mean() > curve(history)[:, :2].mean() + 2.5


def test_every_greedy_action_of_an_episode_is_its_snapshot_s_so_nobody_learns():
    study, history, stages = made()
    population = study.population("recorded")
    params = sham.snapshots(population, sham.stage_steps(MANY), chunk_steps=8, tick=studies.nothing)
    state = study.snapshot(population, 64).learner
    obs = np.arange(16, dtype=np.uint8)

    def greedy(params):
        return jax.vmap(
            lambda one, rates: jax.vmap(
                lambda o: population.dqn.policy(state_of(one), rates, o, np.int32(0)).argmax()
            )(obs)
        )(params, population.rates)

    def state_of(params):
        return jax.tree.map(lambda x: x[0], state).replace(params=params)

    by_stage = np.asarray(jax.jit(jax.vmap(greedy))(params))  # [G, N, symbols]
    own = by_stage[np.repeat(stages, 8, axis=1), np.arange(96)[:, None], history.obs]
    np.testing.assert_array_equal(history.action[~history.explored], own[~history.explored])
    assert (by_stage[0] != by_stage[-1]).mean() > 0.1  # snapshots differ, so that others' would be seen


def test_a_later_episode_is_often_an_earlier_stage_s():
    _, _, stages = made()
    change = np.diff(stages, axis=1)
    assert 0.2 < (change < 0).mean() < 0.6
    assert stages[:, -1].mean() > stages[:, 0].mean() + 3


def test_a_stage_is_drawn_so_that_the_expected_return_is_another_learner_s():
    """Two learners with the same way in another time: at its own ages, each plays as the other had come."""
    levels = np.array([[0.0, 0.0], [8.0, 0.0], [8.0, 0.0], [8.0, 10.0]])
    starts = np.tile([0.0, 20.0, 30.0], 4000)
    stages = sham.draw_stages(levels, np.array([0.0, 10.0, 20.0, 30.0]), starts, np.random.default_rng(0))
    returns = levels[stages, np.arange(2)[:, None]].reshape(2, -1, 3).mean(axis=1)
    np.testing.assert_allclose(returns, [[0.0, 4.0, 8.0], [0.0, 5.0, 10.0]], atol=0.2)
    assert set(stages[1, 0::3]) == {0, 1, 2}  # stages that are equally good are equally likely


@pytest.mark.parametrize(
    ("levels", "share"),
    [
        ([0.0, 3.0, 1.0, 4.0], [0.0, 0.5, 0.5, 1.0]),
        ([2.0, 2.0, 2.0], [0.0, 0.5, 1.0]),
        ([0.0, np.nan, 2.0], [0.0, 0.5, 1.0]),
        ([np.nan, np.nan, 2.0], [0.0, 0.5, 1.0]),
    ],
)
def test_how_far_a_learner_had_come_never_falls(levels, share):
    np.testing.assert_allclose(sham._share_of_way(np.array(levels)), share)


def test_sham_histories_differ_from_the_real_ones_in_their_random_numbers():
    study, history, _ = made()
    same = (history.action[:, :8] == study.history("recorded").action[:, :8]).all(axis=1)
    assert same.mean() < 0.2  # newborns repeat their first choice
