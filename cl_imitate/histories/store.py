"""Histories on disk: one zarr3 array of packed rows [learner, step, byte], sharded, compressed, checksummed.

Written while simulating, whole shards at a time; a manifest beside it tells the fingerprint, the layout, how
many steps are durably written, each learner's key (from which replay indices can be recomputed: see
`keys.Stream.REPLAY`) and every shard's size and SHA-256. A fork's store holds its own steps only: what its learners
lived before is in another store, which the manifest names by fingerprint and by the checksums of its shards. Several
writers may each write some of the learners: then no shard holds learners of two of them, and `join` makes the one
manifest of what they tell.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from cl_imitate.checksum import sha256
from cl_imitate.files import read_json
from cl_imitate.types import History, Spec

_SCHEMA = 1
_SHARD_LEARNERS = 64
SHARD_STEPS = 4096  # of every learner, and these wait in memory until they are all there
_CHUNK_STEPS = 512
_TERMINATED, _TRUNCATED, _EXPLORED = 1, 2, 4


def row_dtype(spec: Spec) -> np.dtype:
    """A packed row: observation, action, reward, flags (terminated, truncated, explored)."""
    return np.dtype(
        [
            ("obs", np.uint8, spec.observation.shape),
            ("action", np.uint8),
            ("reward", np.dtype(spec.reward_dtype).newbyteorder("<")),
            ("flags", np.uint8),
        ]
    )


def pack(history: History, dtype: np.dtype) -> np.ndarray:
    """History [N, T] -> uint8 [N, T, row bytes]."""
    rows = np.empty(np.shape(history.action), dtype)
    rows["obs"], rows["action"], rows["reward"] = history.obs, history.action, history.reward
    rows["flags"] = (
        np.asarray(history.terminated) * _TERMINATED
        + np.asarray(history.truncated) * _TRUNCATED
        + np.asarray(history.explored) * _EXPLORED
    ).astype(np.uint8)
    return rows.view(np.uint8).reshape(*rows.shape, dtype.itemsize)


def unpack(raw: np.ndarray, dtype: np.dtype) -> History:
    """uint8 [N, T, row bytes] -> History of numpy arrays [N, T]."""
    rows = np.ascontiguousarray(raw).view(dtype)[..., 0]
    flags = rows["flags"]
    fields: dict[str, Any] = {name: np.ascontiguousarray(rows[name]) for name in ("obs", "action", "reward")}
    for name, bit in (("terminated", _TERMINATED), ("truncated", _TRUNCATED), ("explored", _EXPLORED)):
        fields[name] = (flags & bit) != 0
    return History(**fields)


def _create(path: pathlib.Path, num_learners: int, num_steps: int, row_bytes: int, shard_learners: int):
    shard = [shard_learners, min(SHARD_STEPS, num_steps), row_bytes]
    inner = [1, min(_CHUNK_STEPS, shard[1]), row_bytes]
    if shard[1] % inner[1]:
        inner[1] = shard[1]
    codecs = [
        {"name": "bytes"},
        {"name": "zstd", "configuration": {"level": 1}},
        {"name": "crc32c"},
    ]
    metadata = {
        "shape": [num_learners, num_steps, row_bytes],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": inner,
                    "codecs": codecs,
                    "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}],
                },
            }
        ],
    }
    return ts.open({**_where(path), "metadata": metadata}, create=True).result()


def _where(path: pathlib.Path) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str((path / "steps.zarr").absolute())},
    }


class Writer:
    """Appends chunks in time; only whole shards reach the disk before `close`.

    One of several writes the learners from its cut to the next. The first one makes the store, before the others begin.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        fingerprint: str,
        spec: Spec,
        num_learners: int,
        num_steps: int,
        learner_key_data: np.ndarray,
        go_on: tuple[int, np.ndarray] | None = None,
        before: dict[str, Any] | None = None,
        cuts: Sequence[int] = (0,),
        part: int = 0,
    ):
        """`num_learners`: those of all writers. `go_on`: what `position` was when this store was left; whatever was
        written after it is written again. `cuts`: each writer's first learner; `part`: which writer this is.

        `before`: what `reference` says of the store that holds the first steps; these are not written here.

        Raises FileExistsError where there is a store already, unless it is gone on with: it is never overwritten.
        """
        self._path, self._part, self._is_alone = path, part, len(cuts) == 1
        self._first, self._end = cuts[part], [*cuts, num_learners][part + 1]
        self._dtype = row_dtype(spec)
        self._steps_before = before["steps"] if before else 0
        self._num_steps = num_steps - self._steps_before
        self._shard_learners = math.gcd(min(_SHARD_LEARNERS, num_learners), *cuts)
        if go_on is None and part == 0:
            if path.exists():
                raise FileExistsError(f"{path} exists and is not overwritten. Use another --run-dir.")
            path.mkdir(parents=True)
            if self._num_steps:
                self._array = _create(
                    path, num_learners, self._num_steps, self._dtype.itemsize, self._shard_learners
                )
        elif self._num_steps:
            self._array = ts.open(_where(path)).result()
        self._shard_steps = min(SHARD_STEPS, self._num_steps)
        nothing = np.empty((self._end - self._first, 0, self._dtype.itemsize), np.uint8)
        self._written, waiting = go_on or (0, nothing)
        self._waiting: list[np.ndarray] = [waiting]
        self._manifest = {
            "schema": _SCHEMA,
            "fingerprint": fingerprint,
            "num_learners": num_learners,
            "num_steps": num_steps,
            "row": {name: str(self._dtype[name]) for name in self._dtype.names or ()},
            "row_bytes": self._dtype.itemsize,
            "learner_key_data": np.asarray(learner_key_data).tolist(),
            **({"before": before} if before else {}),
        }
        self._write_manifest(shards={})

    @property
    def position(self) -> tuple[int, np.ndarray]:
        """How many own steps are written, and the rows uint8 [N, T, row bytes] that wait until a shard is full."""
        return self._written, np.concatenate(self._waiting, axis=1)

    def append(self, history: History) -> None:
        """The next steps of all learners (of one of several writers: all of its own), [N, any number of steps]."""
        self._waiting.append(pack(history, self._dtype))
        if sum(part.shape[1] for part in self._waiting) >= self._shard_steps:
            self._flush(whole_shards=True)

    def close(self) -> None:
        """Write what is left, then the manifest with the checksums; one of several tells its own ones to `join`.

        Raises:
          ValueError: fewer or more steps were appended than announced.
        """
        self._flush(whole_shards=False)
        if self._written != self._num_steps:
            raise ValueError(
                f"{self._path}: {self._written} steps were appended, {self._num_steps} announced."
            )
        shards = {}
        for file in self._files():
            name = file.relative_to(self._path).as_posix()
            shards[name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        if self._is_alone:
            self._write_manifest(shards=shards)
        else:
            part = {"learners": [self._first, self._end], "shards": shards}
            _write_json(self._path / f"part_{self._part}.json", part)

    def _files(self) -> list[pathlib.Path]:
        folder = self._path / "steps.zarr"
        files = [] if self._part else [file for file in folder.glob("*") if file.is_file()]
        for row in range(self._first // self._shard_learners, -(-self._end // self._shard_learners)):
            files += [file for file in (folder / "c" / str(row)).rglob("*") if file.is_file()]
        return sorted(files)

    def _flush(self, *, whole_shards: bool) -> None:
        rows = np.concatenate(self._waiting, axis=1)
        count = rows.shape[1] // self._shard_steps * self._shard_steps if whole_shards else rows.shape[1]
        if count:
            here = self._array[self._first : self._end, self._written : self._written + count]
            here.write(rows[:, :count]).result()
            self._written += count
            self._write_manifest(shards={})
        self._waiting = [rows[:, count:].copy()]  # a view would keep all that was written in memory

    def _write_manifest(self, *, shards: dict) -> None:
        if self._part == 0:
            committed = self._steps_before + self._written
            manifest = {**self._manifest, "committed_steps": committed, "shards": shards}
            _write_json(self._path / "manifest.json", manifest)


def join(path: pathlib.Path) -> None:
    """Finish a store that several writers have written: one manifest with everybody's checksums.

    Does nothing to one that is finished.

    Raises:
      ValueError: a writer has not closed.
    """
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if manifest["shards"]:
        return
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in path.glob("part_*.json")]
    counted = sum(end - first for first, end in (part["learners"] for part in parts))
    if counted != manifest["num_learners"]:
        raise ValueError(
            f"{path} was not finished ({counted} of {manifest['num_learners']} learners). {_fix(path)}"
        )
    shards = {name: told for part in parts for name, told in part["shards"].items()}
    manifest["committed_steps"], manifest["shards"] = manifest["num_steps"], dict(sorted(shards.items()))
    _write_json(path / "manifest.json", manifest)
    for file in path.glob("part_*.json"):
        file.unlink()


def _write_json(path: pathlib.Path, value: Any) -> None:
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    temporary.replace(path)


@dataclasses.dataclass(frozen=True)
class Reader:
    """Random access to a finished store, joined with the one that holds the steps before its own."""

    path: pathlib.Path
    manifest: dict
    dtype: np.dtype
    array: Any  # None without own steps
    before: "Reader | None" = None

    @property
    def first_step(self) -> int:
        """Where its own steps begin."""
        return self.manifest["before"]["steps"] if "before" in self.manifest else 0

    def read(self, learners: slice = slice(None)) -> History:
        """All of it, or of some learners, numpy [N, T]."""
        return self._history(learners, 0, self.manifest["num_steps"])

    def window(self, learner: int, start: int, length: int) -> History:
        """Steps start .. start + length - 1 of one learner, numpy [length].

        Raises:
          IndexError: the window does not lie inside that learner's history.
        """
        num_learners, num_steps = self.manifest["num_learners"], self.manifest["num_steps"]
        if not (0 <= learner < num_learners and 0 <= start and start + length <= num_steps and length > 0):
            raise IndexError(
                f"window [{start}, {start + length}) of learner {learner} is outside the store's "
                f"{num_learners} learners x {num_steps} steps"
            )
        rows = self._history(slice(learner, learner + 1), start, start + length)
        return jax.tree.map(lambda leaf: leaf[0], rows)

    def _history(self, learners: slice, start: int, end: int) -> History:
        parts = self._rows(learners, start, end)
        return unpack(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1), self.dtype)

    def _rows(self, learners: slice, start: int, end: int) -> list[np.ndarray]:
        """Packed rows of steps start .. end - 1, uint8 [n, T, row bytes], in as many parts as there are stores."""
        first, parts = self.first_step, []
        if start < first:
            assert self.before is not None
            parts = self.before._rows(learners, start, min(end, first))
        if end > first:
            try:
                own = self.array[learners, max(start - first, 0) : end - first].read().result()
            except ValueError as error:
                raise ValueError(f"{self.path} holds a damaged shard: {error}") from error
            parts.append(own)
        return parts


