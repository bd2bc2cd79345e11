"""The figure of NOW and MONTH: shares of the held learner's gain."""

from collections.abc import Mapping

from cl_imitate.config import Rules
from cl_imitate.figures.canvas import IMITATOR, Canvas, Figure, draw_figure, steps
from cl_imitate.figures.intervals import draw_interval, draw_zones, label_rows


def parity(verdict: Mapping, rules: Rules) -> Figure | None:
    """NOW at each fork, and MONTH's stages on training and unseen tasks, as shares of the held learner's gain."""
    now, month = verdict["questions"]["now"], verdict["questions"]["month"]
    groups = [(f"NOW · fork at {steps(one['fork_step'])}", one) for one in now["forks"]]
    for split, words in (("stages", "training tasks"), ("unseen", "unseen tasks")):
        for one in month[split]:
            label = f"MONTH · {steps(one['stage_step'])} → {steps(one['target_step'])}, {words}"
            groups.append((label, one))
    groups = [(label, one) for label, one in groups if one["ratio"] is not None]
    if not groups:
        return None

    def draw(canvas: Canvas) -> None:
        axis = canvas.subplots()
        right = draw_zones(axis, [one["ci95"] for _, one in groups], rules.parity, rules.parity)
        for row, (_, one) in enumerate(groups):
            draw_interval(axis, row, one["ratio"], one["ci95"], IMITATOR, "o")
            axis.text(right, row, f"  {one['answer']}", va="center", clip_on=False)
        label_rows(axis, [label for label, _ in groups], "imitator's gain / held learner's gain")

    alt = "; ".join(f"{label}: {one['ratio']:.2f}, {one['answer']}" for label, one in groups)
    return draw_figure(
        "parity",
        "NOW and MONTH: as good as the learner is?",
        f"A point with its {100 * rules.confidence:.4g}% interval wholly right of the line at {rules.parity:g} is a "
        "yes, wholly left of it a no. An arrow: the interval goes on beyond the edge.",
        f"Points of the imitator's share of the held learner's gain. {alt}.",
        draw,
        size=(9.6, 0.42 * len(groups) + 1.1),
    )
