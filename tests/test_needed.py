"""Bisection against every possible answer, and lines of known slope."""

import math

import numpy as np
import pytest

from cl_imitate.evaluation.needed import Needed, bisect, fit

SIZES = (16, 32, 64, 128, 256)


@pytest.mark.parametrize("least", [8, 16, 17, 64, 256, 300])
def test_bisection_finds_the_first_size_that_suffices_with_few_questions(least):
    asked = []

    def suffices(size):
        asked.append(size)
        return size >= least

    found = bisect(SIZES, suffices)
    assert found.high == next((size for size in SIZES if size >= least), None)
    assert found.low == next((size for size in reversed(SIZES) if size < least), None)
    assert len(asked) <= 3
    assert len(set(asked)) == len(asked)


def test_sizes_must_ascend():
    with pytest.raises(ValueError, match="ascend"):
        bisect([64, 32], lambda size: True)


@pytest.mark.parametrize("slope", [0.5, 1.0])
def test_the_slope_of_a_line_is_found_with_an_interval_around_it(slope):
    steps = [50.0 * 2**power for power in range(8)]
    sizes = [4.0 * (time / 50) ** slope * 16 for time in steps]
    found = fit(steps, [Needed(round(size / 1.19), round(size * 1.19)) for size in sizes])
    assert found.slope == pytest.approx(slope, abs=0.02)
    assert found.slope_ci95[0] < slope < found.slope_ci95[1]
    assert found.slope_ci95[1] - found.slope_ci95[0] < 0.3
    assert found.num == 8
    assert found.at(100.0) == pytest.approx(sizes[1], rel=0.05)


def test_a_break_beyond_what_was_tried_counts_as_that():
    """The two slowest learners exceed every context tried: without them there would be no slope."""
    steps = [160.0, 220.0, 300.0, 360.0, 570.0]
    needed = [Needed(64, 128)] * 3
    assert fit(steps[:3], needed).slope == pytest.approx(0.0, abs=1e-3)
    found = fit(steps, [*needed, Needed(128, None), Needed(128, None)])
    assert found.slope > 0.5
    assert found.num == 5
    mirrored = fit([1e5 / time for time in steps], [*needed, Needed(None, 64), Needed(None, 64)])
    assert mirrored.slope == pytest.approx(found.slope, abs=0.02)


def test_missing_time_constants_are_left_out_and_too_few_points_give_no_line():
    closed = [Needed(16, 32), Needed(32, 64), Needed(64, 128), Needed(128, 256)]
    whole = fit([10, 20, 40, 80], closed)
    assert fit([10, 20, 40, 80, np.nan, 160], [*closed, Needed(16, 32), Needed(None, None)]) == whole
    assert whole.slope == pytest.approx(1.0, abs=1e-3)
    assert math.isnan(fit([10, 20], closed[:2]).slope)
    assert math.isnan(fit([10, 20, 40], [closed[0], Needed(16, None), Needed(16, None)]).slope)
    assert math.isnan(fit([100, 110, 120], closed[:3]).slope)
    assert fit([10, 20, 40], closed[:3]).slope_ci95 == (-math.inf, math.inf)  # nothing is left to tell by


@pytest.mark.slow
def test_intervals_hold_the_truth_in_95_percent_of_draws():
    rng = np.random.default_rng(0)
    num, missed = 40, 0
    for _ in range(num):
        steps = 2.0 ** rng.uniform(6.5, 8.7, 8)
        least = 1.2 * np.log2(steps) - 3 + rng.normal(0.0, 0.4, 8)
        needed = [
            Needed(None if low < 4 else 2 ** int(low), None if low >= 7 else 2 ** (int(low) + 1))
            for low in np.floor(least).clip(3, 7)
        ]
        low, high = fit(steps, needed).slope_ci95
        missed += not low < 1.2 < high
    assert missed <= 0.05 * num + 3 * math.sqrt(0.05 * 0.95 * num)


def test_within_groups_each_has_a_level_of_its_own():
    """Two tasks, the second needing eight times as much at equal time constants; slope 0.5 in both."""
    steps = [64.0, 128.0, 256.0, 512.0] * 2
    groups = ["small"] * 4 + ["large"] * 4
    sizes = [2.0 * steps**0.5 for steps in steps[:4]] + [16.0 * steps**0.5 for steps in steps[4:]]
    needed = [Needed(round(size / 1.09), round(size * 1.09)) for size in sizes]
    shifted = [*steps[:4], *(2 * one for one in steps[4:])]
    found = fit(shifted, needed, groups=groups)
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert fit(shifted, needed).slope > 0.8
    alone = fit([*shifted, 9999.0], [*needed, Needed(16, 32)], groups=[*groups, "seen once"])
    assert alone == found
