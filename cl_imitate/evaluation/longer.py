"""Points of a horizon beside those that differ from them in a longer training alone."""

import dataclasses
from collections.abc import Sequence

from cl_imitate.config import Rules
from cl_imitate.evaluation.horizon import Point
from cl_imitate.evaluation.trained import Longer

TIMES = 2
"""A training is longer from so many times the updates on."""


def beside_longer(points: Sequence[Point], rules: Rules) -> list[Point]:
    """The points, each with the longest training that can be compared with its own, if there is one."""
    return [
        dataclasses.replace(
            one,
            training=dataclasses.replace(one.training, longer=_longer(one, points, "process", rules)),
            later_training=dataclasses.replace(
                one.later_training, longer=_longer(one, points, "later", rules)
            ),
        )
        for one in points
    ]


def _longer(one: Point, points: Sequence[Point], question: str, rules: Rules) -> Longer | None:
    """Next to nothing is here what it is to a curve: `rules.converged_share` of what is left above the floor."""
    own = one.trained_for(question)
    here = one.place(question)
    longest = max(
        (
            other
            for other in points
            if other.values["updates"] >= TIMES * here["updates"]
            and other.place(question) == here | {"updates": other.values["updates"]}
            and other.trained_for(question).held_out_loss is not None
        ),
        key=lambda other: other.values["updates"],
        default=None,
    )
    if longest is None or own.held_out_loss is None or own.above_floor is None:
        return None
    end = longest.trained_for(question).held_out_loss
    assert end is not None
    fall = own.held_out_loss - end
    return Longer(longest.values["updates"], fall, fall > rules.converged_share * max(own.above_floor, 0.0))
