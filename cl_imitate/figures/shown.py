"""LATER against what was shown: how far it goes where few or many recorded lives had come to what comes later."""

import math
from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from cl_imitate.config import Rules
from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Chain, Point
from cl_imitate.evaluation.shown import by_shown, settings, shown
from cl_imitate.figures import canvas as canvas_lib
from cl_imitate.figures.canvas import GREY, INKS, Axes, Canvas, Figure, draw_figure
from cl_imitate.figures.shares import draw_line, share_axis


def later_by_shown(points: Sequence[Point], rules: Rules) -> Figure | None:
    """A line for each setting in which recording was stopped at several steps; each mark is one of them."""
    lines = by_shown(points)
    if not lines:
        return None

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(1, 2)
        for number, (line, setting) in enumerate(zip(lines, settings(lines), strict=True)):
            ink = INKS[number % len(INKS)]
            _draw_shares(panels[0], line, ink, setting or "imitator")
            _draw_gains(panels[1], line, ink)
        share_axis(panels[0], rules)
        panels[0].set_title("share of the learner's gain")
        panels[1].set_title("the gains themselves")
        panels[1].set_ylabel("of the learner's range")
        panels[1].set_ylim(bottom=min(0.0, panels[1].get_ylim()[0]))
        panels[1].plot(
            [], [], "--", color=GREY, linewidth=1.4, label="its learner: dashed, in the same colour"
        )
        for panel in panels:
            panel.set_xlim(-0.02, 1.0)
            panel.xaxis.set_major_formatter(PercentFormatter(1.0))
            panel.set_xlabel("recorded lives that had come to where learners come later")
        canvas_lib.draw_legend(canvas, panels)

    return draw_figure(
        "shown",
        "LATER against what was shown",
        "Recording was stopped earlier or later, all else being equal. Left, upright: the interval of what frozen "
        "imitators go on to gain, as a share of what their learner does; across: that of how many of the recorded "
        "lives had come, when recording stopped, to where learners come later. Hollow: training had not converged. "
        "Right: what imitator and learner gain, in the learner's range; intervals are the share's, times the learner's "
        "gain. A share rises also where the imitator gains no more and the learner has less left to gain.",
        "LATER's share of the learner's gain, and both gains, against the share of recorded lives that had come to "
        "where learners come later.",
        draw,
        size=(10.0, 4.2),
    )


def _draw_shares(panel: Axes, line: Chain, ink: str, named: str) -> None:
    draw_line(panel, line.points, [shown(one).share for one in line.points], "later", ink, named)
    for one in line.points:
        assert one.later.share is not None
        panel.plot(shown(one)[1:], [one.later.share] * 2, color=ink, linewidth=1.0, alpha=0.5)


def _draw_gains(panel: Axes, line: Chain, ink: str) -> None:
    known = [
        (shown(one).share, one, one.later.gain, one.later.learner_gain)
        for one in line.points
        if one.later.gain is not None and one.later.learner_gain is not None
    ]
    places = [place for place, *_ in known]
    panel.plot(places, [learner for *_, learner in known], "--", color=ink, linewidth=1.4)
    panel.plot(places, [gain for _, _, gain, _ in known], color=ink, linewidth=1.4)
    for place, one, gain, learner in known:
        ends = [end * learner for end in horizon.ends(one.later) if math.isfinite(end)]
        panel.plot([place] * len(ends), ends, color=ink, linewidth=1.4)
        fill = ink if one.counts_for("later") else "white"
        panel.plot(place, gain, "o", color=ink, markerfacecolor=fill, markersize=6.5, zorder=4)
