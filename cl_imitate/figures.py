"""The report's figures, as PNG. The only file that imports matplotlib.

One colour an arm in every figure (Okabe and Ito's palette, safe for colour-blind readers); where two arms share a
colour, their lines differ. Bands and bars are 95% intervals over learners and imitator seeds.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cl_imitate import statistics
from cl_imitate.config import Evaluation, Rules
from cl_imitate.evaluation import metrics
from cl_imitate.evaluation.results import ARMS, Cell

STYLES: dict[str, tuple[str, Any]] = {
    "learner": ("#0072B2", "-"),
    "learner_held": ("#56B4E9", "-"),
    "learner_transplanted": ("#009E73", "-"),
    "imitator": ("#D55E00", "-"),
    "imitator_argmax": ("#E69F00", "--"),
    "imitator_wiped": ("#CC79A7", "-"),
    "imitator_masked": ("#CC79A7", ":"),
    "imitator_prompted": ("#B8860B", "-."),
    "window": ("#8A6D00", (0, (1, 1))),
    "random": ("#777777", ":"),
}
_OTHER_CONTEXTS = ("#882255", "#E69F00", "#009E73")
_GREY = "#6B6B6B"
_LEARNER, _IMITATOR = STYLES["learner"][0], STYLES["imitator"][0]
_ANSWER_INK = {"yes": "#00664A", "no": "#A33C00"}
_SAMPLES = 200
_DPI = 170  # twice what a page shows, for sharp screens
_MOST_POINTS = 120  # longer curves are drawn in averages of neighbouring blocks

_LOOK = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#ECECEC",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "cl_imitate",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure and what a reader who cannot see it is told."""

    name: str  # the PNG's file name
    title: str
    caption: str
    alt: str
    png: bytes
    width: int  # pixels as shown: half of those drawn


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
                color=_ANSWER_INK.get(answer, _GREY),
            )
            if not found:
                _say(axis, "not run")
            elif question == "now":
                _levels(axis, found, own)
            else:
                named.append((axis, *_compare(axis, found, own, contexts, rules)))
        _limits(axes)
        for axis, main, ends in named:  # once the limits stand
            _bound_names(axis, main)
            _end_labels(axis, ends)
        axes[0].set_ylabel("return an episode")

    answers = ", ".join(f"{name.upper()} {asked[name]['answer']}" for name in panels)
    return _figure(
        "headline",
        "The frozen imitator beside the learner",
        "Left: levels at the end of training, weights held. Middle: the learner from random initialisation, and the "
        "frozen imitator from an empty context, on tasks neither has seen. Right: after the recording stopped, the "
        "learner's weights go on changing and the imitator's do not. Lines are interquartile means over learners "
        "(and imitator seeds), bands their 95% intervals.",
        f"Three panels of return: NOW, PROCESS and LATER. Measured answers: {answers}.",
        draw,
        size=(12.4, 4.3),
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
                _before(axis, before, cell.start_step, rules)
            for arm in STYLES:
                if arm in cell.returns and not metrics.missing_arms(cell, arm):
                    _line(axis, cell, arm, rules)
            _bounds(axis, cell)
            _steps(axis, "learner's age, steps")
        for axis in axes[len(cells) :]:
            axis.set_axis_off()
        for group in [axes] if same else [[axis] for axis in axes]:
            _limits(group)
        for axis, cell in zip(axes, cells, strict=False):
            if cell.start_step > 0:
                axis.axvline(cell.start_step, color="#999999", linewidth=0.8)
        for row in range(lines):
            axes[row * columns].set_ylabel("return an episode")
        _legend(canvas, axes)

    arms = sorted({ARMS.get(arm, arm) for cell in cells for arm in cell.returns})
    panels = "; ".join(f"{panel_title(cell)}: {_ends(cell, rules)}" for cell in cells).replace("\n", ", ")
    alt = f"Return against age, {len(cells)} panels, arms: {', '.join(arms)}. Levels at the end: {panels}."
    return _figure(name, title, caption, alt, draw, size=(12.4 if columns > 1 else 8.0, 3.1 * lines + 0.7))


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
        right = _zones(axis, [one["ci95"] for _, one in groups], rules.parity, rules.parity)
        for row, (label, one) in enumerate(groups):
            color = "#F0B796" if label.startswith("NOW") else "#F6D9C6" if "training" in label else "#E4E4E4"
            axis.barh(row, one["ratio"], color=color, height=0.56)
            _interval(axis, row, one["ratio"], one["ci95"], _IMITATOR, "o")
            axis.text(right, row, f"  {one['answer']}", va="center", clip_on=False)
        _rows(axis, [label for label, _ in groups], "imitator's gain / held learner's gain")

    alt = "; ".join(f"{label}: {one['ratio']:.2f}, {one['answer']}" for label, one in groups)
    return _figure(
        "parity",
        "NOW and MONTH: as good as the learner is?",
        f"A point with its 95% interval wholly right of the line at {rules.parity:g} is a yes, wholly left of it a no.",
        f"Bars of the imitator's share of the held learner's gain. {alt}.",
        draw,
        size=(9.6, 0.42 * len(groups) + 1.1),
    )


def ladder(rungs: Sequence[Mapping], rules: Rules) -> Figure | None:
    """ELSEWHERE: per rung, the learner's own gain and what the imitator recovers of it."""
    rungs = [one for one in rungs if one["recovered"] is not None]
    if not rungs:
        return None

    def draw(canvas: Canvas) -> None:
        axis = canvas.subplots()
        intervals = [one["ci95"] for one in rungs]
        right = _zones(axis, intervals, rules.learns_no, rules.learns_yes)
        for row, one in enumerate(rungs):
            counted = one["counted"]
            if one["learner_gain"] is not None:
                ink = _LEARNER if counted else "#B8B8B8"
                _interval(axis, row - 0.17, one["learner_gain"], one["learner_gain_ci95"], ink, "s")
            _interval(
                axis, row + 0.17, one["recovered"], one["ci95"], _IMITATOR if counted else "#B8B8B8", "o"
            )
            verdict = one["answer"] if counted else (one["reason"] or "not counted").split(",")[0]
            axis.text(
                right, row, f"  {verdict}", va="center", color="black" if counted else _GREY, clip_on=False
            )
        _rows(axis, [f"{one['rung']} · {one['name']}" for one in rungs], "share")
        for label, color, marker in (
            ("learner: share of its range that it reaches", _LEARNER, "s"),
            ("frozen imitator: share of the learner's gain that it recovers", _IMITATOR, "o"),
        ):
            axis.plot([], [], marker, color=color, label=label)
        _legend(canvas, [axis], columns=2)

    alt = "; ".join(
        f"rung {one['rung']}, {one['name']}: {one['recovered']:.2f}, {one['answer']}" for one in rungs
    )
    return _figure(
        "ladder",
        "ELSEWHERE: the novelty ladder",
        "From an empty context, in tasks ever further from those of training. A rung counts only where the learner "
        f"itself reaches {rules.elsewhere_min_learner_gain:g} of its range; others are grey, with the reason.",
        f"Share of the learner's gain that the imitator recovers, per rung. {alt}.",
        draw,
        size=(10.6, 0.55 * len(rungs) + 1.4),
    )


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
            axis.scatter(learner, imitator, s=22, color=_IMITATOR, alpha=0.6, linewidths=0)
            axis.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), box_aspect=1)
            axis.set_title(title)
            axis.set_xlabel("learner's return")
        axes[0].set_ylabel("frozen imitator's return")

    parts = [
        f"{title}: imitator above the learner on {np.mean(imitator > learner):.0%} of {len(learner)} learners"
        for title, (_, learner, imitator) in levels.items()
    ]
    return _figure(
        "points",
        "The frozen imitator against each held-out learner",
        "A point a held-out learner (each on its own task, where tasks differ), averaged over imitator seeds. On the "
        "diagonal, imitator and learner are equal; the dotted line is the random policy.",
        f"Scatter of the imitator's return against the learner's. {'; '.join(parts)}.",
        draw,
        size=(4.0 * len(levels), 4.3),
    )


