"""Ratios, time constants and departures of curves that are known."""

import dataclasses

import numpy as np
import pytest
import synthetic

from cl_imitate.config import Rules
from cl_imitate.evaluation import comparisons, metrics

RULES = Rules(bootstrap_samples=200)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def growth(cell, *, own_start=False, now_steps=128) -> comparisons.Growth:
    return comparisons.growth(cell, RULES, generator(), now_steps=now_steps, own_start=own_start)


def test_parity_is_the_ratio_of_gains_over_random():
    found = comparisons.parity(synthetic.now(imitator=5.5, held=10.0, noise=0), RULES, generator())
    assert found.ratio.value == pytest.approx(0.5)
    assert found.held_gain.value == pytest.approx(9.0)
    assert found.improvement.value == 0.0
    assert np.isnan(found.divergence.value)


def test_divergence_is_the_cross_entropy_over_the_learners_own():
    cell = synthetic.now()
    scalars = {
        "imitator_cross_entropy": np.full((3, 24), 0.7),
        "learner_cross_entropy": np.full((1, 24), 0.5),
    }
    found = comparisons.parity(dataclasses.replace(cell, scalars=scalars), RULES, generator())
    assert found.divergence.value == pytest.approx(0.2)


def test_a_perfect_imitator_of_the_process_has_ratio_and_pace_one_and_never_departs():
    found = growth(synthetic.process(noise=0.1))
    assert found.ratio.value == pytest.approx(1, abs=0.02)
    assert found.pace == pytest.approx(1, abs=0.05)
    assert found.learner_gain == pytest.approx(1, abs=0.02)
    assert np.isnan(found.departure.steps)
    assert found.departure.side is None
    assert found.departure.is_resolved


def test_pace_is_the_ratio_of_the_times_to_half_of_the_own_gain():
    slow = growth(synthetic.process(imitator_half=6.0, noise=0, blocks=60))
    assert slow.learner_steps == pytest.approx(3 * 32, rel=0.02)
    assert slow.imitator_steps == pytest.approx(6 * 32, rel=0.02)
    assert slow.pace == pytest.approx(2, rel=0.03)


def test_an_imitator_that_does_not_improve_has_no_pace():
    found = growth(synthetic.process(imitator_end=synthetic.RANDOM))
    assert found.ratio.value == pytest.approx(0, abs=0.03)
    assert np.isnan(found.pace)
    hardly = growth(synthetic.process(imitator_end=1.5, noise=0.02))  # under a tenth of the learner's gain
    assert 0.02 < hardly.ratio.value < 0.1
    assert np.isnan(hardly.pace)


def test_the_span_starts_at_the_learner_held_there_or_at_random_without_it():
    cell = synthetic.process(7.5, 10.0, start=5.0, start_step=160, noise=0)
    assert growth(cell).ratio.value == pytest.approx(0.5, abs=0.01)
    assert growth(cell).learner_gain == pytest.approx(5 / 9, abs=0.01)
    without = growth(synthetic.without(cell, "learner_held"))
    assert without.ratio.value == pytest.approx(6.5 / 9, abs=0.01)
    assert without.learner_gain == pytest.approx(1)


def test_where_the_task_grows_gains_count_from_where_the_held_learner_has_fallen_to():
    falls = np.r_[np.full(4, 10.0), synthetic.rising(10, 2, half_blocks=4.0, blocks=36)]
    levels = {"learner": 10.0, "learner_held": falls, "imitator": 10.0}

    def open_ended(**changes):
        cell = synthetic.cell("later", levels | changes, noise=0, blocks=40)
        return comparisons.growth(cell, RULES, generator(), now_steps=128, own_start=True, is_open_ended=True)

    assert open_ended().ratio.value == pytest.approx(1)
    assert open_ended().learner_gain == pytest.approx(8 / 9, abs=0.01)
    assert open_ended(imitator=falls).ratio.value == pytest.approx(0)
    assert open_ended(imitator=np.linspace(10, 6, 40)).ratio.value == pytest.approx(0.5, abs=0.03)
    kept = synthetic.cell("later", levels, noise=0, blocks=40)
    assert growth(kept, own_start=True).learner_gain == pytest.approx(
        0
    )  # else, who keeps a level has gained nothing


