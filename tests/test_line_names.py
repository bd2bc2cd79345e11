"""Names beside a panel keep apart, in order, and within its height."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cl_imitate.figures.line_names import name_ends, spread


def test_names_that_are_far_enough_apart_stay_where_their_lines_end():
    np.testing.assert_allclose(spread([0.1, 0.5, 0.9], 0.1), [0.1, 0.5, 0.9])


@pytest.mark.parametrize("at", [[0.9, 0.95, 0.96, 1.0], [0.0, 0.0, 0.01], [0.5] * 6, [-0.2, 1.3], []])
def test_names_of_lines_that_end_together_are_apart_in_order_and_inside(at):
    found = spread(at, 0.1)
    assert (np.diff(found) >= 0.1 - 1e-9).all()
    assert ((found >= -1e-9) & (found <= 1 + 1e-9)).all()


def test_a_group_is_moved_about_its_own_middle():
    np.testing.assert_allclose(spread([0.1, 0.5, 0.5, 0.9], 0.1), [0.1, 0.45, 0.55, 0.9])


def test_more_names_than_fit_share_the_height():
    np.testing.assert_allclose(spread([0.5] * 21, 0.2), np.linspace(0, 1, 21))


def test_each_name_is_joined_to_the_height_of_its_line():
    axis = Figure().subplots()
    axis.set_ylim(0, 20)
    name_ends(axis, [(14.7, "ceiling", "grey"), (14.8, "learner", "blue")])
    assert [(one.get_text(), one.xy) for one in axis.texts] == [
        ("ceiling", (1.0, 14.7 / 20)),
        ("learner", (1.0, 14.8 / 20)),
    ]
    below, above = (one.xyann[1] for one in axis.texts)
    assert above - below > 0.02
