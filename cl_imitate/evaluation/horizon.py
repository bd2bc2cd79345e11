"""How far frozen imitation goes, and what moves the place where it breaks: points of sweeps -> chains and breaks.

A point is one set of imitators in one run. It is *closed* where their training had converged (`trained`), else *open*:
open points are drawn and counted nowhere. A *chain* is the closed and open points that differ along one axis alone.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cl_imitate.evaluation.needed import Line, Needed, fit
from cl_imitate.evaluation.trained import Trained

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
    "sees": "what the imitator is shown",
    "replay": "replay of the learner",
    "discount": "discount of the learner",
    "seed": "seed",
    "span": "steps recorded",
    "rest": "other settings",
}
"""What points may differ in, in words; `rest` is a short hash of what is no axis and does not follow from one."""
NAMES = {axis: axis for axis in AXES} | {
    "pace": "learning rate",
    "sees": "shown",
    "span": "recorded steps",
    "rest": "other settings",
}
"""An axis before a value, in a word or two."""
LATER_AXES = {
    "fork": "LATER's fork",
    "onward": "steps after the fork",
    "now": "steps of the imitator's own NOW",
}
"""What LATER may differ in besides: points that differ here were asked another LATER, and the same PROCESS."""
LEARNER_AXES = ("pace", "epsilon", "replay", "discount")
TASK_AXES = ("family", "ring", "room", "symbols", "growth")
"""What there is to know, and with it how long its learning takes."""
_FOLLOWS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*TASK_AXES, *LEARNER_AXES), ("span",)),  # lives are as long as learning takes
    "family": ("span", "rest"),
    "memory": ("rest",),
}
"""By axis: what may differ along it, because it follows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imitated:
    """PROCESS from an empty context, or LATER: how much of the learner's gain, and for how long."""

    answer: str
    share: float | None  # of the learner's gain; None: not measured
    ci95: tuple[float | None, float | None]
    horizon_steps: int  # it was looked at for so long
    learner_gain: float | None = None  # in the learner's range: what the share is of
    departure_steps: float | None = None  # None: not seen within the horizon
    departure_side: str | None = None  # "behind", or "ahead": it is faster than its teacher
    departure_is_resolved: bool = (
        False  # it was seen, or intervals are narrow enough to say that there is none
    )
    window: float | None = None  # the share of perfect use of the window
    window_low: float | None = None  # the lower end of its interval
    ceiling: float | None = None  # the share of perfect knowledge at the learner's epsilon

    @property
    def gain(self) -> float | None:
        """The imitator's, in the learner's range."""
        return None if self.share is None or self.learner_gain is None else self.share * self.learner_gain

    @property
    def is_answered(self) -> bool:
        return self.answer in ("yes", "no", "partial") and self.share is not None


