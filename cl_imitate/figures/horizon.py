"""The figures of a horizon: how far frozen imitation goes and where it breaks, and tasks by learners.

A filled mark is a point at converged training, a hollow one a point that is open.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cl_imitate.config import Rules
from cl_imitate.evaluation import findings, horizon
from cl_imitate.evaluation.horizon import AXES, LATER_AXES, Chain, Imitated, Point
from cl_imitate.figures import canvas as canvas_lib
from cl_imitate.figures.canvas import GREY, Axes, Canvas, Figure, draw_figure
from cl_imitate.figures.shares import draw_line, draw_mark, share_axis

_NAMES = {"process": "PROCESS, from an empty context", "later": "LATER, after the recording stopped"}
_WIDTH, _HEIGHT = 5.6, 3.5  # inches: of a panel
_BESIDE = 2.2  # what has no window stands right of the longest context, by this factor
_CEILING_INK = "#333333"


class _Asked(NamedTuple):
    """What one question's row of panels shows."""

    question: str
    groups: list[Chain]  # along the context
    free: list[Point]  # without a window
    differ: list[str]  # the axes that tell its lines apart

    @property
    def every(self) -> list[Point]:
        return [*(one for chain in self.groups for one in chain.points), *self.free]

    def label(self, point: Point) -> str:
        return horizon.told(point.place(self.question), self.differ) or "imitator"


def curves(points: Sequence[Point], rules: Rules) -> Figure:
    """Against the context: the share of the learning that is imitated, and the departure horizon; a line for each
    value of what else differs. LATER has a row of its own where it is answered."""
    rows = [_asked(points, "process")]
    if any(one.later.is_answered for one in points):
        rows.append(_asked(points, "later"))
    labels = dict.fromkeys(row.label(one) for row in rows for one in row.every)
    inks = {label: canvas_lib.INKS[number % len(canvas_lib.INKS)] for number, label in enumerate(labels)}

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(len(rows), 2, squeeze=False)
        for axes, row in zip(panels, rows, strict=True):
            _draw_shares(axes[0], row, inks, rules)
            _draw_departures(axes[1], row, inks)
        _name_marks(panels[-1, -1], rows)
        canvas_lib.draw_legend(canvas, panels.ravel(), columns=5)

    return draw_figure(
        "horizon",
        "The share that is imitated, and the departure horizon",
        "Left, the share of the learner's gain that the frozen imitator makes (95% intervals over learners and "
        "imitator seeds); dotted, in the colour of its line, the share of a policy that makes perfect use of the same "
        "window; dashed, perfect knowledge at the learner's epsilon. A break at the dotted line is bookkeeping, a "
        "break below it is the finding. Right, the steps after which the imitator departs from the learner: downwards "
        "where it falls behind, upwards where it is ahead. At the end of the horizon, a square on a dotted stem: it "
        "has not departed by then; a hollow circle: not resolved, the intervals being too wide to tell. Other marks "
        "are filled where training had converged. An arrow at a panel's edge: the share, or its interval, goes on "
        "beyond it.",
        findings.lead(points),
        draw,
        size=(2 * _WIDTH, _HEIGHT * len(rows) + 0.6),
    )


def _asked(points: Sequence[Point], question: str) -> _Asked:
    own = horizon.whole(points) if question == "process" else horizon.one_each(points, "later")[0]
    own = [one for one in own if one.of(question).is_answered]
    groups = horizon.chains(own, "context", least=1, question=question)
    if len(groups) > len(canvas_lib.INKS):
        groups = horizon.chains(own, "context", question=question) or groups
    free = [one for one in own if one.values["memory"] != "transformer"]
    shown = _Asked(question, groups, free, []).every
    # Lives of LATER are told from those of PROCESS too, which may be longer.
    differ = horizon.varying(shown if question == "process" else points)
    if question == "later":
        differ += [axis for axis in LATER_AXES if len({one.later_values.get(axis) for one in shown}) > 1]
    return _Asked(question, groups, free, [axis for axis in differ if axis not in ("context", "memory")])


def _beside(number: int, num: int) -> float:
    """The factor by which the marks of one line of several stand beside those of the others."""
    return 1.05 ** (number - (num - 1) / 2)


