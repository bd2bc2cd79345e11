"""What evaluation measures, on disk: one `Cell` for each protocol at one fork, stage, month or rung."""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

ProtocolName = Literal["gate", "now", "month", "process", "later", "elsewhere"]

ARMS = {
    "imitator": "frozen imitator",
    "imitator_argmax": "frozen imitator, argmax",
    "imitator_wiped": "frozen imitator, context wiped each episode",
    "imitator_masked": "frozen imitator, earlier episodes masked",
    "imitator_prompted": "frozen imitator, prompted from the source task",
    "learner": "learner, weights changing",
    "learner_held": "learner, held",
    "learner_transplanted": "learner, transplanted",
    "window": "perfect use of the window",
    "random": "random policy",
}
"""Every arm's name and how a figure calls it. `learner` is the learner that goes on, or a fresh one."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """Arms side by side, same tasks, same env keys. Returns are mean returns of the episodes that ended in
    a block of `block_steps` steps, NaN where none ended.

    S imitators (seeds), n learners (each with its task), K blocks.
    """

    protocol: ProtocolName
    name: str  # unique in a run, e.g. "later 320 context 128"
    context_steps: int
    fork_step: int  # the fork at which these imitators' training data stopped
    start_step: int  # the learner's age at which the arms start
    target_step: int | None  # MONTH: the age asked for
    rung: str | None  # ELSEWHERE
    rung_name: str | None
    split: Literal["train", "held_out"]
    block_steps: int
    epsilon: float  # the learner's epsilon at the end of this cell's span, where levels are measured
    epsilon_at_start: float  # another one if it is annealed within the span
    ceiling_is_exact: bool  # False: `ceiling_return` is what a published learner reached
    task: np.ndarray  # int [n]: learners with equal numbers share a task
    random_return: np.ndarray  # float [n]: a uniformly random policy's
    optimal_return: np.ndarray  # float [n], NaN where not computable
    ceiling_return: np.ndarray  # float [n]: perfect knowledge at `epsilon`; NaN where not computable
    returns: dict[str, np.ndarray]  # arm -> float [S or 1, n, K]
    scalars: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)  # e.g. divergences, [S, n]

    @property
    def num_blocks(self) -> int:
        return next(iter(self.returns.values())).shape[-1]


def pick(cells: Iterable[Cell], protocol: str, *, split: str | None = None) -> list[Cell]:
    """A protocol's cells, in order of fork, start and target."""
    found = [one for one in cells if one.protocol == protocol and split in (None, one.split)]
    return sorted(found, key=lambda one: (one.fork_step, one.start_step, one.target_step or 0, one.name))


_ARRAYS = ("task", "random_return", "optimal_return", "ceiling_return")


def join(parts: list[list[Cell]]) -> list[Cell]:
    """Cells of some learners each, in order, as cells of all of them; a part may lack a cell, but not the first one."""

    def whole(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays, axis=1) if arrays[0].ndim > 1 else arrays[0]

    def one(cells: list[Cell]) -> Cell:
        known = {field: np.concatenate([getattr(cell, field) for cell in cells]) for field in _ARRAYS}
        groups: dict[str, Any] = {
            group: {
                key: whole(*(getattr(cell, group)[key] for cell in cells)) for key in getattr(cells[0], group)
            }
            for group in ("returns", "scalars")
        }
        return dataclasses.replace(cells[0], **known, **groups)

    return [one([cell for part in parts for cell in part if cell.name == first.name]) for first in parts[0]]


def pack(cells: list[Cell]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Cells as arrays by name, and for each cell facts for JSON."""
    arrays: dict[str, np.ndarray] = {}
    index = []
    for number, cell in enumerate(cells):
        meta = {
            field.name: getattr(cell, field.name)
            for field in dataclasses.fields(cell)
            if field.name not in (*_ARRAYS, "returns", "scalars")
        }
        index.append({**meta, "returns": list(cell.returns), "scalars": list(cell.scalars)})
        for field in _ARRAYS:
            arrays[f"{number}/{field}"] = np.asarray(getattr(cell, field))
        for group in ("returns", "scalars"):
            for key, value in getattr(cell, group).items():
                arrays[f"{number}/{group}/{key}"] = np.asarray(value)
    return arrays, index


def unpack(arrays: dict[str, np.ndarray], index: list[dict[str, Any]]) -> list[Cell]:
    """The inverse of `pack`. Raises KeyError: an array is missing."""
    return [_cell(number, dict(meta), arrays) for number, meta in enumerate(index)]


def save_cells(path: pathlib.Path, cells: list[Cell], *, fingerprint: str) -> None:
    """Write cells to one npz, atomically."""
    arrays, index = pack(cells)
    save_arrays(path, arrays, fingerprint=fingerprint, cells=index)


def save_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray], *, fingerprint: str, **index: Any) -> None:
    """Write arrays to one npz, atomically, with whose they are and further facts for JSON."""
    index_array = np.array(json.dumps({"fingerprint": fingerprint, **index}))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp.npz")
    np.savez_compressed(temporary, index=index_array, **arrays)  # pyright: ignore[reportArgumentType]
    temporary.replace(path)


def load_arrays(
    path: pathlib.Path, *, fingerprint: str, stage: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and facts that `save_arrays` wrote; `stage` made them.

    Raises:
      ValueError: the file is missing, damaged, or of another configuration.
    """
    try:
        with np.load(path) as data:
            arrays = dict(data)
            index = json.loads(str(arrays.pop("index")))
            found = index["fingerprint"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Redo it: `cl-imitate {stage} --again` with this --run-dir."
        ) from error
    if found != fingerprint:
        raise ValueError(
            f"{path} was made by another configuration (fingerprint {found[:12]}, this run has "
            f"{fingerprint[:12]}). Use another --run-dir."
        )
    return arrays, index


def load_cells(path: pathlib.Path, *, fingerprint: str) -> list[Cell]:
    """Read cells.

    Raises:
      ValueError: the file is missing, damaged, or of another configuration.
    """
    arrays, index = load_arrays(path, fingerprint=fingerprint, stage="evaluate")
    try:
        return unpack(arrays, index["cells"])
    except KeyError as error:
        raise ValueError(
            f"{path} lacks {error}. Redo it: `cl-imitate evaluate --again` with this --run-dir."
        ) from error


def _cell(number: int, meta: dict[str, Any], data: dict[str, np.ndarray]) -> Cell:
    groups: dict[str, Any] = {
        group: {key: data[f"{number}/{group}/{key}"] for key in meta.pop(group)}
        for group in ("returns", "scalars")
    }
    return Cell(**meta, **{field: data[f"{number}/{field}"] for field in _ARRAYS}, **groups)