class Shown(NamedTuple):
    """Of the recorded lives, the share that had come by LATER's fork to where learners come after it (`novelty`)."""

    share: float
    low: float  # the ends of its interval
    high: float

    @property
    def told(self) -> str:
        """In words: `0.391%`, `30%`, `100%`. A few of many are not none."""
        return f"{100 * self.share:.3g}%"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One set of imitators. `values` is by axis, a name in `AXES`."""

    name: str
    values: Mapping[str, Any]
    training: Trained  # of the imitators that PROCESS was asked of
    later_training: Trained  # of those that LATER was asked of, which may have another fork
    tau_steps: float | None  # the learner's time constant
    passes_gate: bool | None
    process: Imitated
    later: Imitated
    elsewhere: float | None = None  # recovered on rung 2b, where that was asked
    shown: Shown | None = None  # None: the control that counts it was not run, or could not tell
    settings: Mapping[str, Any] = dataclasses.field(
        default_factory=dict
    )  # by key: what `rest` is the hash of
    later_values: Mapping[str, int] = dataclasses.field(
        default_factory=dict
    )  # by axis, a name in `LATER_AXES`

    @property
    def is_closed(self) -> bool:
        """Whether it counts where PROCESS is asked."""
        return self.training.is_closed

    @property
    def is_cut_short(self) -> bool:
        """Whether its recording ends before the learning does: half of the gain took more than half of the span.

        A gain that comes steadily to the very end makes its half in half of the span; one that reaches a plateau,
        well before. PROCESS then asks for a part of the learning, which tells nothing of what the whole needs.
        """
        span = self.values.get("span")
        return bool(self.tau_steps and span and 2 * self.tau_steps > span)

    def trained_for(self, question: str) -> Trained:
        return self.training if question == "process" else self.later_training

    def counts_for(self, question: str) -> bool:
        return self.trained_for(question).is_closed

    def of(self, question: str) -> Imitated:
        return self.process if question == "process" else self.later

    def place(self, question: str) -> dict[str, Any]:
        """Where a question was asked: the point's values, and LATER's own."""
        return dict(self.values) if question == "process" else {**self.values, **self.later_values}


def one_each(points: Iterable[Point], question: str | None = None) -> tuple[list[Point], int]:
    """The first point of each place at which a question (None: either) was asked, and how many others stand where one
    stands already. Where LATER was not asked, it sets no points apart."""
    found: dict[tuple, Point] = {}
    num = 0
    for num, point in enumerate(points, start=1):
        asks_later = question != "process" and point.later.answer != "not run"
        found.setdefault(tuple(point.place("later" if asks_later else "process").items()), point)
    return list(found.values()), num - len(found)


def whole(points: Iterable[Point]) -> list[Point]:
    """The points that say something of PROCESS: one of each place, where a whole learning was recorded."""
    return [one for one in one_each(points, "process")[0] if not one.is_cut_short]


class Chain(NamedTuple):
    """Points along one axis, ascending; `rest` is what they share."""

    rest: dict[str, Any]
    points: list[Point]


def chains(points: Iterable[Point], axis: str, *, least: int = 2, question: str = "process") -> list[Chain]:
    """All chains along an axis of at least so many different values, in the order of the points.

    The points of a chain agree on every other axis (for LATER, on its own ones too), but for what follows from this
    one: of lives that differ in length alone the longest count.
    A point whose value says nothing (the context of a memory that has no window) is in none along that axis.
    """
    follows = _FOLLOWS.get(axis, ())
    may_differ = (axis, *follows, *(LATER_AXES if "span" in follows else ()))
    found: dict[tuple, list[Point]] = {}
    for point in one_each(points, question)[0]:
        if axis == "context" and point.values["memory"] != "transformer":
            continue
        rest = tuple((name, value) for name, value in point.place(question).items() if name not in may_differ)
        found.setdefault(rest, []).append(point)
    made = [
        Chain(dict(rest), sorted(_one_each_value(some, axis), key=lambda one: _order(one.values[axis])))
        for rest, some in found.items()
    ]
    return [chain for chain in made if len({one.values[axis] for one in chain.points}) >= least]


def _one_each_value(points: Iterable[Point], axis: str) -> list[Point]:
    longest = sorted(points, key=lambda one: one.values.get("span") or 0)
    return list({one.values[axis]: one for one in longest}.values())


def _order(value: Any) -> tuple[str, Any]:
    return str(type(value)), value


def varying(points: Sequence[Point]) -> list[str]:
    """The axes along which points differ, in the order of `AXES`, without what follows from the others of them."""
    differ = [axis for axis in AXES if len({point.values.get(axis) for point in points}) > 1]
    own = [axis for axis in differ if axis not in ("span", "rest")]
    return own + [axis for axis in ("span", "rest") if axis in differ and not _is_implied(axis, own, points)]


def _is_implied(axis: str, by: Sequence[str], points: Sequence[Point]) -> bool:
    found: dict[tuple, set] = {}
    for point in points:
        found.setdefault(tuple(point.values.get(name) for name in by if name != "context"), set()).add(
            point.values[axis]
        )
    return all(len(values) == 1 for values in found.values())


def settings_that_differ(points: Sequence[Point]) -> list[str]:
    """The keys of the configuration behind a difference in `rest`."""
    every = dict.fromkeys(key for point in points for key in point.settings)
    return [key for key in every if len({repr(point.settings.get(key)) for point in points}) > 1]


def needed_context(chain: Chain, question: str = "process") -> Needed:
    """Between which contexts of a chain the break lies: the first from which on every closed point answers yes."""
    closed = [one for one in chain.points if one.counts_for(question) and one.of(question).is_answered]
    high, low = None, None
    for point in reversed(closed):
        if point.of(question).answer != "yes":
            low = point.values["context"]
            break
        high = point.values["context"]
    return Needed(low, high)


class Break(NamedTuple):
    """Of a chain along the context: where PROCESS becomes yes."""

    tau_steps: float  # the learner's time constant
    needed: Needed
    task: tuple[tuple[str, Any], ...]  # the values on `TASK_AXES`: what there is to know
    setting: tuple[
        tuple[str, Any], ...
    ] = ()  # those on all axes that are neither the task's nor the learner's


def breaks(points: Sequence[Point]) -> list[Break]:
    """Of every chain whose learner has a time constant and that has closed points; master seeds are taken together.
    Where a recording ends before the learning does, there is no break."""
    found: dict[tuple, list[tuple[float, Needed]]] = {}
    for chain in chains(whole(points), "context"):
        taus = [one.tau_steps for one in chain.points if one.tau_steps]
        needed = needed_context(chain)
        if taus and needed != Needed(None, None):
            place = tuple((axis, value) for axis, value in chain.rest.items() if axis != "seed")
            found.setdefault(place, []).append((sum(taus) / len(taus), needed))
    return [_together(dict(place), some) for place, some in found.items()]


def _together(rest: dict[str, Any], some: Sequence[tuple[float, Needed]]) -> Break:
    lows, highs = [one.low for _, one in some], [one.high for _, one in some]
    low = None if None in lows else min(low for low in lows if low is not None)
    high = None if None in highs else max(high for high in highs if high is not None)
    own = (*TASK_AXES, *LEARNER_AXES, "span")
    return Break(
        sum(tau for tau, _ in some) / len(some),
        Needed(low, high),
        task=tuple((axis, rest.get(axis)) for axis in TASK_AXES),
        setting=tuple((axis, value) for axis, value in rest.items() if axis not in own),
    )


def line(found: Sequence[Break], *, same_task: bool = False) -> Line:
    """The needed context of PROCESS against the learner's time constant. Breaks are compared within one setting (size
    and training of the imitator, number of learners, ...); with `same_task` within one task as well, so that learners
    are slower without there being more to know."""
    groups = [(one.setting, one.task) if same_task else one.setting for one in found]
    return fit([one.tau_steps for one in found], [one.needed for one in found], groups=groups)


def told(values: Mapping[str, Any], among: Iterable[str]) -> str:
    """Some values in words: `ring 24, learning rate 0.002`. None is no value: on a ring there is no room."""
    names = NAMES | LATER_AXES
    there = [axis for axis in among if values.get(axis) is not None]
    return ", ".join(f"{names[axis]} {value_told(values[axis])}" for axis in there)


def share(point: Point) -> float:
    """Of PROCESS; NaN where it was not measured."""
    return math.nan if point.process.share is None else point.process.share


def ends(one: Imitated) -> tuple[float, float]:
    """Of its interval, infinite where there is none."""
    low, high = one.ci95
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def window_low(one: Imitated) -> float:
    """The least that perfect use of the window may be worth, as far as its own interval tells."""
    low = one.window if one.window_low is None else one.window_low
    return -math.inf if low is None else low


def value_told(value: Any) -> str:
    """A value of an axis, in words: `1,024`, `0.00025`, `linear recurrence`."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("_", " ")
