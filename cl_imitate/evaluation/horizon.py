"""How far frozen imitation goes, and what moves the place where it breaks: points of sweeps -> curves and sentences.

A point is one set of imitators in one run. It is *closed* where their training had converged, else *open*: open points
are drawn and counted nowhere. A *chain* is the closed and open points that differ along one axis alone.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cl_imitate.evaluation.needed import Line, Needed, fit

AXES = {
    "context": "steps of context",
    "ring": "positions of the ring",
    "room": "size of the room",
    "memory": "kind of memory",
    "updates": "gradient updates",
    "width": "width of the imitator",
    "layers": "layers of the imitator",
    "learners": "recorded learners",
    "tasks": "training tasks",
    "pace": "learning rate of the learner",
    "epsilon": "epsilon of the learner",
    "family": "family of tasks",
    "symbols": "symbols",
    "growth": "growth of the ring",
    "seed": "seed",
}
"""What points may differ in, in words. Batches and lengths of lives follow from these, and are no axes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imitated:
    """PROCESS from an empty context, or LATER: how much of the learner's gain, and for how long."""

    answer: str
    share: float | None  # of the learner's gain; None: not measured
    ci95: tuple[float | None, float | None]
    horizon_steps: int  # it was looked at for so long
    departure_steps: float | None = None  # None: never within the horizon
    departure_side: str | None = None  # "behind", or "ahead": it is faster than its teacher
    window: float | None = None  # the share of perfect use of the window
    ceiling: float | None = None  # the share of perfect knowledge at the learner's epsilon

    @property
    def is_answered(self) -> bool:
        return self.answer in ("yes", "no", "partial") and self.share is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One set of imitators. `values` is by axis, a name in `AXES`."""

    name: str
    values: Mapping[str, Any]
    converged: bool | None
    tau_steps: float | None  # the learner's time constant
    passes_gate: bool | None
    process: Imitated
    later: Imitated
    above_floor: float | None = (
        None  # nats of held-out cross-entropy over that of the learner's greedy action known
    )
    elsewhere: float | None = None  # recovered on rung 2b, where that was asked

    @property
    def is_closed(self) -> bool:
        return self.converged is True

    def of(self, question: str) -> Imitated:
        return self.process if question == "process" else self.later


def one_each(points: Iterable[Point]) -> tuple[list[Point], int]:
    """The first point of each place on the axes, and how many others stand where one stands already."""
    found: dict[tuple, Point] = {}
    num = 0
    for num, point in enumerate(points, start=1):
        found.setdefault(tuple(point.values.items()), point)
    return list(found.values()), num - len(found)


class Chain(NamedTuple):
    """Points along one axis, ascending; `rest` is what they share."""

    rest: dict[str, Any]
    points: list[Point]


def chains(points: Iterable[Point], axis: str, *, least: int = 2) -> list[Chain]:
    """All chains along an axis of at least so many different values, in the order of the points.

    A point whose value says nothing (the context of a memory that has no window) is in none along that axis.
    """
    found: dict[tuple, list[Point]] = {}
    for point in points:
        if axis == "context" and point.values["memory"] != "transformer":
            continue
        rest = tuple((name, value) for name, value in point.values.items() if name != axis)
        found.setdefault(rest, []).append(point)
    made = [
        Chain(dict(rest), sorted(some, key=lambda one: (str(type(one.values[axis])), one.values[axis])))
        for rest, some in found.items()
    ]
    return [chain for chain in made if len({one.values[axis] for one in chain.points}) >= least]


def varying(points: Sequence[Point]) -> list[str]:
    """The axes along which points differ, in the order of `AXES`."""
    return [axis for axis in AXES if len({point.values.get(axis) for point in points}) > 1]


def needed_context(chain: Chain, question: str = "process") -> Needed:
    """Between which contexts of a chain the break lies: the first from which on every closed point answers yes."""
    closed = [one for one in chain.points if one.is_closed and one.of(question).is_answered]
    high, low = None, None
    for point in reversed(closed):
        if point.of(question).answer != "yes":
            low = point.values["context"]
            break
        high = point.values["context"]
    return Needed(low, high)


def line(points: Sequence[Point]) -> tuple[list[tuple[float, Needed]], Line]:
    """The needed context of PROCESS against the learner's time constant: each chain's, and the line through them."""
    rows = []
    for chain in chains(points, "context"):
        taus = [one.tau_steps for one in chain.points if one.tau_steps]
        needed = needed_context(chain)
        if taus and needed != Needed(None, None):
            rows.append((sum(taus) / len(taus), needed))
    return rows, fit([tau for tau, _ in rows], [needed for _, needed in rows])


class Moved(NamedTuple):
    """What an axis does to PROCESS: in how many chains its answer changes, and where the share changes most."""

    num_chains: int
    num_changed: int
    rest: dict[str, Any]
    low: Point | None
    high: Point | None


def moved(points: Sequence[Point], axis: str) -> Moved:
    """Over closed, answered points. An answer changes where two points of a chain differ in it and their intervals do
    not overlap."""
    counted, changed, best = 0, 0, Moved(0, 0, {}, None, None)
    widest = -1.0
    for chain in chains(points, axis):
        closed = [one for one in chain.points if one.is_closed and one.process.is_answered]
        if len({one.values[axis] for one in closed}) < 2:
            continue
        counted += 1
        pairs = [(one, two) for number, one in enumerate(closed) for two in closed[number + 1 :]]
        changed += any(
            one.process.answer != two.process.answer and _apart(one.process, two.process)
            for one, two in pairs
        )
        for one, two in pairs:
            if (by := abs(_share(two) - _share(one))) > widest:
                widest, best = by, Moved(0, 0, chain.rest, one, two)
    return best._replace(num_chains=counted, num_changed=changed)


def findings(points: Sequence[Point]) -> list[str]:
    """What the points say, a sentence or two each; the first one answers the question."""
    if not points:
        return ["No point has a result yet."]
    found = [_break_sentence(points), *_line_sentences(points), *_window_sentences(points)]
    found += [
        sentence
        for axis in varying(points)
        if axis not in ("seed", "memory") and (sentence := _moved_sentence(points, axis))
    ]
    return [*found, *_recurrent_sentences(points), *_later_sentences(points), *_open_sentences(points)]


def told(values: Mapping[str, Any], among: Iterable[str]) -> str:
    """Some values in words: `ring 24, width 64`."""
    return ", ".join(f"{axis} {_value(values[axis])}" for axis in among if axis in values)


def _break_sentence(points: Sequence[Point]) -> str:
    compared = chains(points, "context")
    differ = [
        axis for axis in varying([one for chain in compared for one in chain.points]) if axis != "context"
    ]
    between, all_suffice, none_suffices = [], [], []
    for chain in compared:
        low, high = needed_context(chain)
        where = told(chain.rest, differ or [axis for axis in ("ring", "room") if chain.rest[axis]]) or "here"
        if low is not None and high is not None:
            at = {one.values["context"]: one for one in chain.points}
            between.append(f"between {_shown(at[low])} and {_shown(at[high])} steps ({where})")
        elif high is not None:
            all_suffice.append(f"{where} from {high} on")
        elif low is not None:
            none_suffices.append(f"{where} up to {low}")
    parts = []
    if between:
        parts.append(
            "Whether the frozen imitator goes through the whole learning from an empty context turns on its context: "
            f"PROCESS becomes yes {'; '.join(between)}"
        )
    if all_suffice:
        parts.append(f"every context tried suffices at {'; '.join(all_suffice)}")
    if none_suffices:
        parts.append(f"no context tried suffices at {'; '.join(none_suffices)}")
    if not parts:
        return "No context can be compared with another one: no converged points differ in it alone."
    return f"{'. '.join(part[0].upper() + part[1:] for part in parts)}."


def _shown(point: Point) -> str:
    """`128 (no, 0.02)`."""
    return f"{point.values['context']} ({point.process.answer}, {_share(point):.2f})"


def _line_sentences(points: Sequence[Point]) -> list[str]:
    rows, found = line(points)
    if not math.isfinite(found.slope):
        whole = sum(needed.is_between for _, needed in rows)
        return [
            f"For a line of the needed context on the learner's time constant it takes three breaks; {whole} found."
        ]
    low, high = found.slope_ci95
    return [
        f"The needed context grows as the learner's time constant to the power {found.slope:.2f} [{low:.2f}, "
        f"{high:.2f}] ({found.num} breaks)."
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
    ]
    if not short:
        return []
    below = [one for one in short if _ends(one.process)[1] < (one.process.window or 0.0)]
    return [
        f"Of {len(short)} converged points that do not imitate the whole learning, {len(below)} lie wholly below the "
        "perfect use of their window: there it holds more than they make of it."
    ]


def _moved_sentence(points: Sequence[Point], axis: str) -> str | None:
    found = moved(points, axis)
    if found.low is None or found.high is None:
        return None
    low, high = (f"{_value(one.values[axis])}" for one in (found.low, found.high))
    rest = told(found.rest, [name for name in varying(points) if name != axis])
    does = "moves the answer" if found.num_changed else "does not move the answer"
    words = AXES[axis]
    return (
        f"{words[0].upper()}{words[1:]}: {does} ({found.num_changed} of {found.num_chains} comparisons); at most from "
        f"{_share(found.low):.2f} at {low} to {_share(found.high):.2f} at {high}{f' ({rest})' if rest else ''}."
    )


def _recurrent_sentences(points: Sequence[Point]) -> list[str]:
    free = [one for one in points if one.values["memory"] != "transformer" and one.process.is_answered]
    differ = [axis for axis in varying(points) if axis not in ("context", "memory")]
    if not free:
        return []
    each = "; ".join(
        f"{told(one.values, ['memory', *differ]).replace('memory ', '').replace('_', ' ')}: {one.process.answer} "
        f"{_share(one):.2f}{'' if one.is_closed else ' (open)'}"
        for one in free
    )
    return [f"Without a window, with a state that keeps what it will: {each}."]


def _later_sentences(points: Sequence[Point]) -> list[str]:
    asked = [one for one in points if one.is_closed and one.later.is_answered]
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
        longer = "see what the updates move" if "updates" in varying(points) else "none was tried here"
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


def _share(point: Point) -> float:
    return math.nan if point.process.share is None else point.process.share


def _ends(one: Imitated) -> tuple[float, float]:
    low, high = one.ci95
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _apart(one: Imitated, other: Imitated) -> bool:
    (low, high), (other_low, other_high) = _ends(one), _ends(other)
    return high < other_low or other_high < low


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
