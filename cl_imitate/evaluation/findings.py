"""What the points of a horizon say, in sentences computed from them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Imitated, Point
from cl_imitate.evaluation.longer import TIMES
from cl_imitate.evaluation.moved import NO_CHANGE, Moved, moved
from cl_imitate.evaluation.needed import Line
from cl_imitate.evaluation.shown import by_shown, settings, shown

_ASKED = (
    "PROCESS asks whether the frozen imitator, from an empty context, goes through the whole learning as its learner "
    "did."
)


def findings(points: Sequence[Point]) -> list[str]:
    """What the points say, a sentence or two each; the first one answers the question."""
    return [lead(points), *(f"{one.setting}: {one.told}." for one in needs(points)), *others(points)]


def lead(points: Sequence[Point]) -> str:
    """The question, and in one sentence what the points say to it."""
    if not points:
        return "No point has a result yet."
    if not horizon.whole(points):
        return f"{_ASKED} Every recording here ends before the learning does, so that nothing is said to it."
    found = needs(points)
    if not found:
        return (
            f"{_ASKED} No context can be compared with another one: no converged points differ in it alone."
        )
    between = sum(one.low is not None and one.high is not None for one in found)
    above = sum(one.low is None for one in found)
    broken = sum(one.high is None and one.shorter is not None for one in found)
    below = sum(one.high is None for one in found) - broken
    told = [
        f"with a short one it is not yet a yes, from a longer one on it is, in {_of(between, found)}"
        * bool(between),
        f"every one that was tried suffices in {_of(above, found)}" * bool(above),
        f"none that was tried suffices in {_of(below, found)}" * bool(below),
        f"a yes is not borne out by longer ones in {_of(broken, found)}" * bool(broken),
    ]
    is_seen = between and moved(points, "context").num_changed
    turns = "The answer turns on its context" if is_seen else "By its context"
    return f"{_ASKED} {turns}: {'; '.join(filter(None, told))}."


def _of(number: int, every: Sequence) -> str:
    if len(every) == 1:
        return "the one setting tried"
    if number == len(every):
        return "both settings" if number == 2 else f"all {number} settings"
    return f"{number} of {len(every)} settings"


class Need(NamedTuple):
    """Of one setting, tried with several contexts: which of them suffice."""

    setting: str  # what tells it from the others here
    low: str | None  # the longest context that is not yet a yes: `64 (partial, 0.31)`
    high: str | None  # the shortest from which on all are
    shorter: str | None  # below `low`, what is a yes nevertheless: `256 (yes, 2.09)`
    opened: str | None  # what could yet move this: `64, 96`
    tau_steps: float | None  # the learner's time constant

    @property
    def told(self) -> str:
        """In words."""
        told = [f"not yet a yes at {self.low}" if self.low else "no context was tried that is not a yes"]
        if self.high:
            told.append(f"a yes from {self.high} on")
        elif self.shorter:
            told.append(f"{self.shorter} suffices, but none from which on all longer ones do")
        else:
            told.append("no longer one was tried")
        if self.opened:
            told.append(f"{self.opened} open")
        if self.tau_steps is not None:
            told.append(f"half of the learner's gain after {self.tau_steps:,.0f} steps")
        return "; ".join(told)


def needs(points: Sequence[Point]) -> list[Need]:
    """Every setting in which contexts can be compared, told by what differs among them."""
    compared = horizon.chains(horizon.whole(points), "context")
    differ = [
        axis
        for axis in horizon.varying([one for chain in compared for one in chain.points])
        if axis != "context"
    ] or ["ring", "room"]
    found = []
    for chain in compared:
        low, high = horizon.needed_context(chain)
        if low is None and high is None:
            continue
        at = {one.values["context"]: one for one in chain.points}
        taus = [one.tau_steps for one in chain.points if one.tau_steps]
        counted = [one for one in chain.points if one.is_closed and one.process.is_answered]
        shorter = [
            _shown(one)
            for one in counted
            if one.process.answer == "yes" and one.values["context"] < (low or 0)
        ]
        opened = [
            f"{context:,}"
            for context, one in at.items()
            if one not in counted and (low or 0) < context < (high or math.inf)
        ]
        found.append(
            Need(
                setting=horizon.told(chain.rest, differ) or "here",
                low=None if low is None else _shown(at[low]),
                high=None if high is None else _shown(at[high]),
                shorter=", ".join(shorter) or None,
                opened=", ".join(opened) or None,
                tau_steps=sum(taus) / len(taus) if taus else None,
            )
        )
    return found


def _shown(point: Point) -> str:
    """`128 (no, 0.02)`."""
    return f"{point.values['context']:,} ({point.process.answer}, {horizon.share(point):.2f})"


def others(points: Sequence[Point]) -> list[str]:
    """What else the points say; that no line could be fitted comes last."""
    if not points:
        return []
    whole = horizon.whole(points)
    lines, has_line = _line_sentences(whole)
    found = [*(lines if has_line else ()), *_window_sentences(whole)]
    found += [
        sentence
        for axis in horizon.varying(whole)
        if axis not in ("seed", "memory", "span", "rest") and (sentence := _moved_sentence(whole, axis))
    ]
    found += [
        *_recurrent_sentences(whole),
        *_later_sentences(points),
        *_shown_sentences(points),
        *_cut_short_sentences(points),
        *_open_sentences(points),
    ]
    if "rest" in horizon.varying(points):
        keys = ", ".join(horizon.settings_that_differ(points))
        found.append(
            f"Points differ in other settings too ({keys}), and are compared only where these are equal."
        )
    return found if has_line else [*found, *lines]


def _line_sentences(points: Sequence[Point]) -> tuple[list[str], bool]:
    """Also whether there is a line."""
    found = horizon.breaks(points)
    across, within = horizon.line(found), horizon.line(found, same_task=True)
    if not math.isfinite(across.slope):
        return [_no_line(len(found))], False
    said = [
        f"Over all breaks the needed context grows as the learner's time constant to the power {slope_told(across)}."
    ]
    if math.isfinite(within.slope):
        said.append(
            f"Where the learner alone is slower, the task being the same, to the power {slope_told(within)}."
        )
    elif len({one.task for one in found}) > 1:
        said.append("Tasks and slowness vary together there: which of them it is, these points do not tell.")
    return said, True


def _no_line(num_breaks: int) -> str:
    if num_breaks < 3:
        were = ("none was", "one was", "two were")[num_breaks]
        return f"No line is fitted: it needs three breaks, and {were} found."
    return (
        "No line is fitted: it needs three learners, all else equal, the slowest 1.4 times as slow as the fastest, of "
        f"whom two break among the contexts tried; {num_breaks} breaks were found."
    )


def slope_told(line: Line) -> str:
    """`1.20 [0.80, 1.60] (5 breaks)`."""
    low, high = (f"{end:.2f}" if math.isfinite(end) else "unbounded" for end in line.slope_ci95)
    return f"{line.slope:.2f} [{low}, {high}] ({line.num} breaks)"


def _cut_short_sentences(points: Sequence[Point]) -> list[str]:
    """Whose PROCESS is over a part of a learning, and counts nowhere."""
    each_once = horizon.one_each(points, "process")[0]
    cut = [one for one in each_once if one.is_cut_short]
    if not cut:
        return []
    spans: dict[int, list[float]] = {}
    for one in cut:
        spans.setdefault(one.values["span"], []).append(one.tau_steps or math.nan)
    each = "; ".join(
        f"recorded for {span:,} steps, half of that gain after {sum(taus) / len(taus):,.0f}"
        for span, taus in spans.items()
    )
    return [
        f"PROCESS of {len(cut)} of {len(each_once)} points is left out of what is said here and of the figures: their "
        f"recording ends before the learning does ({each}). Where half of a gain takes more than half of the "
        "recording, the learner has reached no plateau."
    ]


def _window_sentences(points: Sequence[Point]) -> list[str]:
    """Whether the breaks are the window's, or lie below what the window would allow."""
    short = [
        one
        for one in points
        if one.is_closed
        and one.process.is_answered
        and one.process.answer != "yes"
        and one.process.window is not None
        and one.values["memory"] == "transformer"
    ]
    if not short:
        return []
    below = [one for one in short if horizon.ends(one.process)[1] < horizon.window_low(one.process)]
    return [
        f"Of {len(short)} converged points that do not imitate the whole learning, {len(below)} lie wholly below the "
        "perfect use of their window: there it holds more than they make of it."
    ]