def _places(row: _Asked) -> list[tuple[list[float], list[Point]]]:
    """Every line's points and where they stand; each point without a window alone, right of all."""
    num = len(row.groups)
    lines = [
        ([one.values["context"] * _beside(number, num) for one in chain.points], chain.points)
        for number, chain in enumerate(row.groups)
    ]
    right = _right_of(row) if row.free else 1.0
    return lines + [([right * _beside(number, len(row.free))], [one]) for number, one in enumerate(row.free)]


def _draw_shares(axis: Axes, row: _Asked, inks: Mapping[str, str], rules: Rules) -> None:
    for places, some in _places(row):
        label = row.label(some[0])
        if some[0].values["memory"] == "transformer":
            is_again = list(inks).index(label) >= len(canvas_lib.INKS)  # its colour is another line's too
            style = _DASHES if is_again else "-"
            draw_line(axis, some, places, row.question, inks[label], label, style)
            _draw_analytic(axis, some, places, row.question, inks[label])
        else:
            draw_mark(axis, places[0], some[0], row.question, inks[label], "D")
    share_axis(axis, rules)
    axis.set_ylabel("share of the learner's gain")
    axis.set_title(_NAMES[row.question])
    _draw_contexts(axis, row)


_DASHES = (0, (5, 1.5))
_ANALYTIC = (
    ("window", ":", "perfect use of the window: dotted, in the colour of its line", GREY),
    ("ceiling", "--", "perfect knowledge at this epsilon", _CEILING_INK),
)


def _draw_analytic(
    axis: Axes, shown: Sequence[Point], places: Sequence[float], question: str, ink: str
) -> None:
    for name, style, _, _ in _ANALYTIC:
        heights = [getattr(one.of(question), name) for one in shown]
        heights = [np.nan if height is None else height for height in heights]
        color = ink if name == "window" else _CEILING_INK
        axis.plot(places, heights, style, color=color, linewidth=1.1, zorder=1)


_MARKS = {
    "behind": ("v", "departs, falling behind"),
    "ahead": ("^", "departs, ahead"),
    "not within": ("s", "has not departed by the end"),
    "not resolved": ("o", "not resolved by the end"),
}


def _departs(found: Imitated) -> str:
    """Which of the marks."""
    if found.departure_steps is not None:
        return "behind" if found.departure_side == "behind" else "ahead"
    return "not within" if found.departure_is_resolved else "not resolved"


