"""The figure of how the imitators were trained."""

from collections.abc import Mapping, Sequence

import numpy as np

from cl_imitate.figures.canvas import IMITATOR, Canvas, Figure, draw_figure, draw_legend, label_steps, steps

_FLOOR = "floor: the learner's greedy action known"


def losses(found: Sequence[Mapping]) -> Figure | None:
    """Training and held-out cross-entropy of every imitator seed."""
    if not found:
        return None

    def draw(canvas: Canvas) -> None:
        columns = min(len(found), 3)
        axes = canvas.subplots(-(-len(found) // columns), columns, squeeze=False, sharey=True).ravel()
        for axis, one in zip(axes, found, strict=False):
            axis.set_title(f"context {one['context_steps']}, data up to step {steps(one['fork_step'])}")
            for number, loss in enumerate(np.atleast_2d(one["train_loss"])):
                label = None if number else "recorded learners (training)"
                axis.plot(one["updates"], loss, color="#BBBBBB", linewidth=0.9, label=label)
            for number, loss in enumerate(np.atleast_2d(one["held_out_loss"])):
                label = None if number else "held-out learners"
                axis.plot(one["held_out_update"], loss, ".-", color=IMITATOR, linewidth=1.2, label=label)
            if (floor := one.get("floor")) is not None:
                axis.axhline(floor, color="#888888", linestyle="--", linewidth=1.0, label=_FLOOR)
            label_steps(axis, "gradient update")
        for axis in axes[len(found) :]:
            axis.set_axis_off()
        axes[0].set_ylabel("cross-entropy, nats")
        draw_legend(canvas, axes)

    ends = "; ".join(
        f"context {one['context_steps']}, fork {one['fork_step']}: training "
        f"{np.nanmean(np.atleast_2d(one['train_loss'])[:, -1]):.2f}, held-out "
        f"{_last_loss(one):.2f}"
        for one in found
    )
    several = len({one["context_steps"] for one in found}) > 1
    gaps = [
        f"{_last_loss(one) - one['floor']:.2f} ("
        + (f"context {one['context_steps']}, " if several else "")
        + f"data up to step {steps(one['fork_step'])})"
        for one in found
        if one.get("floor") is not None
    ]
    gap = f" Left above the floor at the end, in nats: {', '.join(gaps)}." if gaps else ""
    return draw_figure(
        "losses",
        "How the imitators were trained",
        "Next-action cross-entropy, a line an imitator seed. A held-out loss that turns up while the training loss "
        f"falls would mean that learners are being memorised.{gap}",
        f"Loss curves; at the end, {ends}.",
        draw,
        size=(12.4 if len(found) > 1 else 7.0, 2.9 * -(-len(found) // 3) + 0.6),
    )


def _last_loss(one: Mapping) -> float:
    return float(np.nanmean(np.atleast_2d(one["held_out_loss"])[:, -1]))