def _moved_sentence(points: Sequence[Point], axis: str) -> str | None:
    found = moved(points, axis)
    if found.low is None or found.high is None:
        return None
    low, high = (f"{horizon.value_told(one.values[axis])}" for one in (found.low, found.high))
    rest = horizon.told(found.rest, [name for name in horizon.varying(points) if name != axis])
    words = horizon.AXES[axis]
    return (
        f"{words[0].upper()}{words[1:]}: {_does(found)}; at most from "
        f"{horizon.share(found.low):.2f} at {low} to {horizon.share(found.high):.2f} at {high}"
        f"{f' ({rest})' if rest else ''}."
    )


def _does(found: Moved) -> str:
    """That nothing was seen is no finding that nothing is there: for this, intervals must leave no room for it."""
    if found.num_changed:
        return f"moves the answer ({found.num_changed} of {_comparisons(found.num_chains)})"
    if found.num_equal == found.num_chains:
        return f"does not move the share by {NO_CHANGE:g} ({_comparisons(found.num_chains)})"
    return (
        f"is not seen to move the answer (0 of {_comparisons(found.num_chains)}; intervals leave room for no change "
        f"by {NO_CHANGE:g} in {found.num_equal})"
    )


def _comparisons(num: int) -> str:
    return f"{num} comparison{'s' if num != 1 else ''}"


