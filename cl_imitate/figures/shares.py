"""A panel of shares of the learner's gain: its zones of yes and no, marks with intervals, and lines of marks.

A filled mark is a point at converged training, a hollow one a point that is open. What lies beyond the panel is an
arrow at its edge.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cl_imitate.config import Rules
from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Point
from cl_imitate.figures.canvas import Axes

SHARES = (-0.15, 1.3)  # what a panel shows
_EDGE = 0.012  # of a panel's height: an arrow's middle lies so far inside of its edge


def share_axis(axis: Axes, rules: Rules) -> None:
    """The zones in which an interval is a no and a yes."""
    axis.axhspan(-9, rules.learns_no, color="#FBF1EB", zorder=0)
    axis.axhspan(rules.learns_yes, 9, color="#EAF4F0", zorder=0)
    axis.set_ylim(*SHARES)


def draw_line(
    axis: Axes,
    shown: Sequence[Point],
    places: Sequence[float],
    question: str,
    ink: Any,
    label: str | None,
    style: Any = "-",
) -> None:
    """Points of one line at these places, each a mark with its interval."""
    heights = [np.nan if (share := one.of(question).share) is None else share for one in shown]
    axis.plot(places, heights, linestyle=style, color=ink, linewidth=1.4, label=label)
    for place, point in zip(places, shown, strict=True):
        draw_mark(axis, place, point, question, ink, "o")


def draw_mark(axis: Axes, place: float, point: Point, question: str, ink: Any, marker: str) -> None:
    """A point's share with its interval."""
    found = point.of(question)
    assert found.share is not None
    low, high = horizon.ends(found)
    axis.plot([place, place], np.clip((low, high), *SHARES), color=ink, linewidth=1.4)
    margin = _EDGE * (SHARES[1] - SHARES[0])
    for is_beyond, height, arrow in (
        (low < SHARES[0] <= found.share, SHARES[0] + margin, "v"),
        (high > SHARES[1] >= found.share, SHARES[1] - margin, "^"),
    ):
        if is_beyond:
            axis.plot(place, height, arrow, color=ink, markersize=5, zorder=3)
    fill = ink if point.counts_for(question) else "white"
    if not SHARES[0] <= found.share <= SHARES[1]:
        marker = "^" if found.share > SHARES[1] else "v"
    height = float(np.clip(found.share, *SHARES))
    axis.plot(place, height, marker, color=ink, markerfacecolor=fill, markersize=6.5, zorder=4, clip_on=False)
