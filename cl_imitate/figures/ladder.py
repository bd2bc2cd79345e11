"""The figure of ELSEWHERE: the novelty ladder."""

from collections.abc import Mapping, Sequence

from cl_imitate.config import Rules
from cl_imitate.figures.canvas import GREY, IMITATOR, LEARNER, Canvas, Figure, draw_figure, draw_legend
from cl_imitate.figures.intervals import draw_interval, draw_zones, label_rows


def ladder(rungs: Sequence[Mapping], rules: Rules) -> Figure | None:
    """ELSEWHERE: per rung, the learner's own gain and what the imitator recovers of it."""
    rungs = [one for one in rungs if one["recovered"] is not None]
    if not rungs:
        return None

    def draw(canvas: Canvas) -> None:
        axis = canvas.subplots()
        intervals = [one["ci95"] for one in rungs]
        right = draw_zones(axis, intervals, rules.learns_no, rules.learns_yes)
        for row, one in enumerate(rungs):
            counted = one["counted"]
            if one["learner_gain"] is not None:
                ink = LEARNER if counted else "#B8B8B8"
                draw_interval(axis, row - 0.17, one["learner_gain"], one["learner_gain_ci95"], ink, "s")
            draw_interval(
                axis, row + 0.17, one["recovered"], one["ci95"], IMITATOR if counted else "#B8B8B8", "o"
            )
            verdict = one["answer"] if counted else (one["reason"] or "not counted").split(",")[0]
            axis.text(
                right, row, f"  {verdict}", va="center", color="black" if counted else GREY, clip_on=False
            )
        label_rows(axis, [f"{one['rung']} · {one['name']}" for one in rungs], "share")
        for label, color, marker in (
            ("learner: share of its range that it reaches", LEARNER, "s"),
            ("frozen imitator: share of the learner's gain that it recovers", IMITATOR, "o"),
        ):
            axis.plot([], [], marker, color=color, label=label)
        draw_legend(canvas, [axis], columns=2)

    alt = "; ".join(
        f"rung {one['rung']}, {one['name']}: {one['recovered']:.2f}, {one['answer']}" for one in rungs
    )
    return draw_figure(
        "ladder",
        "ELSEWHERE: the novelty ladder",
        "From an empty context, in tasks ever further from those of training. A rung counts only where the learner "
        f"itself reaches {rules.elsewhere_min_learner_gain:g} of its range; others are grey, with the reason. "
        "An arrow: the interval goes on beyond the edge.",
        f"Share of the learner's gain that the imitator recovers, per rung. {alt}.",
        draw,
        size=(10.6, 0.55 * len(rungs) + 1.4),
    )