def _recurrent_sentences(points: Sequence[Point]) -> list[str]:
    free = [one for one in points if one.values["memory"] != "transformer" and one.process.is_answered]
    differ = [axis for axis in horizon.varying(points) if axis not in ("context", "memory")]
    if not free:
        return []
    each = "; ".join(
        f"{horizon.told(one.values, ['memory', *differ]).removeprefix('memory ')}: "
        f"{one.process.answer} {horizon.share(one):.2f}{'' if one.is_closed else ' (open)'}"
        for one in free
    )
    return [f"Without a window, with a state that keeps what it will: {each}."]


def _later_sentences(points: Sequence[Point]) -> list[str]:
    asked = [one for one in points if one.counts_for("later") and one.later.is_answered]
    if not asked:
        return ["LATER is not answered at any converged point."]
    counts = {answer: sum(one.later.answer == answer for one in asked) for answer in ("yes", "partial", "no")}
    said = ", ".join(f"{answer} at {number}" for answer, number in counts.items() if number)
    return [f"LATER, where it can be asked at a converged point: {said} of {len(asked)}."]


def _shown_sentences(points: Sequence[Point]) -> list[str]:
    """How far LATER goes where recording was stopped early, and where late."""
    closed = by_shown(one for one in points if one.counts_for("later"))
    said = []
    for chain, setting in zip(closed, settings(closed), strict=True):
        each = ", ".join(
            f"{_interval(one.later)} where {shown(one).told} had{_of_the_range(one.later)}"
            for one in chain.points
        )
        said.append(
            f"LATER, by how many of the recorded lives had come by the fork to where learners come later"
            f"{f' ({setting})' if setting else ''}: {each}."
        )
    return said


def _of_the_range(found: Imitated) -> str:
    """A share rises too where the learner alone has less left to gain."""
    if found.gain is None:
        return ""
    return f" ({found.gain:.2f} of the range; the learner {found.learner_gain:.2f})"


def _interval(found: Imitated) -> str:
    """`0.15 [0.06, 0.25]`."""
    low, high = (f"{end:.2f}" if math.isfinite(end) else "unbounded" for end in horizon.ends(found))
    return f"{found.share:.2f} [{low}, {high}]"


def _open_sentences(points: Sequence[Point]) -> list[str]:
    closed, opened = ([one for one in points if one.is_closed is wanted] for wanted in (True, False))
    gates = sum(one.passes_gate is True for one in points)
    said = [f"{gates} of {len(points)} points pass their own gate."]
    if not gates:
        said = ["VOID: no point passes its own gate, so nothing shows that a yes could be seen here."]
    if confirmed := sum(one.training.longer is not None for one in closed):
        said.append(
            f"{confirmed} of {len(points)} points are converged beside another one: at least {TIMES} times their "
            "updates bring the loss on unseen learners no further down."
        )
    if alone := len(closed) - confirmed:
        said.append(
            f"{alone} of {len(points)} points are converged by their own curves alone: the loss fell no more over the "
            "last quarter of the updates, as the learning rate did. A longer training may yet find more; none is among "
            "these points."
        )
    if opened:
        outdone = sum(one.training.longer is not None for one in opened)
        said.append(
            f"{len(opened)} of {len(points)} points are open: a longer training ends lower (so {outdone} of them), or "
            "training had not converged, or was measured too seldom to tell. They are drawn hollow, and no count holds "
            "them."
        )
    if memorising := sum(one.training.memorises is True for one in points):
        said.append(
            f"At {memorising} of {len(points)} points imitators begin to memorise the learners that they were shown: "
            "there it is more learners or tasks to watch that could tell more, not more updates."
        )
    return said
