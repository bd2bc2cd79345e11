"""The figure of single learners: the imitator's level against the learner's."""

from collections.abc import Mapping

import numpy as np

from cl_imitate.config import Rules
from cl_imitate.evaluation import metrics
from cl_imitate.evaluation.results import Cell
from cl_imitate.figures.canvas import IMITATOR, STYLES, Canvas, Figure, draw_figure


def points(cells: Mapping[str, Cell], rules: Rules) -> Figure | None:
    """A point a learner: the imitator's level against the learner's."""
    levels = {}
    for title, cell in cells.items():
        other = "learner_held" if cell.protocol in ("now", "month") else "learner"
        if metrics.missing_arms(cell, "imitator", other):
            continue
        both = [
            metrics.whole_level(cell, arm) if other == "learner_held" else metrics.end_level(cell, arm, rules)
            for arm in (other, "imitator")
        ]
        levels[title] = (cell, both[0].mean(axis=0), both[1].mean(axis=0))
    if not levels:
        return None

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots(1, len(levels), squeeze=False)[0]
        for axis, (title, (cell, learner, imitator)) in zip(axes, levels.items(), strict=True):
            finite = np.isfinite(learner) & np.isfinite(imitator)
            everything = np.concatenate([learner[finite], imitator[finite], cell.random_return])
            low, high = everything.min(), everything.max()
            edge = 0.06 * (high - low or 1.0)
            axis.plot([low - edge, high + edge], [low - edge, high + edge], color="#999999", linewidth=0.8)
            axis.axhline(
                np.nanmean(cell.random_return), color=STYLES["random"][0], linestyle=":", linewidth=1
            )
            axis.scatter(learner, imitator, s=22, color=IMITATOR, alpha=0.6, linewidths=0)
            axis.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), box_aspect=1)
            axis.set_title(title)
            axis.set_xlabel("learner's return")
        axes[0].set_ylabel("frozen imitator's return")

    parts = [
        f"{title}: imitator above the learner on {np.mean(imitator > learner):.0%} of {len(learner)} learners"
        for title, (_, learner, imitator) in levels.items()
    ]
    return draw_figure(
        "points",
        "The frozen imitator against each held-out learner",
        "A point a held-out learner (each on its own task, where tasks differ), averaged over imitator seeds. On the "
        "diagonal, imitator and learner are equal; the dotted line is the random policy.",
        f"Scatter of the imitator's return against the learner's. {'; '.join(parts)}.",
        draw,
        size=(4.0 * len(levels), 4.3),
    )
