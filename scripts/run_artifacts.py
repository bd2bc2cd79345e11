"""What two runs left, compared: every file's bytes, or, where a format holds times, its arrays."""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import tensorstore as ts

TIMES = {"seconds", "compile_seconds", "started", "time", "attempts", "saving"} | {
    "first_step_seconds",
    "seconds_per_step",
    "took",
}


def without_times(value: Any) -> Any:
    """JSON without what differs between two equal runs."""
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [without_times(one) for one in value]
    return value


def _checkpoint(path: pathlib.Path) -> dict[str, str]:
    """Hashes of the arrays of a checkpoint, by name, read below orbax: its folders hold times and random names."""
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{path.absolute()}/"}).result()
    return {
        key.decode(): hashlib.sha256(store.read(key).result().value).hexdigest()
        for key in sorted(store.list().result())
    }


def artifacts(run: pathlib.Path) -> dict[str, Any]:
    """Everything that a run's answer rests on, as far as it has come, by path."""
    found: dict[str, Any] = {}
    for file in sorted((run / "histories").rglob("*")):
        if file.is_file():
            found[file.relative_to(run).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    for marker in sorted((run / "checkpoints").rglob("manifest.ocdbt")):
        if not marker.parent.name.startswith("ocdbt.process"):
            found[marker.parent.relative_to(run).as_posix()] = _checkpoint(marker.parent)
    if (file := run / "evaluation" / "cells.npz").exists():
        with np.load(file) as cells:
            found["cells"] = {
                name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in cells.items()
            }
    for name in ("losses.json", "verdict.json"):
        if (run / name).exists():
            found[name] = without_times(json.loads((run / name).read_text()))
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    found["stages"] = without_times(stages)
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names under which they differ."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
