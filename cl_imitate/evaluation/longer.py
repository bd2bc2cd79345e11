"""Points of a horizon beside those that differ from them in a longer training alone."""

import dataclasses
from collections.abc import Sequence

from cl_imitate.config import Rules
from cl_imitate.evaluation.horizon import Point
from cl_imitate.evaluation.trained import Longer

TIMES = 2
"""A training is longer from so many times the updates on."""


def beside_longer(points: Sequence[Point], rules: Rules) -> list[Point]:
    """The points, each with the longer training that ends lowest, if there is one to be compared with its own."""
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
    ends = [
        (loss, updates)
        for other in points
        if (updates := other.values["updates"]) >= TIMES * here["updates"]
        and other.place(question) == here | {"updates": updates}
        and (loss := other.trained_for(question).held_out_loss) is not None
    ]
    if not ends or own.held_out_loss is None or own.above_floor is None:
        return None
    loss, updates = min(ends)  # not that of the longest, which may have begun to memorise
    fall = own.held_out_loss - loss
    return Longer(updates, fall, fall > rules.converged_share * max(own.above_floor, 0.0))
