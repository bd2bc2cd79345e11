"""An interval that is cut at a panel's edge is seen to be."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT

from cl_imitate.figures.intervals import draw_interval, draw_zones


def arrows(*interval: float | None) -> dict[str, float]:
    """Arrow -> where it stands."""
    axis = Figure().subplots()
    draw_zones(axis, [interval], 0.1, 0.5)
    draw_interval(axis, 0, 0.6, interval, "black", "o")
    names: dict[Any, str] = {CARETLEFT: "<", CARETRIGHT: ">"}
    return {
        names[line.get_marker()]: float(np.asarray(line.get_xdata())[0])
        for line in axis.lines
        if line.get_marker() in names
    }


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.4, 0.8), {}),
        ((0.4, 2.0), {}),
        ((0.4, 2.95), {">": 2.0}),
        ((-3.0, 0.8), {"<": -1.0}),
        ((-3.0, 4.0), {"<": -1.0, ">": 2.0}),
        ((0.4, None), {}),
    ],
)
def test_an_end_beyond_the_edge_is_an_arrow_at_it(interval, expected):
    assert arrows(*interval) == expected
