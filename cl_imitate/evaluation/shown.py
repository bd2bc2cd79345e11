"""LATER against what was shown: points of a horizon that differ only in where recording stopped."""

from collections.abc import Iterable, Sequence

from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import AXES, LATER_AXES, Chain, Point, Shown

_STOPS = ("span", "fork")
"""Where recording stops for the imitators of PROCESS, and for those of LATER."""


def shown(point: Point) -> Shown:
    """What a point of a chain made here was shown."""
    assert point.shown is not None
    return point.shown


def by_shown(points: Iterable[Point]) -> list[Chain]:
    """Points at which LATER is answered, ascending by the share of recorded lives that had come by then to where
    learners come later. Those of a chain are equal in all else, and were asked after at least two forks."""
    asked = (one for one in points if one.shown is not None and one.later.is_answered)
    found: dict[tuple, dict[int, Point]] = {}
    for point in horizon.one_each(asked, "later")[0]:
        rest = tuple((name, value) for name, value in point.place("later").items() if name not in _STOPS)
        found.setdefault(rest, {}).setdefault(point.later_values["fork"], point)
    return [
        Chain(dict(rest), sorted(some.values(), key=lambda one: shown(one).share))
        for rest, some in found.items()
        if len(some) > 1
    ]


def settings(chains: Sequence[Chain]) -> list[str]:
    """What tells each chain from the others, in words; of a single one nothing."""
    differ = [axis for axis in (*AXES, *LATER_AXES) if len({chain.rest.get(axis) for chain in chains}) > 1]
    return [horizon.told(chain.rest, differ) for chain in chains]
