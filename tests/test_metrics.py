"""Levels and curves that are known."""

import dataclasses

import numpy as np
import pytest
import synthetic

from cl_imitate.config import Rules
from cl_imitate.evaluation import metrics

RULES = Rules(bootstrap_samples=200)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_end_is_the_last_tenth_of_the_horizon_and_the_start_the_first_steps():
    cell = synthetic.cell("process", {"learner": np.arange(20.0)}, noise=0)
    np.testing.assert_allclose(metrics.end_level(cell, "learner", RULES), 18.5)
    np.testing.assert_allclose(metrics.start_level(cell, "learner", 96), 1.0)
    np.testing.assert_allclose(metrics.start_level(cell, "learner", 1), 0.0)
    np.testing.assert_allclose(metrics.whole_level(cell, "learner"), 9.5)


def test_an_arm_that_was_run_for_less_is_measured_at_its_own_end():
    cell = synthetic.cell("process", {"learner": np.arange(40.0), "imitator_wiped": np.arange(4.0)}, noise=0)
    np.testing.assert_allclose(metrics.end_level(cell, "imitator_wiped", RULES), 1.5)
    padded = np.pad(cell.returns["imitator_wiped"], ((0, 0), (0, 0), (0, 36)), constant_values=np.nan)
    cell = dataclasses.replace(cell, returns={**cell.returns, "imitator_wiped": padded})
    np.testing.assert_allclose(metrics.end_level(cell, "imitator_wiped", RULES), 1.5)


def test_blocks_in_which_no_episode_ended_are_left_out():
    cell = synthetic.cell("process", {"learner": 5.0}, noise=0)
    cell.returns["learner"][:, 0, :] = np.nan
    cell.returns["learner"][:, 1, -1] = np.nan
    level = metrics.end_level(cell, "learner", RULES)
    assert np.isnan(level[0, 0])
    np.testing.assert_allclose(level[0, 1:], 5.0)


def test_an_arm_with_nothing_in_it_is_missing():
    cell = synthetic.cell("now", {"imitator": 1.0, "learner_held": np.nan})
    assert metrics.missing_arms(cell, "imitator", "learner_held", "random") == ["learner_held", "random"]


def test_a_curve_is_the_iqm_of_each_block_and_lies_in_its_band():
    cell = synthetic.process()
    cell.returns["imitator"][0, 3, 5] = np.nan
    low, middle, high = metrics.band(cell, "imitator", generator(), samples=100, confidence=0.95)
    assert (low <= middle).all()
    assert (middle <= high).all()
    np.testing.assert_allclose(metrics.curve(cell.returns["imitator"]), middle, atol=0.1)


def test_a_block_without_any_episode_is_a_gap_in_the_curve():
    cell = synthetic.cell("now", {"imitator": 3.0}, noise=0)
    cell.returns["imitator"][:, :, 2] = np.nan
    values = metrics.curve(cell.returns["imitator"])
    assert np.isnan(values[2])
    np.testing.assert_allclose(np.delete(values, 2), 3.0)


def test_the_entropy_of_an_epsilon_greedy_policy():
    policy = np.array([0.92, 0.02, 0.02, 0.02, 0.02])  # epsilon 0.1 over five actions
    assert metrics.policy_entropy(0.1, 5) == pytest.approx(-(policy * np.log(policy)).sum())
    assert metrics.policy_entropy(0.0, 5) == pytest.approx(0.0)
    assert metrics.policy_entropy(1.0, 4) == pytest.approx(np.log(4))
