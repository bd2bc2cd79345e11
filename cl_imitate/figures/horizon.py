"""The figures of a horizon: how far frozen imitation goes, where it breaks, and what moves the break.

A filled mark is a point at converged training, a hollow one a point that is open.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cl_imitate.config import Rules
from cl_imitate.evaluation import findings, horizon
from cl_imitate.evaluation.horizon import AXES, Chain, Point
from cl_imitate.figures import canvas as canvas_lib
from cl_imitate.figures.canvas import Axes, Canvas, Figure, draw_figure

_GREY = "#6B6B6B"
_NAMES = {"process": "PROCESS, from an empty context", "later": "LATER, after the recording stopped"}
_WIDTH, _HEIGHT = 5.6, 3.5  # inches: of a panel
_MOST_NAMES = 6  # lines of a panel that are named in it
_SHARES = (-0.15, 1.3)  # what a panel of shares shows
_BESIDE = 2.2  # what has no window stands right of the longest context, by this factor


def curves(points: Sequence[Point], rules: Rules) -> Figure:
    """Against the context: the share of the learning that is imitated, and the departure horizon; a line for each
    value of what else differs. LATER has a row of its own where it is answered."""
    questions = [name for name in _NAMES if name == "process" or _answered(points, name)]
    groups = horizon.chains(points, "context", least=1)
    if len(groups) > len(canvas_lib.INKS):
        groups = horizon.chains(points, "context") or groups
    free = [point for point in points if point.values["memory"] != "transformer"]
    shown = [point for chain in groups for point in chain.points] + free
    differ = [axis for axis in horizon.varying(shown) if axis not in ("context", "memory")]
    inks = _inks(shown, differ)

    def draw(canvas: Canvas) -> None:
        rows = canvas.subplots(len(questions), 2, squeeze=False)
        for axes, question in zip(rows, questions, strict=True):
            _shares(axes[0], groups, free, question, differ, inks, rules)
            _departures(axes[1], groups, free, question, differ, inks)
        canvas_lib.draw_legend(canvas, rows.ravel(), columns=5)

    return draw_figure(
        "horizon",
        "How far frozen imitation goes",
        "Left, the share of the learner's gain that the frozen imitator makes (95% intervals over learners and "
        "imitator seeds); dotted, the share of a policy that makes perfect use of the same window; dashed, perfect "
        "knowledge at the learner's epsilon. A break at the dotted line is bookkeeping, a break below it is the "
        "finding. Right, the steps after which the imitator departs from the learner: downwards where it falls behind, "
        "upwards where it is ahead; a square on a dotted stem at the end of the horizon: has not departed by then; a "
        "hollow circle there: not resolved, the intervals being too wide to tell. Other marks are filled where training "
        "had converged. An arrow at a panel's edge: the share lies beyond it.",
        " ".join(findings.findings(points)[:1]),
        draw,
        size=(2 * _WIDTH, _HEIGHT * len(questions) + 0.6),
    )


def _beside(number: int, num: int) -> float:
    """The factor by which the marks of one line of several stand beside those of the others."""
    return 1.05 ** (number - (num - 1) / 2)


def _inks(points: Sequence[Point], differ: Sequence[str]) -> dict[str, str]:
    labels = dict.fromkeys(_label(point, differ) for point in points)
    return {label: canvas_lib.INKS[number % len(canvas_lib.INKS)] for number, label in enumerate(labels)}


def _label(point: Point, differ: Sequence[str]) -> str:
    return horizon.told(point.values, differ) or "imitator"


def _answered(points: Sequence[Point], question: str) -> bool:
    return any(point.of(question).is_answered for point in points)


def _shares(axis, groups: Sequence[Chain], free, question: str, differ, inks: Mapping, rules: Rules) -> None:
    for number, (_, some) in enumerate(groups):
        ink = inks[_label(some[0], differ)]
        shown = [one for one in some if one.of(question).is_answered]
        places = [one.values["context"] * _beside(number, len(groups)) for one in shown]
        _line(axis, shown, places, question, ink, _label(some[0], differ))
        _analytic(axis, shown, question, ink)
    for number, point in enumerate(free):
        if point.of(question).is_answered:
            place = _right_of(groups, free) * _beside(number, len(free))
            _mark(axis, place, point, question, inks[_label(point, differ)], "D")
    _share_axis(axis, rules)
    axis.set_ylabel("share of the learner's gain")
    axis.set_title(_NAMES[question])
    _context_axis(axis, groups, free)


def _share_axis(axis, rules: Rules) -> None:
    axis.axhspan(-9, rules.learns_no, color="#FBF1EB", zorder=0)
    axis.axhspan(rules.learns_yes, 9, color="#EAF4F0", zorder=0)
    axis.set_ylim(*_SHARES)


def _analytic(axis, shown: Sequence[Point], question: str, ink: str) -> None:
    contexts = [one.values["context"] for one in shown]
    for name, line, color, label in (
        ("window", ":", ink, "perfect use of the window"),
        ("ceiling", "--", "#333333", "perfect knowledge at this epsilon"),
    ):
        heights = [getattr(one.of(question), name) for one in shown]
        heights = [np.nan if height is None else height for height in heights]
        if np.isfinite(heights).any():
            axis.plot(contexts, heights, line, color=color, linewidth=1.1, label=label, zorder=1)


def _line(
    axis, shown: Sequence[Point], places: Sequence[float], question: str, ink: str, label: str | None
) -> None:
    axis.plot(places, [one.of(question).share for one in shown], color=ink, linewidth=1.4, label=label)
    for place, point in zip(places, shown, strict=True):
        _mark(axis, place, point, question, ink, "o")


def _mark(axis, place: Any, point: Point, question: str, ink: str, marker: str) -> None:
    found = point.of(question)
    assert found.share is not None
    ends = np.clip(horizon.ends(found), *_SHARES)
    axis.plot([place, place], ends, color=ink, linewidth=1.4)
    fill = ink if point.counts_for(question) else "white"
    if not _SHARES[0] <= found.share <= _SHARES[1]:  # it lies beyond the panel: an arrow at its edge
        marker = "^" if found.share > _SHARES[1] else "v"
    height = float(np.clip(found.share, *_SHARES))
    axis.plot(place, height, marker, color=ink, markerfacecolor=fill, markersize=6.5, zorder=4, clip_on=False)


def _departures(axis, groups: Sequence[Chain], free, question: str, differ, inks: Mapping) -> None:
    for number, (_, some) in enumerate(groups):
        for point in some:
            place = point.values["context"] * _beside(number, len(groups))
            _departure(axis, place, point, question, inks[_label(point, differ)])
    for number, point in enumerate(free):
        place = _right_of(groups, free) * _beside(number, len(free))
        _departure(axis, place, point, question, inks[_label(point, differ)])
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    low, high = low / 1.5, high * 1.3  # room, and at least one tick
    axis.set_ylim(low, high)
    axis.set_yticks(
        canvas_lib.log_ticks(low, high), [canvas_lib.steps(tick) for tick in canvas_lib.log_ticks(low, high)]
    )
    axis.minorticks_off()
    axis.set_ylabel("departs after, steps")
    axis.set_title("Departure horizon")
    _context_axis(axis, groups, free)


def _departure(axis, place: float, point: Point, question: str, ink: str) -> None:
    found = point.of(question)
    if not found.is_answered:
        return
    fill = ink if point.counts_for(question) else "white"
    if found.departure_steps is None and not found.departure_is_resolved:
        axis.plot(place, found.horizon_steps, "o", color=ink, markerfacecolor="white", markersize=5.5)
        return
    if found.departure_steps is None:
        axis.plot(
            [place, place], [found.horizon_steps / 2, found.horizon_steps], ":", color=ink, linewidth=1.2
        )
        axis.plot(place, found.horizon_steps, "s", color=ink, markerfacecolor=fill, markersize=5.5)
        return
    marker = "v" if found.departure_side == "behind" else "^"
    height = max(found.departure_steps, 1.0)
    axis.plot(place, height, marker, color=ink, markerfacecolor=fill, markersize=7)


def _right_of(groups: Sequence[Chain], free: Sequence[Point]) -> float:
    contexts = [one.values["context"] for _, some in groups for one in some]
    return _BESIDE * max(contexts or [one.values["context"] for one in free])


def _context_axis(axis, groups: Sequence[Chain], free: Sequence[Point]) -> None:
    contexts = sorted({one.values["context"] for _, some in groups for one in some})
    names = [str(one) for one in contexts]
    if free:
        contexts, names = [*contexts, _right_of(groups, free)], [*names, "no\nwindow"]
    axis.set_xscale("log", base=2)
    axis.set_xticks(contexts, names)
    axis.minorticks_off()
    axis.set_xlabel(AXES["context"])


def movers(points: Sequence[Point], rules: Rules) -> Figure | None:
    """A panel for each axis along which points differ: what moves the break, and what does not."""
    axes_here = [
        axis
        for axis in horizon.varying(points)
        if axis not in ("seed", "span", "rest") and horizon.chains(points, axis)
    ]
    if not axes_here:
        return None

    def draw(canvas: Canvas) -> None:
        columns = min(3, len(axes_here))
        panels = canvas.subplots(-(-len(axes_here) // columns), columns, squeeze=False, sharey=True).ravel()
        for panel, along in zip(panels, axes_here, strict=False):
            _moves(panel, points, along, rules)
        for panel in panels[len(axes_here) :]:
            panel.set_axis_off()
        panels[0].set_ylabel("share of the learner's gain")

    said = [horizon.moved(points, axis) for axis in axes_here]
    alt = "; ".join(
        f"{AXES[axis]}: the answer changes in {one.num_changed} of {one.num_chains} comparisons"
        for axis, one in zip(axes_here, said, strict=True)
    )
    return draw_figure(
        "movers",
        "What moves the break",
        "PROCESS from an empty context. Each line changes one thing and holds all others. Under each panel, in how "
        "many of its lines the answer changes, among points at converged training.",
        f"{alt}.",
        draw,
        size=(3.8 * min(3, len(axes_here)), 4.2 * -(-len(axes_here) // 3)),
    )


def _moves(panel, points: Sequence[Point], along: str, rules: Rules) -> None:
    made = horizon.chains(points, along)
    values = list(dict.fromkeys(one.values[along] for chain in made for one in chain.points))
    others = [
        axis for axis in horizon.varying([one for chain in made for one in chain.points]) if axis != along
    ]
    is_number = all(isinstance(value, int | float) for value in values)
    for number, chain in enumerate(made):
        shown = [one for one in chain.points if one.process.is_answered]
        places = [one.values[along] if is_number else values.index(one.values[along]) for one in shown]
        label = horizon.told(chain.rest, [axis for axis in others if chain.rest.get(axis) is not None])
        _line(
            panel,
            shown,
            places,
            "process",
            canvas_lib.INKS[number % len(canvas_lib.INKS)],
            label.replace("memory ", "") or None,
        )
    if len(made) <= _MOST_NAMES and others:
        # Below the panel, which lines fill.
        panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.26))
    _share_axis(panel, rules)
    if is_number and min(values) > 0:
        panel.set_xscale("log")
        panel.set_xticks(sorted(values), [f"{value:g}" for value in sorted(values)])
        panel.minorticks_off()
    elif not is_number:
        panel.set_xticks(range(len(values)), [str(value).replace("_", "\n") for value in values])
        panel.margins(x=0.25)
    found = horizon.moved(points, along)
    panel.set_title(AXES[along])
    panel.set_xlabel(f"answer changes in {found.num_changed} of {found.num_chains}", color=_GREY, fontsize=9)


def surface(points: Sequence[Point]) -> Figure | None:
    """Numbers of tasks against numbers of learners, where both differ: PROCESS, and rung 2b where it was asked."""
    found: dict[tuple, list[Point]] = {}
    for point in points:
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
    panel.set_xticks(range(len(learners)), [str(one) for one in learners])
    panel.set_yticks(range(len(tasks)), [str(one) for one in tasks])
    panel.grid(visible=False)
