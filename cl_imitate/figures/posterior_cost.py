"""The figure of what the learner posterior costs: where running many learners becomes dearer than one imitator."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_imitate.figures.canvas import STYLES, Canvas, Figure, draw_figure

_PER_PLACE = ("#009E73", "#CC79A7")


def posterior_cost(control: Mapping[str, Any]) -> Figure | None:
    """Operations a step and bytes of K hypotheses, beside those of a learner and of the imitator.

    `control` is the verdict's entry of the learner posterior.
    """
    places = control.get("places") or {}
    if not places:
        return None

    def draw(canvas: Canvas) -> None:
        for axis, (what, words) in zip(
            canvas.subplots(1, 2),
            (("flops_per_step", "floating-point operations a step"), ("bytes", "bytes a stream")),
            strict=True,
        ):
            for (name, one), color in zip(places.items(), _PER_PLACE, strict=False):
                number = np.geomspace(1, 1e4, 60)
                each = one[what]["posterior"] / one["num_hypotheses"]
                axis.plot(number, number * each, color=color, label=f"posterior, {name}")
                axis.plot(one["num_hypotheses"], one[what]["posterior"], "o", color=color)
            last = list(places.values())[-1][what]
            for arm, key in (("learner", "learner"), ("imitator", "transformer")):
                color, _ = STYLES[arm]
                axis.axhline(last[key], color=color, linestyle="--", label=f"one {arm}")
            axis.set(xscale="log", yscale="log", xlabel="hypotheses run", ylabel=words)
            axis.legend(fontsize=8)

    meets = ", ".join(f"{name} {one['hypotheses_at_transformer_flops']:.3g}" for name, one in places.items())
    return draw_figure(
        "posterior_cost",
        "What the huge ensemble costs",
        "Running K learners on one stream, which share its replay, beside one learner and the frozen imitator, by "
        f"count of their products. The dots are what was run. Hypotheses for the operations of one imitator: {meets}.",
        f"Costs rise with the number of hypotheses; they meet the imitator's at {meets}.",
        draw,
        size=(10.4, 3.6),
    )