def test_perfect_knowledge_is_told_as_a_share_of_the_learners_gain():
    assert growth(synthetic.process(learner_end=5.5, noise=0)).ceiling_ratio.value == pytest.approx(
        2, rel=0.02
    )
    unknown = dataclasses.replace(synthetic.process(), ceiling_return=np.full(24, np.nan))
    assert np.isnan(growth(unknown).ceiling_ratio.value)


def test_later_counts_from_the_imitators_own_now():
    levels = {"learner": synthetic.rising(5, 10, blocks=40), "learner_held": 5.0, "imitator": 4.0}
    cell = synthetic.cell("later", levels, noise=0, blocks=40)
    assert growth(cell, own_start=True).ratio.value == pytest.approx(0)
    assert growth(cell, own_start=False).ratio.value == pytest.approx(-0.2, abs=0.01)


def test_a_perfect_imitator_has_the_same_window_ratio_one_even_where_its_own_start_leans_against_it():
    curve = synthetic.rising(5, 10, blocks=40)
    cell = synthetic.cell("later", {"learner": curve, "imitator": curve, "learner_held": 5.0}, noise=0)
    found = growth(cell, own_start=True)
    assert found.same_window_ratio.value == pytest.approx(1)
    assert found.ratio.value < 0.75


def departing(difference: np.ndarray, **labels) -> comparisons.Departure:
    learner = synthetic.rising(synthetic.RANDOM, 10.0)
    cell = synthetic.cell(
        "process", {"learner": learner, "imitator": learner + difference}, noise=0.05, **labels
    )
    return comparisons.departure(cell, RULES, generator(), margin=0.9, now_steps=0)


def test_departure_is_the_first_of_three_blocks_in_a_row_outside_the_margin():
    difference = np.zeros(20)
    difference[[4, 5, 9, 10, 11, 12]] = -2.0
    assert departing(difference) == (9 * 32, "behind", True)
    assert departing(-difference) == (9 * 32, "ahead", True)
    difference[10] = 0.0
    steps, side, is_resolved = departing(difference)
    assert np.isnan(steps)
    assert side is None
    assert is_resolved  # never three blocks in a row that could be outside


def test_a_difference_within_the_margin_is_no_departure():
    assert np.isnan(departing(np.full(20, -0.8)).steps)
    assert departing(np.full(20, -0.8)).is_resolved
    assert departing(np.full(20, -1.1)).steps == 0


def test_an_uncertain_difference_is_neither_a_departure_nor_none():
    """Two imitator seeds, of which one is its learner's equal and one never learns: nothing is known of a third."""
    learner = synthetic.rising(synthetic.RANDOM, 10.0)
    cell = synthetic.cell("process", {"learner": learner, "imitator": learner}, noise=0.05, seeds=2)
    cell.returns["imitator"][1] = synthetic.RANDOM
    found = comparisons.departure(cell, RULES, generator(), margin=0.9, now_steps=0)
    assert np.isnan(found.steps)
    assert not found.is_resolved


@pytest.mark.parametrize(("in_doubt", "is_resolved"), [((4, 5, 9, 10), True), ((4, 5, 6), False)])
def test_as_many_blocks_in_doubt_as_a_departure_takes_could_hide_one(in_doubt, is_resolved):
    cell = synthetic.cell("process", {"learner": 10.0, "imitator": 10.0}, noise=0.05)
    for block in in_doubt:
        cell.returns["imitator"][0, :, block] -= 6.0
    found = comparisons.departure(cell, RULES, generator(), margin=0.9, now_steps=0)
    assert np.isnan(found.steps)
    assert found.is_resolved is is_resolved


def test_a_learner_without_a_range_resolves_nothing():
    cell = synthetic.cell("process", {"learner": 10.0, "imitator": 10.0}, noise=0.05)
    assert not comparisons.departure(cell, RULES, generator(), margin=-0.1, now_steps=0).is_resolved


def test_departure_is_relative_to_each_arms_own_now():
    levels = {"learner": 10.0, "imitator": 8.0}
    cell = synthetic.cell("later", levels, noise=0.05)
    assert comparisons.departure(cell, RULES, generator(), margin=0.9, now_steps=0)[0] == 0
    assert np.isnan(comparisons.departure(cell, RULES, generator(), margin=0.9, now_steps=128)[0])


