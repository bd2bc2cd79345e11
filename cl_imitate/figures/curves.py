"""The figure of all arms over time, a panel a cell."""

from collections.abc import Callable, Sequence

import numpy as np

from cl_imitate.config import Rules
from cl_imitate.evaluation import metrics
from cl_imitate.evaluation.results import ARMS, Cell
from cl_imitate.figures.arms import band_words, draw_arm, draw_before, draw_bounds
from cl_imitate.figures.canvas import (
    STYLES,
    Canvas,
    Figure,
    draw_figure,
    draw_legend,
    fill_panels,
    label_steps,
)


def curves(name: str, title: str, caption: str, cells: Sequence[Cell], rules: Rules, **options) -> Figure:
    """All arms of each cell, a panel a cell, with the ceiling, the optimum and random.

    `options`: `panel_title(cell) -> str`, and `before`: the cell whose learner shows the life before a fork.
    """
    panel_title: Callable[[Cell], str] = options["panel_title"]
    before: Cell | None = options.get("before")
    columns = min(len(cells), 3)
    lines = -(-len(cells) // columns)

    def draw(canvas: Canvas) -> None:
        same = len({cell.protocol for cell in cells} & {"elsewhere"}) == 0  # else each rung has its own range
        axes = canvas.subplots(lines, columns, squeeze=False, sharey=same).ravel()
        for axis, cell in zip(axes, cells, strict=False):
            axis.set_title(panel_title(cell))
            if before is not None:
                draw_before(axis, before, cell.start_step, rules)
            for arm in STYLES:
                if arm in cell.returns and not metrics.missing_arms(cell, arm):
                    draw_arm(axis, cell, arm, rules)
            draw_bounds(axis, cell)
            label_steps(axis, "learner's age, steps")
        for axis in axes[len(cells) :]:
            axis.set_axis_off()
        for group in [axes] if same else [[axis] for axis in axes]:
            fill_panels(group)
        for axis, cell in zip(axes, cells, strict=False):
            if cell.start_step > 0:
                axis.axvline(cell.start_step, color="#999999", linewidth=0.8)
        for row in range(lines):
            axes[row * columns].set_ylabel("return per episode")
        draw_legend(canvas, axes)

    arms = sorted({ARMS.get(arm, arm) for cell in cells for arm in cell.returns})
    panels = "; ".join(f"{panel_title(cell)}: {_ends(cell, rules)}" for cell in cells).replace("\n", ", ")
    alt = f"Return against age, {len(cells)} panels, arms: {', '.join(arms)}. Levels at the end: {panels}."
    return draw_figure(
        name,
        title,
        f"{caption} {band_words(rules)}",
        alt,
        draw,
        size=(12.4 if columns > 1 else 8.0, 3.1 * lines + 0.7),
    )


def _ends(cell: Cell, rules: Rules) -> str:
    found = []
    for arm in cell.returns:
        if not metrics.missing_arms(cell, arm):
            level = metrics.end_level(cell, arm, rules)
            found.append(f"{ARMS.get(arm, arm)} {np.nanmean(level):.2f}")
    return ", ".join(found)