def reference(reader: Reader, num_steps: int) -> dict[str, Any]:
    """What the manifest of another store says of this one, whose first `num_steps` steps come before its own."""
    told = {name: reader.manifest.get(name) for name in ("fingerprint", "shards", "before")}
    return {"steps": num_steps, **told}


def open_store(
    path: pathlib.Path,
    *,
    fingerprint: str,
    spec: Spec,
    verify: bool = True,
    before: Reader | None = None,
) -> Reader:
    """Open a finished store; `verify` compares every shard with its checksum first.

    `before`: of a fork's store, the one that it goes on from.

    Raises:
      ValueError: missing, unfinished, of another configuration, or a shard is torn or altered (named); or `before` is
        not what it was.
    """
    fix = _fix(path)
    keys = ("fingerprint", "num_learners", "num_steps", "committed_steps", "shards")
    manifest = read_json(path / "manifest.json", whose="a store's", keys=keys, fix=fix)
    if manifest["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} was made by another configuration (fingerprint {manifest['fingerprint'][:12]}, this run "
            f"has {fingerprint[:12]}). Use another --run-dir."
        )
    _check_before(path, manifest, before)
    own_steps = manifest["num_steps"] - (manifest["before"]["steps"] if "before" in manifest else 0)
    if not manifest["shards"] and own_steps:
        raise ValueError(f"{path} was not finished ({manifest['committed_steps']} steps). {fix}")
    if verify:
        for name, expected in manifest["shards"].items():
            _check_shard(path / name, expected, fix)
    dtype = row_dtype(spec)
    array = None
    if own_steps:
        array = ts.open(_where(path)).result()
    return Reader(path, manifest, dtype, array, before)


