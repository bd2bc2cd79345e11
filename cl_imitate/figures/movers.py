"""What moves the break: a panel for each thing that differs, all else being equal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from cl_imitate.config import Rules
from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import AXES, Chain, Point
from cl_imitate.evaluation.moved import moved
from cl_imitate.figures.canvas import GREY, INKS, Axes, Canvas, Figure, draw_figure
from cl_imitate.figures.shares import draw_line, share_axis

_COLUMNS = 2
_MOST_NAMES = 10  # lines of a panel that are named beside it
_MOST_LETTERS = 26  # of the numbers below a panel
_STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 3)))
_BESIDE = 0.014  # of a panel's width: lines stand so far beside each other, where they would hide each other


def movers(points: Sequence[Point], rules: Rules) -> Figure | None:
    """A panel for each axis along which points differ: what moves the break, and what does not."""
    points = horizon.whole(points)
    panels_of = {
        axis: made
        for axis in horizon.varying(points)
        if axis not in ("seed", "span", "rest") and (made := horizon.chains(points, axis))
    }
    if not panels_of:
        return None
    lines_of = _lines(panels_of)
    num_rows = -(-len(panels_of) // _COLUMNS)

    def draw(canvas: Canvas) -> None:
        panels = canvas.subplots(num_rows, _COLUMNS, squeeze=False)
        for panel, (along, lines) in zip(panels.ravel(), lines_of.items(), strict=False):
            _draw_panel(panel, along, lines, rules)
            panel.set_xlabel(_changes(points, along), color=GREY, fontsize=9)
        for panel in panels.ravel()[len(panels_of) :]:
            panel.set_axis_off()
        for row in panels:
            row[0].set_ylabel("share of the learner's gain")

    return draw_figure(
        "movers",
        "What moves the break",
        "PROCESS from an empty context. Each line changes one thing and holds all others; beside each panel stands "
        "what its lines hold, in the order of their right ends. A colour means the same in every panel; where lines "
        "are of different contexts, the shorter is the darker. Hollow: training had not converged, or a longer one "
        "ends lower, and the point is not counted (along the updates it is, if its own curve was flat). An arrow at "
        "an edge: the interval goes on beyond it. Lines stand a little beside each other, so "
        "that none hides another.",
        f"{'; '.join(f'{AXES[axis]}: the {_changes(points, axis)}' for axis in panels_of)}.",
        draw,
        size=(5.9 * _COLUMNS, 2.9 * num_rows),
    )


def _changes(points: Sequence[Point], along: str) -> str:
    found = moved(points, along)
    lines = "line" if found.num_chains == 1 else "lines"
    told = f"answer changes in {found.num_changed} of {found.num_chains} {lines}"
    return f"{told}; {found.num_open} not converged" if found.num_open else told


class _Line(NamedTuple):
    """One line of a panel."""

    chain: Chain
    label: str  # what of all that it holds tells it from the others of its panel
    ink: Any
    style: Any


def _lines(panels_of: Mapping[str, Sequence[Chain]]) -> dict[str, list[_Line]]:
    """By panel. A colour means the same in all of them: a context where lines differ in it, else all else that a line
    holds. Dashes tell apart what has one colour in a panel."""
    every = [one for made in panels_of.values() for chain in made for one in chain.points]
    differ = horizon.varying(every)
    contexts = sorted({one.values["context"] for one in every})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, max(2, len(contexts))))
    inks: dict[tuple, str] = {}
    found = {}
    for along, made in panels_of.items():
        here = horizon.varying([one for chain in made for one in chain.points])
        lines: list[_Line] = []
        for chain in made:
            held = [axis for axis in here if axis != along and chain.rest.get(axis) is not None]
            if "context" in held:
                ink = tuple(shades[contexts.index(chain.rest["context"])])
            else:
                setting = tuple(chain.rest.get(axis) for axis in differ if axis not in ("context", "memory"))
                ink = inks.setdefault(setting, INKS[len(inks) % len(INKS)])
            style = _STYLES[sum(one.ink == ink for one in lines) % len(_STYLES)]
            lines.append(_Line(chain, horizon.told(chain.rest, held).replace("memory ", ""), ink, style))
        found[along] = lines
    return found


def _draw_panel(panel: Axes, along: str, lines: Sequence[_Line], rules: Rules) -> None:
    values = list(dict.fromkeys(one.values[along] for line in lines for one in line.chain.points))
    is_number = all(isinstance(value, int | float) for value in values)
    is_log = is_number and min(values) > 0
    last: dict[str, float] = {}  # by label: the height of the line's right end
    for number, line in enumerate(lines):
        shown = [one for one in line.chain.points if one.process.is_answered]
        if not shown:
            continue
        aside = _BESIDE * (number - (len(lines) - 1) / 2)
        at = [one.values[along] if is_number else values.index(one.values[along]) for one in shown]
        places = [_place(one, values, aside, is_log) for one in at]
        draw_line(panel, shown, places, "process", line.ink, line.label or None, line.style)
        last[line.label] = horizon.share(shown[-1])
    share_axis(panel, rules)
    _draw_ticks(panel, values, is_number, is_log)
    panel.set_title(AXES[along])
    if len(lines) <= _MOST_NAMES and any(last):
        by_label = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        order = sorted(by_label, key=lambda label: -last[label])
        handles = [by_label[label] for label in order]
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "handlelength": 2.6}
        panel.legend(handles, order, fontsize=8, **beside)


def _place(value: float, values: Sequence[Any], aside: float, is_log: bool) -> float:
    """A value's place on the x axis, moved aside by a share of the panel's width."""
    if is_log:
        return value * (max(values) / min(values)) ** aside
    width = (
        max(values) - min(values) if all(isinstance(one, int | float) for one in values) else len(values) - 1
    )
    return value + aside * width


def _draw_ticks(panel: Axes, values: Sequence[Any], is_number: bool, is_log: bool) -> None:
    if not is_number:
        panel.set_xticks(
            range(len(values)), [horizon.value_told(value).replace(" ", "\n") for value in values]
        )
        panel.margins(x=0.25)
        return
    ticks = sorted(values)
    names = [horizon.value_told(tick) for tick in ticks]
    every = 1
    while sum(map(len, names[::-every])) > _MOST_LETTERS:
        every += 1
    if is_log:
        panel.set_xscale("log")
    panel.set_xticks(ticks[::-every], names[::-every])
    panel.minorticks_off()
    panel.margins(x=0.1)
