"""The figure of several runs side by side, a panel a question."""

from collections.abc import Mapping, Sequence
from typing import Any

from cl_imitate.config import Rules
from cl_imitate.figures.canvas import ANSWER_INK, GREY, IMITATOR, Figure, draw_figure
from cl_imitate.figures.intervals import draw_interval, draw_zones, label_rows

_HEIGHT, _WIDTH = 0.42, 2.5  # inches: of a run's row, of a question's panel


def comparison(runs: Sequence[tuple[str, Mapping[str, Any]]], rules: Rules) -> Figure:
    """A panel a question, a row a run (its name and verdict); the bounds are those of `rules`."""
    questions = list(runs[0][1]["questions"])

    def draw(canvas) -> None:
        axes = canvas.subplots(1, len(questions), squeeze=False, sharey=True)[0]
        for axis, question in zip(axes, questions, strict=True):
            found = [verdict["questions"][question] for _, verdict in runs]
            even = question in ("now", "month")
            bounds = (rules.parity, rules.parity) if even else (rules.learns_no, rules.learns_yes)
            draw_zones(axis, [one["ci95"] for one in found if one["estimate"] is not None], *bounds)
            for row, one in enumerate(found):
                if one["estimate"] is None:
                    middle = axis.get_yaxis_transform()
                    axis.text(
                        0.5,
                        row,
                        one["answer"],
                        transform=middle,
                        ha="center",
                        va="center",
                        color=GREY,
                    )
                    continue
                settled = one["answer"] in ("yes", "no")
                ink = IMITATOR if settled else GREY
                draw_interval(axis, row, one["estimate"], one["ci95"], ink, "o")
                axis.annotate(
                    one["answer"], (one["estimate"], row), (0, 6), textcoords="offset points",
                    ha="center", fontsize=8, color=ANSWER_INK.get(one["answer"], GREY),
                )  # fmt: skip
            share = "of the learner's gain" if even or question == "elsewhere" else "of its improvement"
            label_rows(axis, [name for name, _ in runs], share)
            axis.set_title(question.upper(), pad=16, fontweight="bold", fontsize=10)

    alt = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{question.upper()} {verdict['questions'][question]['answer']}" for question in questions
        )
        for name, verdict in runs
    )
    return draw_figure(
        "comparison",
        "Runs side by side",
        "What the frozen imitator reaches, as a share of the learner's, with 95% intervals over learners and imitator "
        "seeds. An interval wholly in the right zone is a yes, wholly in the left one a no; grey ones are neither.",
        f"Estimates with intervals, a panel a question, a row a run. {alt}.",
        draw,
        size=(1.6 + _WIDTH * len(questions), 1.3 + _HEIGHT * len(runs)),
    )