def _draw_departures(axis: Axes, row: _Asked, inks: Mapping[str, str]) -> None:
    for places, some in _places(row):
        for place, point in zip(places, some, strict=True):
            _draw_departure(axis, place, point, row.question, inks[row.label(point)])
    if row.every:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        low, high = low / 1.5, high * 1.3  # room, and at least one tick
        axis.set_ylim(low, high)
        ticks = canvas_lib.log_ticks(low, high)
        axis.set_yticks(ticks, [f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
        axis.minorticks_off()
    else:
        axis.set_yticks([])
    axis.set_ylabel("departs after, steps")
    axis.set_title("Departure horizon")
    _draw_contexts(axis, row)


def _draw_departure(axis: Axes, place: float, point: Point, question: str, ink: str) -> None:
    found = point.of(question)
    name = _departs(found)
    filled = point.counts_for(question) and name != "not resolved"
    height = found.horizon_steps if found.departure_steps is None else max(found.departure_steps, 1.0)
    if name == "not within":
        axis.plot([place, place], [height / 2, height], ":", color=ink, linewidth=1.2)
    marker, size = _MARKS[name][0], 7 if name in ("behind", "ahead") else 5.5
    axis.plot(place, height, marker, color=ink, markerfacecolor=ink if filled else "white", markersize=size)


def _name_marks(axis: Axes, rows: Sequence[_Asked]) -> None:
    """Names for the legend, in grey, of what has its line's colour in the panels."""
    every = [one.of(row.question) for row in rows for one in row.every]
    for name, style, label, color in _ANALYTIC:
        if any(getattr(one, name) is not None for one in every):
            axis.plot([], [], style, color=color, linewidth=1.1, label=label)
    for name, (marker, label) in _MARKS.items():
        if name in map(_departs, every):
            fill = "white" if name == "not resolved" else GREY
            axis.plot([], [], marker, color=GREY, markerfacecolor=fill, label=label)


def _right_of(row: _Asked) -> float:
    contexts = [one.values["context"] for chain in row.groups for one in chain.points]
    return _BESIDE * max(contexts or [one.values["context"] for one in row.free])


def _draw_contexts(axis: Axes, row: _Asked) -> None:
    if not row.every:
        canvas_lib.say(axis, "not answered over a whole learning")
        return
    contexts = sorted({one.values["context"] for chain in row.groups for one in chain.points})
    names = [f"{one:,}" for one in contexts]
    if row.free:
        contexts, names = [*contexts, _right_of(row)], [*names, "no\nwindow"]
    axis.set_xscale("log", base=2)
    axis.set_xlim(min(contexts) / 1.45, max(contexts) * 1.45)
    axis.set_xticks(contexts, names)
    axis.minorticks_off()
    axis.set_xlabel(AXES["context"])


def surface(points: Sequence[Point]) -> Figure | None:
    """Numbers of tasks against numbers of learners, where both differ: PROCESS, and rung 2b where it was asked."""
    found: dict[tuple, list[Point]] = {}
    for point in horizon.whole(points):
        if isinstance(point.values["tasks"], int):
            rest = tuple(
                (axis, value) for axis, value in point.values.items() if axis not in ("tasks", "learners")
            )
            found.setdefault(rest, []).append(point)
    grids = {rest: grid for rest, grid in found.items() if all(len(one) > 1 for one in _sides(grid))}
    if not grids:
        return None
    grid = [point for some in grids.values() for point in some]
    differ = horizon.varying(grid)
    heights = {"PROCESS, unseen tasks": lambda one: one.process.share}
    if any(one.elsewhere is not None for one in grid):
        heights["ELSEWHERE, rung 2b"] = lambda one: one.elsewhere

    def draw(canvas: Canvas) -> None:
        rows = canvas.subplots(len(grids), len(heights), squeeze=False, sharey="row")
        for panels, (rest, some) in zip(rows, grids.items(), strict=True):
            told = horizon.told(dict(rest), [axis for axis in differ if axis not in ("tasks", "learners")])
            for panel, (name, height) in zip(panels, heights.items(), strict=True):
                _draw_grid(panel, some, height)
                panel.set(title=f"{name}, {told}" if told else name, xlabel=AXES["learners"])
            panels[0].set_ylabel(AXES["tasks"])

    return draw_figure(
        "surface",
        "How many tasks, how many learners",
        "The share of the learner's gain that the frozen imitator makes from an empty context.",
        f"Numbers of tasks by numbers of learners, in {len(grids)} grids.",
        draw,
        size=(4.2 * len(heights) + 0.6, 3.4 * len(grids)),
    )


def _sides(grid: Sequence[Point]) -> tuple[list[int], list[int]]:
    """Its numbers of tasks, and of learners, ascending."""
    tasks, learners = (sorted({one.values[axis] for one in grid}) for axis in ("tasks", "learners"))
    return tasks, learners


def _draw_grid(panel: Axes, grid: Sequence[Point], height: Callable[[Point], float | None]) -> None:
    tasks, learners = _sides(grid)
    values = np.full((len(tasks), len(learners)), np.nan)
    for one in grid:
        place = tasks.index(one.values["tasks"]), learners.index(one.values["learners"])
        share = height(one)
        values[place] = np.nan if share is None else share
        words = "–" if share is None else f"{share:.2f}" + ("" if one.is_closed else "\nopen")
        panel.text(place[1], place[0], words, ha="center", va="center", fontsize=9)
    panel.imshow(values, origin="lower", vmin=0.0, vmax=1.2, cmap="YlGnBu", alpha=0.7, aspect="auto")
    panel.set_xticks(range(len(learners)), [f"{one:,}" for one in learners])
    panel.set_yticks(range(len(tasks)), [f"{one:,}" for one in tasks])
    panel.grid(visible=False)
