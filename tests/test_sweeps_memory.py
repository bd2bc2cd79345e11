"""The estimate grows with what memory grows with, and waves keep within the limit."""

import jax
import pytest

from cl_imitate import load_config, populations
from cl_imitate.sweeps import memory
from tests.test_resume import SMOKE


def estimate(*overrides: str) -> memory.Estimate:
    return memory.estimate(load_config.load(SMOKE, overrides))


def test_replay_rows_and_learners_dominate_a_simulation():
    small = estimate()
    assert estimate("learner.replay_capacity=51200").simulate > 20 * small.simulate
    assert estimate("simulation.num_recorded=160").simulate == pytest.approx(10 * small.simulate, rel=0.01)
    assert estimate("simulation.num_recorded=17").simulate == pytest.approx(
        2 * small.simulate, rel=0.01
    )  # whole blocks of 16


def test_an_ensemble_s_estimate_is_no_less_than_its_arrays_take():
    experiment = load_config.load(SMOKE)
    arrays = jax.tree.leaves(populations.make("recorded", experiment).newborn())
    taken = sum(array.nbytes for array in arrays)
    assert 2 * taken <= estimate().simulate < 3 * taken


def test_imitators_cost_by_width_and_context():
    small = estimate()
    assert estimate("imitator.width=64").train > 2 * small.train
    assert estimate("imitator.context_steps=128").train > 2 * small.train
    assert estimate("imitator.width=64").evaluate > 2 * small.evaluate


@pytest.mark.parametrize(("limit", "expected"), [(10**12, 7), (1050, 3), (100, 1), (0, 1)])
def test_waves_keep_within_the_limit_but_hold_one_point_at_least(limit, expected):
    estimated = memory.Estimate(simulate=350, train=10, evaluate=10)
    assert memory.num_in_a_wave(estimated, limit, 7) == expected


def test_there_is_memory_here_and_it_is_said_where_the_figure_comes_from():
    found, source = memory.limit()
    assert 2**20 < found < 2**50
    assert source.startswith("0.")
