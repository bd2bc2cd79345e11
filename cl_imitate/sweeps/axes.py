"""From a config with a `[sweep]` to its points, and which of them one compiled program can serve.

[sweep]
combine = "product"                  # or "zip": the first values of all axes, the second ones, ...

[sweep.axes]
seed = [0, 1, 2]
"learner.learning_rate" = [1e-3, 2e-3]
"learner.epsilon_start, learner.epsilon_end" = [0.05, 0.1]     # one axis may set several keys
"environment.num_positions, evaluation.later_steps" = [{ each = [8, 640] }, { each = [16, 1280] }]    # each its own
"""

import copy
import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

from cl_imitate import config, load_config, optimiser
from cl_imitate.learners.dqn import DQNHyperparams

LEAVES = (
    "seed",
    *(f"learner.{name}" for name in DQNHyperparams.__dataclass_fields__),
    *(f"training.{name}" for name in optimiser.LEAVES),
)
"""The keys that do not shape a compiled program: points that differ in nothing else are computed together."""

_KNOWN = ("axes", "combine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep."""

    name: str  # its folder's, told by its values
    values: dict[str, Any]  # by axis
    experiment: config.Experiment

    @property
    def fingerprint(self) -> str:
        return load_config.fingerprint(self.experiment)


def load_points(path: pathlib.Path, overrides: tuple[str, ...] = ()) -> list[Point]:
    """The points of a sweep's config, in the order of their axes' values (the last axis moves fastest).

    Raises:
      ValueError: the file, an override, an axis or one of the points is wrong.
    """
    values = load_config.load_values(path, overrides)
    axes, combine = _checked(values.pop("sweep", None), origin=str(path))
    rows = list(
        itertools.product(*axes.values()) if combine == "product" else zip(*axes.values(), strict=True)
    )
    shown = {axis: _columns(axis, all_values) for axis, all_values in axes.items()}
    points = []
    for row in rows:
        own = copy.deepcopy(values)
        for axis, value in zip(axes, row, strict=True):
            for key, one in _by_key(axis, value):
                load_config.set_value(own, key, one, origin=f"{path}: sweep.axes: {axis}")
        at = {key: one for axis, value in zip(axes, row, strict=True) for key, one in shown[axis](value)}
        told = ", ".join(f"{axis} = {value!r}" for axis, value in zip(axes, row, strict=True))
        points.append((at, load_config.build(own, origin=f"{path} with {told}")))
    prints = [load_config.fingerprint(experiment) for _, experiment in points]
    for index, one in enumerate(prints):
        if (first := prints.index(one)) != index:
            raise ValueError(
                f"{path}: sweep.axes: the points {_name(points[first][0])} and {_name(points[index][0])} are the same "
                "run. Remove a repeated value, or the axis that changes nothing."
            )
    return [
        Point(name=name, values=at, experiment=experiment)
        for name, (at, experiment) in zip(_names([at for at, _ in points]), points, strict=True)
    ]


def without_leaves(experiment: config.Experiment) -> config.Experiment:
    """The experiment with its leaves at fixed values: what shapes its compiled programs."""
    learner = {name: 0.5 for name in DQNHyperparams.__dataclass_fields__}
    return dataclasses.replace(
        experiment,
        seed=0,
        learner=dataclasses.replace(experiment.learner, **learner),
        training=optimiser.without_rates(experiment.training),
    )


def groups(points: list[Point]) -> list[list[Point]]:
    """Points that differ in leaves only, together."""
    found: dict[config.Experiment, list[Point]] = {}
    for point in points:
        found.setdefault(without_leaves(point.experiment), []).append(point)
    return list(found.values())


def _checked(sweep: Any, *, origin: str) -> tuple[dict[str, list], str]:
    if not isinstance(sweep, dict) or not isinstance(sweep.get("axes"), dict) or not sweep["axes"]:
        raise ValueError(
            f"{origin} has no axes. Give them in a table, for example\n  [sweep.axes]\n  seed = [0, 1, 2]\n"
            "or start a single run: `cl-imitate run`."
        )
    if unknown := [key for key in sweep if key not in _KNOWN]:
        raise ValueError(f"{origin}: unknown key sweep.{unknown[0]} (known keys here: {', '.join(_KNOWN)})")
    # An axis that is not quoted, learner.learning_rate = [...], is a table inside a table.
    axes = dict(_flat(sweep["axes"]))
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{origin}: sweep.axes: {axis} = {values!r} is not a list of values, for example {axis} = [1, 2]"
            )
        _check_own_values(axis, values, origin=origin)
    combine = sweep.get("combine", "product")
    if combine not in ("product", "zip"):
        raise ValueError(f'{origin}: sweep.combine = {combine!r}: use "product" or "zip"')
    lengths = {axis: len(values) for axis, values in axes.items()}
    if combine == "zip" and len(set(lengths.values())) > 1:
        raise ValueError(
            f'{origin}: sweep.combine = "zip" needs axes of one length; they have {lengths}. Use "product", or '
            "give each as many values"
        )
    return axes, combine


def _check_own_values(axis: str, values: list[Any], *, origin: str) -> None:
    num = len(_keys(axis))
    for value in values:
        if isinstance(value, dict) and not (
            _has_own_values(value) and isinstance(value["each"], list) and len(value["each"]) == num
        ):
            raise ValueError(
                f"{origin}: sweep.axes: {axis} has {value!r} among its values: a value that gives each of its {num} "
                f"keys its own is written {{ each = [...] }}, with {num} values in it"
            )
    if 0 < sum(isinstance(value, dict) for value in values) < len(values):
        raise ValueError(
            f"{origin}: sweep.axes: {axis} has values with `each` and without it; write all of them alike"
        )


def _flat(table: dict, above: str = ""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _keys(axis: str) -> list[str]:
    return [key.strip() for key in axis.split(",")]


def _has_own_values(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["each"]


def _by_key(axis: str, value: Any) -> list[tuple[str, Any]]:
    """The keys that an axis sets, each with its value."""
    keys = _keys(axis)
    return (
        list(zip(keys, value["each"], strict=True))
        if _has_own_values(value)
        else [(key, value) for key in keys]
    )


def _columns(axis: str, values: list[Any]) -> Callable[[Any], list[tuple[str, Any]]]:
    """How a value of an axis is told: whole; or, where keys have values of their own, by as many of the first keys as
    tell its values apart."""
    if not all(map(_has_own_values, values)):
        return lambda value: [(axis, value)]
    rows = [value["each"] for value in values]
    num = next(
        (num for num in range(1, len(rows[0])) if len({json.dumps(row[:num]) for row in rows}) == len(rows)),
        len(rows[0]),
    )
    return lambda value: _by_key(axis, value)[:num]


def _names(points: list[dict[str, Any]]) -> list[str]:
    """A folder's name for each, all different."""
    names = [_name(at) for at in points]
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]


def _name(at: dict[str, Any]) -> str:
    """`seed=0,learning_rate=0.001`: the axes' last words, or all of them where that tells too little."""
    last = [_keys(axis)[0].split(".")[-1] for axis in at]
    axes = [word if last.count(word) == 1 else _keys(axis)[0] for axis, word in zip(at, last, strict=True)]
    told = ",".join(f"{axis}={_shown(value)}" for axis, value in zip(axes, at.values(), strict=True))
    return re.sub(r"[^A-Za-z0-9.,=+-]+", "_", told).strip("_.")[:150]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(_shown(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value)
