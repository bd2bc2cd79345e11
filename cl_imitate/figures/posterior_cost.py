"""The figure of what the learner posterior costs: where running many learners becomes dearer than one imitator."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_imitate.figures.canvas import STYLES, Canvas, Figure, draw_figure

_SAME = 0.1
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
            (("flops_per_step", "floating-point operations per step"), ("bytes", "bytes per stream")),
            strict=True,
        ):
            number = np.geomspace(1, 1e4, 60)
            for (names, each), color in zip(_lines(places, what), _PER_PLACE, strict=False):
                axis.plot(number, number * each, color=color, label=f"posterior, {names}")
            for (name, one), marker in zip(places.items(), "os", strict=False):
                run = one["num_hypotheses"]
                axis.plot(run, one[what]["posterior"], marker, color="#333333", label=f"run: {name} ({run})")
            last = list(places.values())[-1][what]
            for arm, key in (("learner", "learner"), ("imitator", "transformer")):
                color, _ = STYLES[arm]
                axis.axhline(last[key], color=color, linestyle="--", label=f"one {arm}")
            axis.set(xscale="log", yscale="log", xlabel="hypotheses run", ylabel=words)
            axis.legend(fontsize=8)

    meets = ", ".join(f"{name} {one['hypotheses_at_transformer_flops']:.3g}" for name, one in places.items())
    return draw_figure(
        "posterior_cost",
        "What the learner posterior costs (the essay's “huge ensemble”)",
        "Running K learners on one stream, which share its replay, beside one learner and the frozen imitator, by "
        f"count of their products. The dark marks are what was run. Hypotheses for the operations of one "
        f"imitator: {meets}.",
        f"Costs rise with the number of hypotheses; they meet the imitator's at {meets}.",
        draw,
        size=(10.4, 3.6),
    )


def _lines(places: Mapping[str, Any], what: str) -> list[tuple[str, float]]:
    """The cost of one hypothesis, by place; places in which it differs by less than a line's width are named
    together."""
    found: list[tuple[str, float]] = []
    for name, one in places.items():
        each = one[what]["posterior"] / one["num_hypotheses"]
        same = next(
            (number for number, (_, other) in enumerate(found) if abs(each / other - 1) < _SAME), None
        )
        if same is None:
            found.append((name, each))
        else:
            found[same] = (f"{found[same][0]} and {name}", found[same][1])
    return found
