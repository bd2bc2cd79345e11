"""A sweep's results as one tidy table: a row for each point, context length, question and part of a question.

pyarrow writes both files: it is the format's reference, keeps columns' types, and needs no data-frame library.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from cl_imitate.sweeps.folder import SweepDir

_PARTS = {
    "now": ("forks",),
    "month": ("stages", "unseen"),
    "process": ("stages",),
    "later": ("forks",),
    "elsewhere": ("rungs",),
}
_COLUMNS = {
    "context_steps": pa.int64(),
    "question": pa.string(),  # or "gate"
    "part": pa.string(),  # "headline", or the fork, stage or rung
    "answer": pa.string(),
    "predicted": pa.string(),
    "estimate": pa.float64(),
    "ci95_low": pa.float64(),
    "ci95_high": pa.float64(),
    "learner_gain": pa.float64(),
    "reason": pa.string(),
    "void": pa.bool_(),  # the run cannot carry an answer
    "seconds": pa.float64(),  # of the whole point
    "error": pa.string(),
    "fingerprint": pa.string(),
}


def write(sweep: SweepDir) -> pathlib.Path:
    """table.csv and table.parquet of a sweep, as far as it has come. Returns the former's path."""
    plan = sweep.plan
    kinds = {axis: _kind([point["values"][axis] for point in plan["points"]]) for axis in plan["axes"]}
    schema = pa.schema([("point", pa.string()), ("state", pa.string()), *kinds.items(), *_COLUMNS.items()])
    table = pa.Table.from_pylist(
        [row for point in plan["points"] for row in rows(sweep, point, kinds)], schema=schema
    )
    for name, write_to in (
        ("table.parquet", pyarrow.parquet.write_table),
        ("table.csv", pyarrow.csv.write_csv),
    ):
        temporary = sweep.path / f"{name}.tmp"
        write_to(table, str(temporary))
        temporary.replace(sweep.path / name)
    return sweep.path / "table.csv"


def rows(
    sweep: SweepDir, point: Mapping[str, Any], kinds: Mapping[str, pa.DataType]
) -> Iterator[dict[str, Any]]:
    """The rows of one point; one without a question where it has no verdict. `kinds`: the columns of its axes."""
    state = sweep.state(point["name"])
    kind = {axis: _value(value, kinds[axis]) for axis, value in point["values"].items()}
    about = {
        "point": point["name"],
        "state": state["state"],
        **kind,
        "seconds": sum(state["seconds"].values()) or None,
        "error": state["error"],
        "fingerprint": point["fingerprint"],
    }
    file = sweep.run_path(point["name"]) / "verdict.json"
    if state["state"] != "done" or not file.exists():
        yield about
        return
    decided = json.loads(file.read_text(encoding="utf-8"))
    about["void"] = bool(decided["void"])
    gate = decided["gate"]
    answer = {True: "passed", False: "failed", None: "not run"}[gate["passed"]]
    yield {
        **about,
        "context_steps": decided["context_steps"],
        "question": "gate",
        "part": "headline",
        "answer": answer,
        "estimate": gate["imitator_gain"],
    }
    for context, questions in (
        decided["contexts"] or {decided["context_steps"]: decided["questions"]}
    ).items():
        for name, question in questions.items():
            own = {
                **about,
                "context_steps": int(context),
                "question": name,
                "predicted": question["predicted"],
            }
            yield {**own, "part": "headline", **_figures(question)}
            for kind_of_part in _PARTS.get(name, ()):
                for part in question.get(kind_of_part, ()):
                    yield {**own, "part": _part_name(kind_of_part, part), **_figures(part)}


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    estimates = (entry[name] for name in ("estimate", "ratio", "recovered") if name in entry)
    low, high = entry.get("ci95") or (None, None)
    return {
        "answer": entry["answer"],
        "estimate": next(estimates, None),
        "ci95_low": low,
        "ci95_high": high,
        "learner_gain": entry.get("learner_gain"),
        "reason": entry.get("reason"),
    }


def _part_name(kind: str, part: Mapping[str, Any]) -> str:
    if kind == "rungs":
        return f"rung {part['rung']} {part['name']}"
    if kind == "forks":
        return f"fork {part['fork_step']}"
    told = f"stage {part['stage_step']}"
    if part.get("target_step"):
        told += f" to {part['target_step']}"
    return f"{told}, unseen tasks" if kind == "unseen" else told


def _value(value: Any, kind: pa.DataType) -> Any:
    """An axis's value as it stands in a column of this kind."""
    return value if kind != pa.string() or isinstance(value, str) else json.dumps(value)


def _kind(values: list[Any]) -> pa.DataType:
    """The narrowest column that holds an axis's values; lists and mixtures are text."""
    if all(isinstance(value, bool) for value in values):
        return pa.bool_()
    if any(isinstance(value, bool) for value in values):
        return pa.string()
    if all(isinstance(value, int) for value in values):
        return pa.int64()
    return pa.float64() if all(isinstance(value, int | float) for value in values) else pa.string()
