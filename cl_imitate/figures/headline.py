"""The report's first figure: NOW, PROCESS and LATER side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from cl_imitate import statistics
from cl_imitate.config import Evaluation, Rules
from cl_imitate.evaluation import metrics
from cl_imitate.evaluation.results import Cell
from cl_imitate.figures.arms import SAMPLES, bootstrap_rng, draw_arm, draw_bounds
from cl_imitate.figures.canvas import (
    ANSWER_INK,
    GREY,
    IMITATOR,
    LEARNER,
    STYLES,
    Canvas,
    Figure,
    draw_figure,
    fill_panels,
    label_steps,
    say,
)

_OTHER_CONTEXTS = ("#882255", "#E69F00", "#009E73")


def headline(cells: Sequence[Cell], verdict: Mapping, evaluation: Evaluation, rules: Rules) -> Figure:
    """NOW, PROCESS and LATER side by side, every context length in them."""
    asked = verdict["questions"]
    own = verdict["context_steps"]
    unseen = [one for one in cells if one.split == "held_out"]
    spans = [one for one in unseen if one.protocol == "process" and one.start_step == 0]
    last = max((one.fork_step for one in spans), default=None)
    panels = {
        "now": [one for one in unseen if (one.protocol, one.fork_step) == ("now", evaluation.now_fork_step)],
        "process": [one for one in spans if one.fork_step == last],
        "later": [
            one for one in unseen if (one.protocol, one.fork_step) == ("later", evaluation.later_fork_step)
        ],
    }
    titles = {
        "now": "Joe today",
        "process": "How Joe became so: from nothing",
        "later": "What Joe goes on to learn: after the recording",
    }
    contexts = sorted({one.context_steps for one in cells})

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots(1, 3, width_ratios=[1.0, 2.1, 2.1], sharey=True)
        named = []
        for axis, (question, found) in zip(axes, panels.items(), strict=True):
            answer, predicted = asked[question]["answer"], asked[question]["predicted"]
            axis.set_title(f"{question.upper()} · {titles[question]}", pad=22, fontweight="bold", fontsize=10)
            axis.text(
                0,
                1.025,
                f"measured: {answer}   (the post: {predicted})",
                transform=axis.transAxes,
                color=ANSWER_INK.get(answer, GREY),
            )
            if not found:
                say(axis, "not run")
            elif question == "now":
                _levels(axis, found, own)
            else:
                named.append((axis, *_compare(axis, found, own, contexts, rules)))
        fill_panels(axes)
        for axis, main, ends in named:  # once the limits stand
            _bound_names(axis, main)
            _end_labels(axis, ends)
        axes[0].set_ylabel("return an episode")

    answers = ", ".join(f"{name.upper()} {asked[name]['answer']}" for name in panels)
    return draw_figure(
        "headline",
        "The frozen imitator beside the learner",
        "Left: at the end of training, weights held. Middle: the learner from birth, the imitator from an empty "
        "context, on unseen tasks. Right: after the recording stopped, the learner's weights go on changing. Lines are "
        "interquartile means over learners (and imitator seeds), bands their 95% intervals.",
        f"Three panels of return: NOW, PROCESS and LATER. Measured answers: {answers}.",
        draw,
        size=(12.4, 3.6),
    )


def _levels(axis: Axes, found: Sequence[Cell], own: int) -> None:
    """NOW: the held learner's level and the imitators', with intervals."""
    main = next((one for one in found if one.context_steps == own), found[0])
    draw_bounds(axis, main, name=False, random=True)
    entries = [("learner", main, "learner_held", LEARNER, "s")]
    others = iter(_OTHER_CONTEXTS * len(found))
    for cell in sorted(found, key=lambda one: one.context_steps != own):
        words = "imitator" if len(found) == 1 else f"{cell.context_steps}"
        color = IMITATOR if cell.context_steps == own else next(others)
        entries.append((words, cell, "imitator", color, "o"))
    names = []
    for words, cell, arm, color, marker in entries:
        if metrics.missing_arms(cell, arm):
            continue
        level = metrics.whole_level(cell, arm)
        one = statistics.estimate(statistics.iqm, level, task=cell.task, rng=bootstrap_rng(), samples=SAMPLES)
        low, high = one.interval()
        axis.plot([len(names)] * 2, [low, high], color=color, linewidth=2)
        axis.plot(len(names), one.value, marker, color=color, markersize=7)
        axis.annotate(
            f"{one.value:.3g}",
            (len(names), one.value),
            (7, -3),
            textcoords="offset points",
            color=color,
            bbox={"color": "white", "alpha": 0.75, "pad": 0.6},
        )
        names.append(words)
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.6, len(names) - 0.2)
    if len(found) > 1:
        axis.set_xlabel("imitators, by context", loc="right")


def _compare(
    axis: Axes, found: Sequence[Cell], own: int, contexts: Sequence[int], rules: Rules
) -> tuple[Cell, list[tuple[float, str, str]]]:
    """The learner, and the imitator of each context length; returns what is to be named at the lines' ends."""
    main = next((one for one in found if one.context_steps == own), found[0])
    draw_bounds(axis, main, random=True)
    ends = []
    if not metrics.missing_arms(main, "learner"):
        ends.append((draw_arm(axis, main, "learner", rules), "learner", LEARNER))
    if main.start_step > 0 and not metrics.missing_arms(main, "learner_held"):
        color = STYLES["learner_held"][0]
        ends.append((draw_arm(axis, main, "learner_held", rules), "learner,\nheld", color))
    others = iter(_OTHER_CONTEXTS * len(contexts))
    for cell in sorted(found, key=lambda one: one.context_steps != own):
        if metrics.missing_arms(cell, "imitator"):
            continue
        color = IMITATOR if cell.context_steps == own else next(others)
        words = "imitator" if len(contexts) == 1 else f"imitator,\ncontext {cell.context_steps}"
        line = "-" if cell.context_steps == own else "--"
        ends.append((draw_arm(axis, cell, "imitator", rules, color=color, linestyle=line), words, color))
    label_steps(axis, "learner's age, steps")
    return main, [end for end in ends if np.isfinite(end[0])]


def _bound_names(axis: Axes, cell: Cell) -> None:
    ceiling = "ceiling" if cell.ceiling_is_exact else "published DQN"
    bounds = {ceiling: cell.ceiling_return, "random": cell.random_return, "optimum": cell.optimal_return}
    for words, values in bounds.items():
        if np.isfinite(values).any():
            height = float(statistics.iqm(values[np.isfinite(values)][None]))
            right = words == "random"  # where curves are high; the others' names stand where curves are low
            axis.annotate(
                words,
                (0.995 if right else 0.01, height),
                (0, 2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=8,
                color=GREY,
            )


def _end_labels(axis: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Names right of the axis, pushed apart where lines end close together."""
    low, high = axis.get_ylim()
    ends = sorted(ends)
    at = [(height - low) / (high - low) for height, _, _ in ends]
    sizes = [0.058 + 0.05 * words.count("\n") for _, words, _ in ends]
    for _ in range(200):
        for lower in range(len(at) - 1):
            overlap = (sizes[lower] + sizes[lower + 1]) / 2 - (at[lower + 1] - at[lower])
            if overlap > 0:
                at[lower], at[lower + 1] = at[lower] - overlap / 2, at[lower + 1] + overlap / 2
    for height, (_, words, color) in zip(at, ends, strict=True):
        axis.text(
            1.015,
            height,
            words,
            transform=axis.transAxes,
            color=color,
            va="center",
            fontsize=9,
            linespacing=1.0,
        )