def _check_before(path: pathlib.Path, manifest: dict, before: Reader | None) -> None:
    """Whether a fork's store is opened with the store that it goes on from, as it was then."""
    told = manifest.get("before")
    if told is None:
        return
    if before is None:
        raise ValueError(f"{path} holds the steps from {told['steps']} on; open it with the store before it.")
    found = reference(before, told["steps"])
    for key in ("fingerprint", "shards", "before"):
        if found[key] == told[key]:
            continue
        names = (
            [name for name, facts in found[key].items() if told[key].get(name) != facts]
            if key == "shards"
            else []
        )
        where = before.path / names[0] if names else before.path / "manifest.json"
        raise ValueError(
            f"{where} is not what it was when {path} was begun as its continuation (its {key} differ): was that run "
            "simulated again, on another machine? Put it back as it was, or fork it again."
        )


def _fix(path: pathlib.Path) -> str:
    return f"Redo it: `cl-imitate simulate --again --run-dir {path.parents[1]}` (later stages are then redone too)."


def _check_shard(file: pathlib.Path, expected: dict, fix: str) -> None:
    if not file.exists():
        raise ValueError(f"the shard {file} is missing. {fix}")
    size = file.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"the shard {file} is torn: {size} bytes, {expected['bytes']} were written. {fix}")
    if sha256(file) != expected["sha256"]:
        raise ValueError(f"the shard {file} was altered: its SHA-256 is not the manifest's. {fix}")
