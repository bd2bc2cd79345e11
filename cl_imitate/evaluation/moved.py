"""What moves the answer of PROCESS, among points of a horizon that differ in one thing alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Imitated, Point

NO_CHANGE = 0.2
"""Shares of the learner's gain that differ by less are held for equal: half of what lies between the bounds of a no
and a yes (0.1 and 0.5)."""


class Moved(NamedTuple):
    """What an axis does to PROCESS: in how many chains its answer changes, and where the share changes most."""

    num_chains: int
    num_changed: int
    num_equal: int  # of chains in which no two shares can differ by `NO_CHANGE`
    num_open: int  # chains beside these that would count if training had converged
    rest: dict[str, Any]
    low: Point | None
    high: Point | None


def moved(points: Sequence[Point], axis: str) -> Moved:
    """Over closed, answered points (what more updates move: also over those that only a longer training opens, else
    there would be nothing to see). An answer changes where two points of a chain differ in it and their intervals do
    not overlap. That intervals overlap does not show that nothing changes: a chain's shares are equal only where the
    farthest ends of every two intervals are less than `NO_CHANGE` apart."""
    counted, changed, equal, opened, best = 0, 0, 0, 0, Moved(0, 0, 0, 0, {}, None, None)
    widest = -1.0
    for chain in horizon.chains(points, axis):
        answered = [one for one in chain.points if one.process.is_answered]
        closed = [
            one for one in answered if one.is_closed or (axis == "updates" and one.training.converged is True)
        ]
        if len({one.values[axis] for one in closed}) < 2:
            opened += len({one.values[axis] for one in answered}) > 1
            continue
        counted += 1
        pairs = [(one, two) for number, one in enumerate(closed) for two in closed[number + 1 :]]
        changed += any(
            one.process.answer != two.process.answer and _apart(one.process, two.process)
            for one, two in pairs
        )
        equal += all(_farthest(one.process, two.process) < NO_CHANGE for one, two in pairs)
        for one, two in pairs:
            if (by := abs(horizon.share(two) - horizon.share(one))) > widest:
                widest, best = by, Moved(0, 0, 0, 0, chain.rest, one, two)
    return best._replace(num_chains=counted, num_changed=changed, num_equal=equal, num_open=opened)


def _apart(one: Imitated, other: Imitated) -> bool:
    (low, high), (other_low, other_high) = horizon.ends(one), horizon.ends(other)
    return high < other_low or other_high < low


def _farthest(one: Imitated, other: Imitated) -> float:
    """By how much the two shares can differ at most, as far as their intervals tell."""
    (low, high), (other_low, other_high) = horizon.ends(one), horizon.ends(other)
    return max(high - other_low, other_high - low)
