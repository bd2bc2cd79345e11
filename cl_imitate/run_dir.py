"""A run's folder: the manifest, the stages done, and the metrics along the way."""

import dataclasses
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import filelock

from cl_imitate import aside, circumstances, processes
from cl_imitate.attempt import Attempt
from cl_imitate.disk_use import megabytes, num_bytes
from cl_imitate.files import read_json, replace_text, write_json
from cl_imitate.interruption import InterruptedRunError

STAGES = ("simulate", "gate", "train", "evaluate", "control", "report")
_ARTIFACTS = {
    "simulate": ("histories", "checkpoints/learners", "resume/simulate"),
    "gate": (),  # a run folder of its own, which goes on where it stopped
    "train": ("checkpoints/imitators", "checkpoints/best_imitators", "losses.json", "resume/train"),
    "evaluate": ("evaluation", "resume/evaluate"),
    "control": ("controls", "resume/control"),
    "report": ("verdict.json", "report"),
}


@dataclasses.dataclass(frozen=True)
class RunDir:
    """`path` belongs to exactly one configuration."""

    path: pathlib.Path
    fingerprint: str

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json as it stands. Raises ValueError: damaged."""
        return read_manifest(self.path, "stages")

    def is_done(self, stage: str) -> bool:
        """Whether a stage has finished in this folder; of the last one and of the gate, whether what it left is there
        too."""
        left = {"report": "verdict.json", "gate": "gate"}.get(stage, "")
        return (self.path / left).exists() and stage in self.manifest["stages"]

    def require(self, stage: str) -> None:
        """Raises ValueError where an earlier stage has not finished."""
        if not self.is_done(stage):
            raise ValueError(
                f"{self.path}: the stage {stage} has not finished here. "
                f"Run `cl-imitate {stage}` with this config and --run-dir first."
            )

    @contextmanager
    def redoing(self, stage: str) -> Iterator[None]:
        """Do a finished stage again: it is forgotten first, and what it had left is put back where it cannot be done.

        It is not put back after a kill, a notice to stop or a save: then the stage goes on from there.
        """
        self.forget(stage)
        try:
            yield
        except InterruptedRunError:
            raise
        except Exception:
            if processes.is_first() and not self._has_saved(stage):
                aside.put_back(self.path, made=_ARTIFACTS[stage], moved=_gate_and_saves(stage))
                print(f"{self.path}: what was there before --again is put back", file=sys.stderr, flush=True)
            raise

    def _has_saved(self, stage: str) -> bool:
        """Whether an attempt at a stage has left anything that it could go on from."""
        gate = RunDir(self.path / "gate", "")
        if stage == "gate" and (gate.path / "manifest.json").exists():
            return bool(gate.manifest["stages"]) or any((gate.path / "resume").rglob("*.json"))
        return any(self.keeper_path(stage).rglob("*.json"))

    def forget(self, stage: str) -> None:
        """A stage and all later ones count as not done. What it left is set aside until it is done again; what later
        ones left is removed when they are done again.

        The verdict and the report go at once, and first of all: a folder is read by its verdict, and none may tell of
        what is being done again. A kill right after leaves a report that counts as not done, and no
        other stage forgotten.
        """
        processes.exchange(f"to forget {stage}")
        if processes.is_first():
            self._forget(stage)
        processes.exchange("forgotten")

    def _forget(self, stage: str) -> None:
        aside.begin(self.path)
        # A gate and saves before the manifest: after a kill nobody may take it, or half of it, for a gate that is done,
        # or go on from saves of what is forgotten.
        for name in (*_ARTIFACTS["report"], *_gate_and_saves(stage)):
            aside.move(self.path, name)
        manifest = self.manifest
        for name in STAGES[STAGES.index(stage) :]:
            manifest["stages"].pop(name, None)
            _drop_attempts(manifest, name)
            _drop_continued(manifest, name)
        write_json(self.path / "manifest.json", manifest)
        for name in _ARTIFACTS[stage]:
            aside.move(self.path, name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out of the folder; the lock ends with this process, however it ends.

        A job's first process holds it for all of them.

        Raises:
          ValueError: another process is at work there.
        """
        if not processes.is_first():
            processes.exchange("locked")
            yield
            return
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                f"{self.path}: another process is at work in this folder. Wait for it, or use another --run-dir."
            ) from error
        try:
            processes.exchange("locked")
            yield
        finally:
            lock.release()

    def keeper_path(self, stage: str) -> pathlib.Path:
        """Where a stage under way keeps what it can go on from; gone when it is done."""
        return self.path / "resume" / stage

    def goes_on(self, stage: str) -> bool:
        """Whether something is kept that a stage can go on from.

        Raises:
          ValueError: another number of processes kept it.
        """
        folder = self.keeper_path(stage)
        kept_by = {1} if any(folder.glob("*/*.json")) else set()
        kept_by |= {int(seal.parts[-3].rpartition("_")[2]) for seal in folder.glob("process_*_of_*/*/*.json")}
        if others := kept_by - {processes.count()}:
            raise ValueError(
                f"{self.path}: the stage {stage} was left by a job of {max(others)}, and this one is of "
                f"{processes.count()}. Go on with {max(others)} (--num-processes), or do this stage again: "
                f"`cl-imitate {stage} --again` with this --run-dir."
            )
        return bool(kept_by)

    def attempt(self, stage: str) -> Attempt:
        """This process's attempt at a stage, which keeps what is known of it in the manifest (of a job: its first
        process's)."""
        return Attempt(stage, self._put_attempt)

    def _put_attempt(self, attempt: Attempt) -> None:
        if not processes.is_first():
            return
        manifest = self.manifest
        known = manifest.setdefault("attempts", {}).setdefault(attempt.stage, [])
        known[:] = [one for one in known if one["began"] != attempt.began] + [attempt.record]
        if attempt.continued is not None:
            told = manifest.setdefault("continued", [])
            is_this = {"stage": attempt.stage, "at": attempt.began}.items()
            told[:] = [one for one in told if not is_this <= one.items()] + [attempt.continued]
        write_json(self.path / "manifest.json", manifest)

    @contextmanager
    def stage(
        self, name: str, *, goes_on: bool = False, attempt: Attempt | None = None
    ) -> Iterator[dict[str, Any]]:
        """Do a stage: what an unfinished attempt left is removed unless it `goes_on`, and success is marked.

        Yields a dict: what is put there is kept in the manifest beside the seconds, which are those of all attempts (of
        one that was killed, up to its last save).
        """
        attempt = attempt or self.attempt(name)
        self.begin(name, goes_on=goes_on, attempt=attempt)
        facts: dict[str, Any] = {}
        try:
            yield facts
        except BaseException:
            attempt.put()
            raise
        self.finish(name, attempt, **facts)

    def begin(self, name: str, *, goes_on: bool, attempt: Attempt) -> None:
        """Room for a stage: what an unfinished attempt left is removed unless it `goes_on`.

        The processes of a job begin and finish a stage together, and its first one does what there is to do.
        """
        if not goes_on and processes.is_first():
            for artifact in _ARTIFACTS[name]:
                aside.remove(self.path / artifact)
            manifest = self.manifest
            _drop_continued(manifest, name)
            write_json(self.path / "manifest.json", manifest)
        attempt.put()
        processes.exchange(f"{name} begins")

    def finish(self, name: str, attempt: Attempt, **facts: Any) -> None:
        """Mark a stage as done."""
        processes.exchange(f"{name} is done")
        if processes.is_first():
            self._mark(name, attempt, facts)
        processes.exchange(f"{name} is marked")

    def _mark(self, name: str, attempt: Attempt, facts: dict[str, Any]) -> None:
        attempt.put()
        manifest = self.manifest
        spent = _sum(manifest["attempts"][name])
        _drop_attempts(manifest, name)
        manifest["stages"][name] = {**spent, "git_revision": circumstances.git_revision(), **facts}
        if processes.count() > 1:
            manifest["stages"][name]["processes"] = processes.count()
        write_json(self.path / "manifest.json", manifest)
        aside.drop(self.path)
        freed = num_bytes(self.keeper_path(name))
        shutil.rmtree(self.keeper_path(name), ignore_errors=True)
        print(_told(name, manifest["stages"][name], freed, num_bytes(self.path)), file=sys.stderr, flush=True)

    def note(self, **facts: Any) -> None:
        """Facts about the whole run, kept in the manifest; all processes of a job know them afterwards."""
        if processes.is_first():
            write_json(self.path / "manifest.json", {**self.manifest, **facts})
        processes.exchange("noted")

    def log(self, **metrics: Any) -> None:
        """One line of metrics.jsonl, from a job's first process."""
        if not processes.is_first():
            return
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": round(time.time(), 3), **metrics}) + "\n")

    def forget_log(self, *, after_update: int, **of: Any) -> None:
        """Drop those lines of metrics.jsonl that hold `of` and a later update: what they tell is done again.

        So is a line that a kill has cut short, and, with a warning, one that is damaged.
        """
        file = self.path / "metrics.jsonl"
        if not processes.is_first() or not file.exists():
            return
        lines, kept = file.read_bytes().splitlines(keepends=True), []
        for number, line in enumerate(lines, start=1):
            told = _metrics(line)
            if told is None and line.endswith(b"\n"):
                print(f"warning: {file}, line {number} is damaged, and left out", file=sys.stderr, flush=True)
            if told is not None and not (of.items() <= told.items() and told.get("update", 0) > after_update):
                kept.append(line.decode("utf-8"))
        if len(kept) < len(lines):
            replace_text(file, "".join(kept))

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file of the run, replaced whole; a job's first process writes it."""
        if processes.is_first():
            write_json(self.path / name, value)


