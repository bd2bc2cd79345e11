"""LATER against what was shown: how far it goes where few or many recorded lives had come to what comes later."""

from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from cl_imitate.config import Rules
from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Point
from cl_imitate.evaluation.shown import by_shown, shown
from cl_imitate.figures import canvas as canvas_lib
from cl_imitate.figures.canvas import INKS, Canvas, Figure, draw_figure
from cl_imitate.figures.shares import draw_line, share_axis


def later_by_shown(points: Sequence[Point], rules: Rules) -> Figure | None:
    """A line for each setting in which recording was stopped at several steps; each mark is one of them."""
    lines = by_shown(points)
    if not lines:
        return None
    differ = [
        axis
        for axis in (*horizon.AXES, *horizon.LATER_AXES)
        if len({line.rest.get(axis) for line in lines}) > 1
    ]

    def draw(canvas: Canvas) -> None:
        axis = canvas.subplots()
        for number, line in enumerate(lines):
            ink = INKS[number % len(INKS)]
            named = horizon.told(line.rest, differ)
            places = [shown(one).share for one in line.points]
            draw_line(axis, line.points, places, "later", ink, named or None)
            for one in line.points:
                assert one.later.share is not None
                axis.plot(shown(one)[1:], [one.later.share] * 2, color=ink, linewidth=1.0, alpha=0.5)
        share_axis(axis, rules)
        axis.set_xlim(-0.02, 1.0)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_xlabel("recorded lives that had come by the fork to where learners come later")
        axis.set_ylabel("LATER: share of the learner's gain")
        if differ:
            canvas_lib.draw_legend(canvas, [axis])

    return draw_figure(
        "shown",
        "LATER against what was shown",
        "Recording was stopped earlier or later, all else being equal. Upright: the interval of what frozen imitators "
        "go on to gain, as a share of what their learner does; across: that of how many of the recorded lives had "
        "already been there. Hollow: training had not converged.",
        "LATER's share of the learner's gain against the share of recorded lives that had come to where learners come "
        "later.",
        draw,
        size=(6.6, 4.0),
    )
