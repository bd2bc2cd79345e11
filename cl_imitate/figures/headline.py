"""The report's first figure: NOW, PROCESS and LATER side by side."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from cl_imitate import statistics
from cl_imitate.config import Evaluation, Rules
from cl_imitate.evaluation import metrics
from cl_imitate.evaluation.results import Cell
from cl_imitate.figures.arms import SAMPLES, band_words, bootstrap_rng, draw_arm, draw_bounds
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
from cl_imitate.figures.line_names import name_ends

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

    def panel(axis: Axes, question: str) -> Callable[[], None] | None:
        """Draw one; what is left to do once the limits stand."""
        found, answer, predicted = panels[question], asked[question]["answer"], asked[question]["predicted"]
        axis.set_title(f"{question.upper()} · {titles[question]}", pad=22, fontweight="bold", fontsize=10)
        axis.text(
            0,
            1.025,
            f"measured: {answer}   (the essay: {predicted})",
            transform=axis.transAxes,
            color=ANSWER_INK.get(answer, GREY),
        )
        if not found:
            return say(axis, "not run")
        if question == "now":
            return _levels(axis, found, own)
        names = _compare(axis, found, own, contexts, rules)
        return lambda: name_ends(axis, names)

    def draw_in(axes: np.ndarray) -> None:
        left = [panel(axis, question) for axis, question in zip(axes, panels, strict=True)]
        fill_panels(axes)
        for finish in filter(None, left):
            finish()

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots(1, 3, width_ratios=[max(1.0, 0.35 * len(contexts)), 2.1, 2.1], sharey=True)
        draw_in(axes)
        axes[0].set_ylabel("return per episode")

    def draw_narrow(canvas: Canvas) -> None:
        axes = canvas.subplots(3, 1, sharey=True)
        draw_in(axes)
        for axis in axes:
            axis.set_ylabel("return per episode")

    answers = ", ".join(f"{name.upper()} {asked[name]['answer']}" for name in panels)
    named = " Imitators are named by their context, in steps." if len(contexts) > 1 else ""
    return draw_figure(
        "headline",
        "The frozen imitator beside the learner",
        "NOW: at the end of training, weights held. PROCESS: the learner from birth, the imitator from an empty "
        "context, on unseen tasks. LATER: after the recording stopped, the learner's weights go on changing. "
        f"{band_words(rules, over=_counted(panels))}{named}",
        f"Three panels of return: NOW, PROCESS and LATER. Measured answers: {answers}.",
        draw,
        size=(12.4, 3.6),
        draw_narrow=draw_narrow,
    )


def _counted(panels: Mapping[str, Sequence[Cell]]) -> str:
    """How many learners and imitator seeds the panels show."""
    found = [cell for cells in panels.values() for cell in cells]
    learners = sorted({len(cell.task) for cell in found})
    seeds = sorted({len(cell.returns["imitator"]) for cell in found if "imitator" in cell.returns})
    words = [f"{' to '.join(map(str, learners[:1] + learners[1:][-1:]))} learners"] if learners else []
    if seeds:
        words.append(f"{' to '.join(map(str, seeds[:1] + seeds[1:][-1:]))} imitator seeds")
    return " and ".join(words) or "learners"


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
    names, colors = [], []
    for words, cell, arm, color, marker in entries:
        if metrics.missing_arms(cell, arm):
            continue
        level = metrics.whole_level(cell, arm)
        one = statistics.estimate(statistics.iqm, level, task=cell.task, rng=bootstrap_rng(), samples=SAMPLES)
        low, high = one.interval()
        axis.plot([len(names)] * 2, [low, high], color=color, linewidth=2)
        axis.plot(len(names), one.value, marker, color=color, markersize=7)
        names.append(f"{words}\n{one.value:.3g}")
        colors.append(color)
    axis.set_xticks(range(len(names)), names)  # the numbers stand here, where no line strikes them through
    for tick, color in zip(axis.get_xticklabels(), colors, strict=True):
        tick.set(color=color, fontsize=10 if len(names) < 4 else 8)
    axis.set_xlim(-0.6, len(names) - 0.4)
    if len(found) > 1:
        axis.set_xlabel("imitators, by context", loc="right")


def _compare(
    axis: Axes, found: Sequence[Cell], own: int, contexts: Sequence[int], rules: Rules
) -> list[tuple[float, str, str]]:
    """The learner, and the imitator of each context length; returns what is to be named beside the panel: its height,
    name and colour."""
    main = next((one for one in found if one.context_steps == own), found[0])
    draw_bounds(axis, main, random=True)
    names = _bound_names(main)
    if not metrics.missing_arms(main, "learner"):
        names.append((draw_arm(axis, main, "learner", rules), "learner", LEARNER))
    if main.start_step > 0 and not metrics.missing_arms(main, "learner_held"):
        color = STYLES["learner_held"][0]
        names.append((draw_arm(axis, main, "learner_held", rules), "learner, held", color))
    others = iter(_OTHER_CONTEXTS * len(contexts))
    for cell in sorted(found, key=lambda one: one.context_steps != own):
        if metrics.missing_arms(cell, "imitator"):
            continue
        color = IMITATOR if cell.context_steps == own else next(others)
        words = "imitator" if len(contexts) == 1 else f"imitator, {cell.context_steps}"
        line = "-" if cell.context_steps == own else "--"
        names.append((draw_arm(axis, cell, "imitator", rules, color=color, linestyle=line), words, color))
    axis.margins(x=0.02)
    label_steps(axis, "learner's age, steps")
    return [one for one in names if np.isfinite(one[0])]


def _bound_names(cell: Cell) -> list[tuple[float, str, str]]:
    ceiling = "ceiling" if cell.ceiling_is_exact else "published DQN"
    bounds = {ceiling: cell.ceiling_return, "random": cell.random_return, "optimum": cell.optimal_return}
    return [
        (float(statistics.iqm(values[np.isfinite(values)][None])), words, GREY)
        for words, values in bounds.items()
        if np.isfinite(values).any()
    ]