def read_manifest(path: pathlib.Path, *keys: str) -> dict[str, Any]:
    """A run's manifest.json, which has these keys. Raises ValueError: missing or damaged."""
    return read_json(path / "manifest.json", whose="a run's", keys=keys, fix="Use another --run-dir.")


def _sum(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """What all attempts at a stage took, as the manifest tells it."""
    seconds, compiling, saving = (
        sum(one[name] for one in attempts) for name in ("seconds", "compile_seconds", "saving_seconds")
    )
    first_steps = [round(one["first_step_seconds"], 2) for one in attempts if one["first_step_seconds"]]
    return {
        "seconds": round(seconds, 2),
        "compile_seconds": round(compiling, 2),
        "attempts": len(attempts),
        "saving": {
            "saves": sum(one["saves"] for one in attempts),
            "seconds": round(saving, 3),
            "share": round(saving / max(seconds, 1e-9), 5),
        },
        **({"first_step_seconds": first_steps} if first_steps else {}),
    }


def _told(name: str, stage: dict[str, Any], freed: int, used: int) -> str:
    """A stage that is done, in one line."""
    saving = stage["saving"]
    words = [f"{name} done: {stage['seconds']:.1f} s"]
    if stage["attempts"] > 1:
        words[0] += f" in {stage['attempts']} attempts"
    if saving["saves"]:
        words.append(
            f"{saving['seconds']:.2f} s of it ({100 * saving['share']:.1f}%) waiting for {saving['saves']} saves"
        )
    if freed:
        words.append(f"{megabytes(freed)} of saves removed")
    return ", ".join([*words, f"the folder takes {megabytes(used)}"])


def _gate_and_saves(stage: str) -> tuple[str, ...]:
    """What a stage and all later ones go on from; of a gate, which has its saves in itself, all of it."""
    later = STAGES[STAGES.index(stage) :]
    return tuple("gate" if name == "gate" else f"resume/{name}" for name in later)


def _drop_attempts(manifest: dict[str, Any], stage: str) -> None:
    attempts = manifest.get("attempts", {})
    attempts.pop(stage, None)
    if not attempts:
        manifest.pop("attempts", None)


def _drop_continued(manifest: dict[str, Any], stage: str) -> None:
    manifest["continued"] = [one for one in manifest.get("continued", []) if one["stage"] != stage]
    if not manifest["continued"]:
        del manifest["continued"]


def _metrics(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None where it is cut short or damaged."""
    try:
        told = json.loads(line.decode("utf-8")) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return told if isinstance(told, dict) and isinstance(told.get("update", 0), int) else None
