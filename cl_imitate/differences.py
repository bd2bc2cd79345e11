"""Which values two configurations differ in, by dotted key."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key; lists of tables are counted, as TOML's are."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{name}[{index}]")
    else:
        yield name, value


def told(there: Mapping[str, Any], here: Mapping[str, Any], *, at_most: int = 4) -> str:
    """The first values that differ, as `seed = 0 there, 5 here`; "" where none does."""
    was, now = dict(flat(there)), dict(flat(here))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    words = [f"{key} = {_shown(was, key)} there, {_shown(now, key)} here" for key in keys[:at_most]]
    return "; ".join([*words, *([f"and {len(keys) - at_most} more"] if len(keys) > at_most else [])])


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else "not set"
