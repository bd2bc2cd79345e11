"""Bands end where returns can."""

import numpy as np
import synthetic

from cl_imitate.figures.arms import _within_reach


def cut(low, middle, high, **labels):
    cell = synthetic.cell("later", {"learner": 5.0}, noise=0.0, **labels)
    found = _within_reach(cell, *(np.array([one]) for one in (low, middle, high)))
    return [float(end[0]) for end in found]


def test_a_band_is_cut_at_the_lowest_return_seen_and_at_the_optimum():
    assert cut(-40.0, 5.0, 60.0) == [synthetic.RANDOM, synthetic.OPTIMAL]
    assert cut(4.0, 5.0, 6.0) == [4.0, 6.0]


def test_a_band_is_never_cut_inside_its_curve():
    assert cut(-1.0, 0.5, 60.0) == [0.5, synthetic.OPTIMAL]
    assert cut(4.0, 12.0, 60.0) == [4.0, 12.0]


def test_without_a_known_optimum_the_highest_return_seen_is_the_end():
    assert cut(4.0, 4.5, 60.0, optimal_return=np.full(24, np.nan)) == [4.0, 5.0]
