"""The needed context against the learner's time constant: of tasks with more to know, and of slower learners."""

import math
from collections.abc import Sequence

import numpy as np

from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.findings import slope_told
from cl_imitate.evaluation.horizon import Break
from cl_imitate.evaluation.needed import Line
from cl_imitate.figures import canvas as canvas_lib
from cl_imitate.figures.canvas import GREY, INKS, Axes, Canvas, Figure, draw_figure

_MOST_TICKS = 4
_MOST_LOG_TICKS = 9
_MOST_NAMES = 8


def needed(
    found: Sequence[Break], *, size_name: str = "context, steps", far_steps: float | None = None
) -> Figure | None:
    """Each break, a colour a task; the line over all, and within a task where the learner alone is slower.

    `size_name`: what was bisected. `far_steps`: both lines are drawn on to this time constant, as extrapolations.
    """
    if not found:
        return None
    across, within = horizon.line(found), horizon.line(found, same_task=True)
    tasks = list(dict.fromkeys(one.task for one in found))
    inks = {task: INKS[number % len(INKS)] for number, task in enumerate(tasks)}
    differ = [axis for number, (axis, _) in enumerate(tasks[0]) if len({task[number] for task in tasks}) > 1]

    def draw_panel(axis: Axes, to_steps: float | None) -> None:
        for one in found:
            named = horizon.told(dict(one.task), differ) if len(tasks) <= _MOST_NAMES else ""
            _draw_break(axis, one, inks[one.task], named)
        whole = [one for one in found if one.needed.is_between]
        if math.isfinite(across.slope):
            _draw_line(axis, across, whole, to_steps, GREY, "over all")
        if math.isfinite(within.slope):
            own = [one for one in whole if one.task == _most_varied(whole)]
            _draw_line(axis, _through(within, own), own, to_steps, inks[own[0].task], "the learner slowed")
        axis.set(xscale="log", yscale="log", xlabel="learner's time constant, steps")
        (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
        steps = sorted({round(one.tau_steps) for one in found})
        few = len(steps) <= _MOST_TICKS and to_steps is None
        for set_ticks, ticks in (
            (axis.set_xticks, steps if few else canvas_lib.log_ticks(left, right)),
            (axis.set_yticks, canvas_lib.log_ticks(low, high)),
        ):
            if len(ticks) > _MOST_LOG_TICKS:
                ticks = [tick for tick in ticks if math.log10(tick).is_integer()]
            set_ticks(ticks, [_number(tick) for tick in ticks])
        axis.minorticks_off()

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots(1, 1 if far_steps is None else 2, squeeze=False)[0]
        draw_panel(axes[0], None)
        axes[0].set_ylabel(f"needed {size_name}")
        if far_steps is not None:
            axes[0].set_title("measured")
            draw_panel(axes[1], far_steps)
            axes[1].set_title("the same, extrapolated (dashed)")
        canvas_lib.draw_legend(canvas, axes, columns=4)

    fitted = "There are too few breaks of learners of different slowness for a line."
    if math.isfinite(across.slope):
        fitted = f"Slope over all {slope_told(across)}"
        fitted += (
            f"; where the learner alone is slower, {slope_told(within)}."
            if math.isfinite(within.slope)
            else "."
        )
    beyond = "" if far_steps is None else " Dashed: extrapolated far beyond what was measured."
    return draw_figure(
        "needed_context",
        "The context that the learning needs",
        "Each bar: above its lower end PROCESS is not yet a yes, from its upper end on it is. Dotted, with a mark that "
        f"points on: open at that end. {fitted}{beyond}",
        f"Needed {size_name.partition(',')[0]} against time constant. {fitted}",
        draw,
        size=(6.2 if far_steps is None else 10.0, 4.3),
    )


def _number(steps: float) -> str:
    """1,024; where a line is carried far, 10M."""
    return f"{steps:,.0f}" if steps < 1e6 else canvas_lib.steps(steps)


def _draw_break(axis: Axes, one: Break, ink: str, named: str) -> None:
    low, high = one.needed
    ends = (low or high or math.nan, high or low or math.nan)
    axis.plot([one.tau_steps] * 2, ends, "-" if one.needed.is_between else ":", color=ink, linewidth=3)
    marker = (
        "o" if one.needed.is_between else ("v" if low is None else "^")
    )  # at most this, or more than this
    axis.plot(
        one.tau_steps, math.sqrt(ends[0] * ends[1]), marker, color=ink, markersize=7, label=named or None
    )


def _draw_line(
    axis: Axes, line: Line, own: Sequence[Break], to_steps: float | None, ink: str, named: str
) -> None:
    taus = [one.tau_steps for one in own]
    between = np.geomspace(min(taus), max(taus), 20)
    axis.plot(between, [line.at(tau) for tau in between], color=ink, linewidth=1.2, label=named)
    if to_steps is not None:
        beyond = np.geomspace(max(taus), to_steps, 20)
        axis.plot(beyond, [line.at(tau) for tau in beyond], "--", color=ink, linewidth=1.0)


def _most_varied(whole: Sequence[Break]) -> tuple:
    """The task that most different learners learn."""
    return max(
        (one.task for one in whole),
        key=lambda task: len({one.tau_steps for one in whole if one.task == task}),
    )


def _through(line: Line, own: Sequence[Break]) -> Line:
    """The same slope, through the middle of these breaks."""
    middles = [
        (math.log2(one.needed.low * one.needed.high) / 2) - line.slope * math.log2(one.tau_steps)
        for one in own
        if one.needed.low and one.needed.high
    ]
    return line._replace(intercept=float(np.mean(middles)))
