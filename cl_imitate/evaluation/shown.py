"""LATER against what was shown: points of a horizon that differ only in where recording stopped."""

from collections.abc import Iterable

from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Chain, Point, Shown

_STOPS = ("span", "fork")
"""Where recording stops for the imitators of PROCESS, and for those of LATER."""


def shown(point: Point) -> Shown:
    """What a point of a chain made here was shown."""
    assert point.shown is not None
    return point.shown


def by_shown(points: Iterable[Point]) -> list[Chain]:
    """Points at which LATER is answered, ascending by the share of recorded lives that had come by then to where
    learners come later. Those of a chain are equal in all else, and are at least two."""
    found: dict[tuple, list[Point]] = {}
    for point in horizon.one_each(points, "later")[0]:
        if point.shown is not None and point.later.is_answered:
            rest = tuple((name, value) for name, value in point.place("later").items() if name not in _STOPS)
            found.setdefault(rest, []).append(point)
    return [
        Chain(dict(rest), sorted(some, key=lambda one: shown(one).share))
        for rest, some in found.items()
        if len(some) > 1
    ]