@pytest.mark.parametrize(("start_step", "departs"), [(0, True), (160, False)])
def test_from_an_empty_context_there_is_no_now_to_be_relative_to(start_step, departs):
    levels = {"learner": 10.0, "imitator": 8.0, "learner_held": 1.0}
    found = growth(synthetic.cell("process", levels, noise=0.05, start_step=start_step))
    assert np.isfinite(found.departure.steps) == departs


def test_blocks_with_few_learners_show_no_departure():
    cell = synthetic.cell("process", {"learner": 10.0, "imitator": 5.0}, noise=0.05)
    cell.returns["imitator"][:, 11:] = np.nan  # 11 of 24 learners are left
    found = comparisons.departure(cell, RULES, generator(), margin=0.9, now_steps=0)
    assert np.isnan(found.steps)
    assert not found.is_resolved


def test_recovered_is_a_share_of_the_learners_gain_and_its_gain_of_the_range_to_the_ceiling():
    found = comparisons.transfer(synthetic.elsewhere("2", 5.5, 10.0, noise=0), RULES, generator())
    assert found.recovered.value == pytest.approx(0.5, abs=0.01)
    assert found.learner_gain.value == pytest.approx(1, abs=0.02)
    assert found.ceiling == "ceiling"
    assert (found.tasks_above_half, found.num_tasks) == (0, 24)


def test_without_a_ceiling_the_range_ends_at_the_optimum_and_without_that_it_is_unknown():
    cell = synthetic.elsewhere("2", 5.5, 10.0, noise=0)
    cell = dataclasses.replace(cell, ceiling_return=np.full(24, np.nan))
    found = comparisons.transfer(cell, RULES, generator())
    assert found.ceiling == "optimal"
    assert found.learner_gain.value == pytest.approx(0.9, abs=0.02)
    cell = dataclasses.replace(cell, optimal_return=np.full(24, np.nan))
    found = comparisons.transfer(cell, RULES, generator())
    assert found.ceiling is None
    assert np.isnan(found.learner_gain.value)
    assert found.recovered.value == pytest.approx(0.5, abs=0.01)


def test_a_task_counts_above_half_by_the_mean_over_its_learners_and_seeds():
    cell = synthetic.cell("gate", {"learner": 10.0, "imitator": 10.0}, learners=8, per_task=2, noise=0)
    cell.returns["imitator"][:, 0] = 1.0  # with its neighbour: exactly half, which is not above
    cell.returns["imitator"][0, 2] = 1.0  # one seed of three, one learner of two
    found = comparisons.transfer(cell, RULES, generator())
    assert (found.tasks_above_half, found.num_tasks) == (3, 4)


def test_a_task_on_which_the_learner_gains_nothing_is_not_above_half():
    cell = synthetic.cell("gate", {"learner": 10.0, "imitator": 10.0}, learners=4, noise=0)
    cell.returns["learner"][:, 0] = 0.5
    assert comparisons.transfer(cell, RULES, generator()).tasks_above_half == 3


def test_excess_compares_with_the_held_learner_and_the_best_history():
    cell = synthetic.later(10.0, noise=0)
    found = comparisons.excess(cell, RULES, generator(), now_steps=128)
    assert found.best_history == pytest.approx(5.0)
    assert not found.best_history_is_recorded
    assert found.imitator_over_best.value == pytest.approx(5.0, abs=0.05)
    told = dataclasses.replace(cell, scalars={"best_history_return": np.array([[3.0, 12.0]])})
    found = comparisons.excess(told, RULES, generator(), now_steps=128)
    assert found.best_history_is_recorded
    assert found.imitator_over_best.value == pytest.approx(-2.0, abs=0.05)
    assert found.imitator_over_held.value == pytest.approx(5.0, abs=0.05)


def test_an_arm_that_starts_high_has_gained_from_the_held_learners_level_and_not_from_its_own():
    levels = {"learner": synthetic.rising(1, 10), "learner_held": 1.0, "imitator": 5.5, "window": 10.0}
    cell = synthetic.cell("later", levels, noise=0, fork_step=320, start_step=320)
    found = growth(cell, own_start=True)
    assert found.ratio.value == found.window_ratio.value == pytest.approx(0)
    gained = metrics.end_level(cell, "learner", RULES).mean() - 1
    assert found.from_held_ratio.value == pytest.approx(4.5 / gained)
    assert found.window_from_held_ratio.value == pytest.approx(9 / gained)
    assert np.isnan(growth(cell).from_held_ratio.value)  # PROCESS counts so already
