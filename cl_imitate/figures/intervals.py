"""Estimates in rows, with their intervals, over the zones in which they would be a yes or a no."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.markers import CARETLEFT, CARETRIGHT

from cl_imitate.figures.canvas import ANSWER_INK


def draw_zones(axis: Axes, intervals: Sequence, low: float, high: float) -> float:
    """Shade where an interval would be a no and where a yes; returns the right edge."""
    ends = [end for pair in intervals for end in pair if end is not None]
    left, right = (
        min([-0.1, *(max(end, -1.0) for end in ends)]),
        max([1.15, *(min(end, 2.0) for end in ends)]),
    )
    axis.set_xlim(left, right)
    axis.axvspan(left, low, color="#FBF1EB", zorder=0)
    axis.axvspan(high, right, color="#EAF4F0", zorder=0)
    for bound in {low, high}:
        axis.axvline(bound, color="#999999", linewidth=0.8)
    axis.text(
        left + 0.01, 1.0, "no", transform=axis.get_xaxis_transform(), va="bottom", color=ANSWER_INK["no"]
    )
    axis.text(
        right,
        1.0,
        "yes",
        transform=axis.get_xaxis_transform(),
        va="bottom",
        ha="right",
        color=ANSWER_INK["yes"],
    )
    return right


def draw_interval(axis: Axes, row: float, value: float, interval: Sequence, color: str, marker: str) -> None:
    """An estimate in its row; an end that is None is not drawn, and one beyond the axis's edge is an arrow there."""
    left, right = axis.get_xlim()
    ends = [min(max(value if end is None else end, left), right) for end in interval]
    axis.plot(ends, [row, row], color=color, linewidth=2, solid_capstyle="butt")
    axis.plot(value, row, marker, color=color, markersize=6)
    low, high = (value if end is None else end for end in interval)
    for is_cut, edge, arrow in ((low < left, left, CARETLEFT), (high > right, right, CARETRIGHT)):
        if is_cut:
            axis.plot(edge, row, marker=arrow, color=color, markersize=8, clip_on=False, zorder=5)


def label_rows(axis: Axes, labels: Sequence[str], words: str) -> None:
    """A name a row, from the top; `words` say what the x axis is."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(words)