_FLOOR = "floor: the learner's greedy action known"


def _last_loss(one: Mapping) -> float:
    return float(np.nanmean(np.atleast_2d(one["held_out_loss"])[:, -1]))


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
                axis.plot(one["held_out_update"], loss, ".-", color=_IMITATOR, linewidth=1.2, label=label)
            if (floor := one.get("floor")) is not None:
                axis.axhline(floor, color="#888888", linestyle="--", linewidth=1.0, label=_FLOOR)
            _steps(axis, "gradient update")
        for axis in axes[len(found) :]:
            axis.set_axis_off()
        axes[0].set_ylabel("cross-entropy, nats")
        _legend(canvas, axes)

    ends = "; ".join(
        f"context {one['context_steps']}, fork {one['fork_step']}: training "
        f"{np.nanmean(np.atleast_2d(one['train_loss'])[:, -1]):.3f}, held-out "
        f"{_last_loss(one):.3f}"
        for one in found
    )
    gaps = [
        f"{_last_loss(one) - one['floor']:.3f} (context {one['context_steps']})"
        for one in found
        if one.get("floor") is not None
    ]
    gap = f" Left above the floor at the end, in nats: {', '.join(gaps)}." if gaps else ""
    return _figure(
        "losses",
        "How the imitators were trained",
        "Next-action cross-entropy, a line an imitator seed. A held-out loss that turns up while the training loss "
        f"falls would mean that learners are being memorised.{gap}",
        f"Loss curves; at the end, {ends}.",
        draw,
        size=(12.4 if len(found) > 1 else 7.0, 2.9 * -(-len(found) // 3) + 0.6),
    )


def steps(number: float | None) -> str:
    """1000000 -> 1M, 3200 -> 3.2k."""
    if number is None:
        return "–"
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def _figure(
    name: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[Canvas], None],
    *,
    size: tuple[float, float],
) -> Figure:
    look: Any = {**matplotlib.rcParamsDefault, **_LOOK, "backend": "agg"}
    with matplotlib.rc_context(look):
        canvas = Canvas(figsize=size)
        FigureCanvasAgg(canvas)
        draw(canvas)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    width = round(size[0] * 85)
    return Figure(name=name, title=title, caption=caption, alt=alt, png=buffer.getvalue(), width=width)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _thin(cell: Cell, arm: str) -> Cell:
    """The cell with this arm alone, neighbouring blocks averaged until there are few enough to draw."""
    returns = cell.returns[arm]
    together = -(-returns.shape[-1] // _MOST_POINTS)
    blocks = returns.shape[-1] // together
    parts = returns[..., : blocks * together].reshape(*returns.shape[:-1], blocks, together)
    finite = np.isfinite(parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(finite, parts, 0.0).sum(-1) / finite.sum(-1)
    return dataclasses.replace(cell, returns={arm: means}, block_steps=cell.block_steps * together)


def _line(axis: Axes, cell: Cell, arm: str, rules: Rules, **changes) -> float:
    """Draw an arm with its band; the height at which it ends, NaN where no block can be shown."""
    color, line = STYLES[arm]
    color, line = changes.get("color", color), changes.get("linestyle", line)
    thin = _thin(cell, arm)
    low, middle, high = metrics.band(thin, arm, _rng(), samples=_SAMPLES, confidence=rules.confidence)
    ages = cell.start_step + (np.arange(len(middle)) + 0.5) * thin.block_steps
    shown = np.isfinite(middle)
    if not shown.any():
        return np.nan
    axis.fill_between(ages[shown], low[shown], high[shown], color=color, alpha=0.16, linewidth=0)
    label = changes.get("label", ARMS.get(arm, arm))
    if arm == "learner_held" and not shown[-1]:
        # Held for NOW alone; as nothing in it changes, it would go on as it was.
        level = float(np.nanmean(middle))
        axis.plot(ages[[0, -1]], [level, level], ":", color=color, linewidth=1.2)
    axis.plot(
        ages[shown],
        middle[shown],
        linestyle=line,
        color=color,
        linewidth=1.8,
        label=label,
        marker="o" if shown.sum() < 3 else None,
        markersize=4,
    )
    return float(middle[shown][-1])


def _before(axis: Axes, cell: Cell, until: int, rules: Rules) -> None:
    blocks = until // cell.block_steps
    if blocks and not metrics.missing_arms(cell, "learner"):
        past = dataclasses.replace(cell, returns={"learner": cell.returns["learner"][..., :blocks]})
        if not metrics.missing_arms(past, "learner"):
            _line(axis, past, "learner", rules, color="#9FC5DE", label="learner before the fork")


def _bounds(axis: Axes, cell: Cell, *, name: bool = True, random: bool = False) -> None:
    """Horizontal lines: random, the ceiling at the arm's epsilon, the optimum."""
    ceiling = f"ceiling: perfect knowledge at epsilon {cell.epsilon:.3g}"
    if not cell.ceiling_is_exact:
        ceiling = "a published DQN after 4.9M frames"
    lines = (
        ("random policy", cell.random_return, ":", STYLES["random"][0]),
        (ceiling, cell.ceiling_return, "--", "#333333"),
        ("optimum", cell.optimal_return, ":", "#333333"),
    )
    for label, values, line, color in lines:
        if np.isfinite(values).any() and (random or label != "random policy" or "random" not in cell.returns):
            height = float(statistics.iqm(values[np.isfinite(values)][None]))
            axis.axhline(height, color=color, linestyle=line, linewidth=1, label=label if name else None)


def _compare(
    axis: Axes, found: Sequence[Cell], own: int, contexts: Sequence[int], rules: Rules
) -> tuple[Cell, list[tuple[float, str, str]]]:
    """The learner, and the imitator of each context length; returns what is to be named at the lines' ends."""
    main = next((one for one in found if one.context_steps == own), found[0])
    _bounds(axis, main, random=True)
    ends = []
    if not metrics.missing_arms(main, "learner"):
        ends.append((_line(axis, main, "learner", rules), "learner", _LEARNER))
    if main.start_step > 0 and not metrics.missing_arms(main, "learner_held"):
        color = STYLES["learner_held"][0]
        ends.append((_line(axis, main, "learner_held", rules), "learner,\nheld", color))
    others = iter(_OTHER_CONTEXTS * len(contexts))
    for cell in sorted(found, key=lambda one: one.context_steps != own):
        if metrics.missing_arms(cell, "imitator"):
            continue
        color = _IMITATOR if cell.context_steps == own else next(others)
        words = "imitator" if len(contexts) == 1 else f"imitator,\ncontext {cell.context_steps}"
        line = "-" if cell.context_steps == own else "--"
        ends.append((_line(axis, cell, "imitator", rules, color=color, linestyle=line), words, color))
    _steps(axis, "learner's age, steps")
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
                color=_GREY,
            )


def _limits(axes: Sequence[Axes] | np.ndarray) -> None:
    """Make the lines fill the panels; a band of very few seeds may be wider, and is cut at the edge."""
    drawn = [np.asarray(line.get_ydata(), float) for axis in axes for line in axis.lines]
    heights = np.concatenate([[], *drawn])
    heights = heights[np.isfinite(heights)]
    if not heights.size:
        return
    margin = 0.12 * (np.ptp(heights) or 1.0)
    for axis in axes:
        axis.set_ylim(heights.min() - margin, heights.max() + margin)


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


def _levels(axis: Axes, found: Sequence[Cell], own: int) -> None:
    """NOW: the held learner's level and the imitators', with intervals."""
    main = next((one for one in found if one.context_steps == own), found[0])
    _bounds(axis, main, name=False, random=True)
    entries = [("learner", main, "learner_held", _LEARNER, "s")]
    others = iter(_OTHER_CONTEXTS * len(found))
    for cell in sorted(found, key=lambda one: one.context_steps != own):
        words = "imitator" if len(found) == 1 else f"{cell.context_steps}"
        color = _IMITATOR if cell.context_steps == own else next(others)
        entries.append((words, cell, "imitator", color, "o"))
    names = []
    for words, cell, arm, color, marker in entries:
        if metrics.missing_arms(cell, arm):
            continue
        level = metrics.whole_level(cell, arm)
        one = statistics.estimate(statistics.iqm, level, task=cell.task, rng=_rng(), samples=_SAMPLES)
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


def _zones(axis: Axes, intervals: Sequence, low: float, high: float) -> float:
    """Shade where an interval would be a no and where a yes; returns the right edge."""
    ends = [end for pair in intervals for end in pair if end is not None]
    left, right = (
        min([-0.1, *(max(end, -1.0) for end in ends)]),
        max([1.15, *(min(end, 2.0) for end in ends)]),
    )
    axis.set_xlim(left, right)
    axis.axvspan(left, low, color="#FBF1EB", zorder=0)
    axis.axvspan(high, right, color="#EAF4F0", zorder=0)
    for bound in {low, high}:
        axis.axvline(bound, color="#999999", linewidth=0.8)
    axis.text(
        left + 0.01, 1.0, "no", transform=axis.get_xaxis_transform(), va="bottom", color=_ANSWER_INK["no"]
    )
    axis.text(
        right,
        1.0,
        "yes",
        transform=axis.get_xaxis_transform(),
        va="bottom",
        ha="right",
        color=_ANSWER_INK["yes"],
    )
    return right


def _interval(axis: Axes, row: float, value: float, interval: Sequence, color: str, marker: str) -> None:
    ends = [value if end is None else end for end in interval]
    axis.plot(ends, [row, row], color=color, linewidth=2, solid_capstyle="butt")
    axis.plot(value, row, marker, color=color, markersize=6)


def _rows(axis: Axes, labels: Sequence[str], words: str) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(words)


def _steps(axis: Axes, words: str) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: steps(number)))
    axis.set_xlabel(words)


def _legend(canvas: Canvas, axes: Sequence[Axes] | np.ndarray, columns: int = 4) -> None:
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for number in range(columns, 0, -1):  # as many columns as fit, so that no name is cut off
        legend = canvas.legend(
            handles.values(), handles.keys(), loc="outside lower left", ncols=number, fontsize=9
        )
        if number == 1 or legend.get_window_extent().width <= canvas.bbox.width:
            return
        legend.remove()


def _say(axis: Axes, words: str) -> None:
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", color=_GREY)
    axis.set_xticks([])


def _ends(cell: Cell, rules: Rules) -> str:
    found = []
    for arm in cell.returns:
        if not metrics.missing_arms(cell, arm):
            level = metrics.end_level(cell, arm, rules)
            found.append(f"{ARMS.get(arm, arm)} {np.nanmean(level):.2f}")
    return ", ".join(found)
