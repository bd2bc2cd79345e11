"""Where configurations differ, in words: by their leaves for a table of data, by their fields for a reader."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_imitate.config import Experiment

_NAMES_APART = ("name", "rules_sha256")  # what a run is called says nothing of what it is
_WIDTH = 48  # characters: a longer list is cut


def leaves(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """By dotted key, each one's value; a dash where it has none. Tables in a list are counted: `rungs[0].name`."""
    flat = [dict(_flat(dataclasses.asdict(one))) for one in experiments]
    names = dict.fromkeys(name for one in flat for name in one if name not in _NAMES_APART)
    found = {name: [_shown(one.get(name)) for one in flat] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def entries(experiments: Sequence[Experiment]) -> dict[str, list[str]]:
    """As `leaves`, but with one entry a field: a list of tables is told by what differs in it, cut where long."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, values in leaves(experiments).items():
        field, bracket, rest = name.partition("[")
        found.setdefault(field, {})[bracket + rest] = values
    return {
        field: [
            textwrap.shorten(
                _told({name: values[number] for name, values in inner.items()}), _WIDTH, placeholder=" …"
            )
            for number in range(len(experiments))
        ]
        for field, inner in found.items()
    }


def told(there: Mapping[str, Any], here: Mapping[str, Any], *, at_most: int = 4) -> str:
    """The first values that differ, as `seed = 0 there, 5 here`; "" where none does."""
    was, now = dict(_flat(there)), dict(_flat(here))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    words = [f"{key} = {_value(was, key)} there, {_value(now, key)} here" for key in keys[:at_most]]
    return "; ".join([*words, *([f"and {len(keys) - at_most} more"] if len(keys) > at_most else [])])


def _told(inner: Mapping[str, str]) -> str:
    """Of one experiment, what differs in a field: its value or, of a list of tables, what differs in each of them."""
    here = {name: value for name, value in inner.items() if value != "–"}
    if "" in inner and len(inner) > 1 and "" not in here:  # another one's list is empty
        count = len({name.partition("]")[0] for name in here})
        return f"{count} entr{'y' if count == 1 else 'ies'}"
    return ", ".join(f"{name} {value}".strip() for name, value in here.items()) or "–"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key; lists of tables are counted, as TOML's are."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{index}]")
    else:
        yield name, value


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else "not set"
