"""What the points of a horizon say, in sentences computed from them."""

import math
from collections.abc import Sequence

from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Point
from cl_imitate.evaluation.needed import Line


def findings(points: Sequence[Point]) -> list[str]:
    """What the points say, a sentence or two each; the first one answers the question."""
    if not points:
        return ["No point has a result yet."]
    found = [_break_sentence(points), *_line_sentences(points), *_window_sentences(points)]
    found += [
        sentence
        for axis in horizon.varying(points)
        if axis not in ("seed", "memory", "span", "rest") and (sentence := _moved_sentence(points, axis))
    ]
    found += [*_recurrent_sentences(points), *_later_sentences(points), *_open_sentences(points)]
    if "rest" in horizon.varying(points):
        keys = ", ".join(horizon.settings_that_differ(points))
        found.append(
            f"Points differ in other settings too ({keys}), and are compared only where these are equal."
        )
    return found


def _break_sentence(points: Sequence[Point]) -> str:
    compared = horizon.chains(points, "context")
    differ = [
        axis
        for axis in horizon.varying([one for chain in compared for one in chain.points])
        if axis != "context"
    ]
    between, all_suffice, none_suffices = [], [], []
    for chain in compared:
        low, high = horizon.needed_context(chain)
        where = (
            horizon.told(chain.rest, differ or [axis for axis in ("ring", "room") if chain.rest[axis]])
            or "here"
        )
        opened = _opened(chain, low, high)
        if low is not None and high is not None:
            at = {one.values["context"]: one for one in chain.points}
            between.append(f"between {_shown(at[low])} and {_shown(at[high])} steps ({where}{opened})")
        elif high is not None:
            all_suffice.append(f"{where} from {high} on{opened}")
        elif low is not None:
            none_suffices.append(f"{where} up to {low}{opened}")
    parts = []
    if between:
        parts.append(
            "Whether the frozen imitator goes through the whole learning from an empty context turns on its context: "
            f"PROCESS becomes yes {'; '.join(between)}"
        )
    if all_suffice:
        parts.append(f"every converged context suffices at {'; '.join(all_suffice)}")
    if none_suffices:
        parts.append(f"no converged context suffices at {'; '.join(none_suffices)}")
    if not parts:
        return "No context can be compared with another one: no converged points differ in it alone."
    return f"{'. '.join(part[0].upper() + part[1:] for part in parts)}."


def _opened(chain: horizon.Chain, low: int | None, high: int | None) -> str:
    """`; 64 open`: the contexts that could yet move a break between these."""
    opened = [
        context
        for one in chain.points
        if not (one.is_closed and one.process.is_answered)
        and (low or 0) < (context := one.values["context"]) < (high or math.inf)
    ]
    return f"; {', '.join(map(str, opened))} open" if opened else ""


def _shown(point: Point) -> str:
    """`128 (no, 0.02)`."""
    return f"{point.values['context']} ({point.process.answer}, {horizon.share(point):.2f})"


def _line_sentences(points: Sequence[Point]) -> list[str]:
    found = horizon.breaks(points)
    across, within = horizon.line(found), horizon.line(found, same_task=True)
    if not math.isfinite(across.slope):
        return [
            "There is no line of the needed context on the learner's time constant: it takes three learners, all else "
            "equal, the slowest 1.4 times as slow as the fastest, of whom two break among the contexts tried."
        ]
    said = [
        f"Over all breaks the needed context grows as the learner's time constant to the power {slope_told(across)}."
    ]
    if math.isfinite(within.slope):
        said.append(
            f"Where the learner alone is slower, the task being the same, to the power {slope_told(within)}."
        )
    elif len({one.task for one in found}) > 1:
        said.append("Tasks and slowness vary together there: which of them it is, these points do not tell.")
    return said


def slope_told(line: Line) -> str:
    """`1.20 [0.80, 1.60] (5 breaks)`."""
    low, high = line.slope_ci95
    return f"{line.slope:.2f} [{low:.2f}, {high:.2f}] ({line.num} breaks)"


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
    found = horizon.moved(points, axis)
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


def _does(found: horizon.Moved) -> str:
    """That nothing was seen is no finding that nothing is there: for this, intervals must leave no room for it."""
    if found.num_changed:
        return f"moves the answer ({found.num_changed} of {found.num_chains} comparisons)"
    if found.num_equal == found.num_chains:
        return (
            f"does not move the share by {horizon.NO_CHANGE:g} ({found.num_chains} "
            f"comparison{'s' if found.num_chains > 1 else ''})"
        )
    return (
        f"is not seen to move the answer (0 of {found.num_chains} comparisons; intervals leave room for no change by "
        f"{horizon.NO_CHANGE:g} in {found.num_equal})"
    )


def _recurrent_sentences(points: Sequence[Point]) -> list[str]:
    free = [one for one in points if one.values["memory"] != "transformer" and one.process.is_answered]
    differ = [axis for axis in horizon.varying(points) if axis not in ("context", "memory")]
    if not free:
        return []
    each = "; ".join(
        f"{horizon.told(one.values, ['memory', *differ]).replace('memory ', '').replace('_', ' ')}: "
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


def _open_sentences(points: Sequence[Point]) -> list[str]:
    opened = [one for one in points if not one.is_closed]
    gates = sum(one.passes_gate is True for one in points)
    said = [f"{gates} of {len(points)} points pass their own gate."]
    if not gates:
        said = ["VOID: no point passes its own gate, so nothing shows that a yes could be seen here."]
    if len(opened) < len(points):
        longer = (
            "see what the updates move" if "updates" in horizon.varying(points) else "none was tried here"
        )
        said.append(
            "Converged means that the loss on unseen learners fell no more over the last quarter of a point's updates; "
            f"a longer training may yet find more ({longer})."
        )
    if opened:
        said.append(
            f"{len(opened)} of {len(points)} points are open: training had not converged, or was measured too seldom "
            "to tell. They are drawn hollow, and no count holds them."
        )
    return said
