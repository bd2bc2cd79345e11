"""What a stage keeps while it runs, so that a process that ends anywhere can be followed by one that goes on.

A stage has parts, each with a name. Of a part under way the last *saves* are kept (two, unless told otherwise): its
whole state at one of its steps. Of a finished part its *result* is. A save or a result counts once its seal is there, a
JSON file with the SHA-256 of every file of it, written last and put in place whole; what has no seal, or differs from
it, is passed over.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cl_imitate import checkpoint, circumstances, processes
from cl_imitate.attempt import Attempt
from cl_imitate.checksum import sha256
from cl_imitate.interruption import InterruptedRunError, Notice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """When to save (0: never for that reason), and how many saves of a part are kept.

    Raises:
      ValueError: none would be kept.
    """

    every_seconds: float = 300.0
    every_steps: int = 0  # of the part: env steps, updates or imitator steps
    notice: Notice = dataclasses.field(default_factory=Notice)  # a signal: save, then end
    keep_last: int = 2  # with 1, a save that is damaged leaves nothing to go on from

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(
                f"--keep-saves = {self.keep_last}: at least 1 must be kept (2, where one could be damaged). To save "
                "only when told to stop, use --save-every-seconds 0."
            )


class Save(NamedTuple):
    """A part's state."""

    step: int
    facts: dict[str, Any]
    tree: Any


class Keeper:
    """The saves and results of one stage, in a folder of its own; `attempt` is told of what they cost.

    Each process of a job has one for what it does by itself. What they do together is in a folder of the first one,
    and the others only read there (`writes` is False).
    """

    def __init__(
        self, folder: pathlib.Path, schedule: Schedule, attempt: Attempt | None = None, *, writes: bool = True
    ):
        self._folder, self._schedule, self._writes = folder, schedule, writes
        self.attempt = attempt or Attempt(folder.name)
        self._last_time, self._last_step = time.monotonic(), {}
        self._sealing: Future | None = None
        self._stops_together: bool | None = None  # at the next save, as all processes agreed; None: not asked
        self._beside = ThreadPoolExecutor(1, "save")

    # ---- saves

    def is_due(self, part: str, step: int) -> bool:
        """Whether the schedule, or a notice to stop, asks for a save of a part that now is at `step`."""
        schedule = self._schedule
        if schedule.notice:
            return True
        if self._sealing is not None and not self._sealing.done():
            return False
        late = schedule.every_seconds and time.monotonic() - self._last_time >= schedule.every_seconds
        far = schedule.every_steps and step - self._last_step.get(part, 0) >= schedule.every_steps
        return bool(late or far)

    def is_due_together(self, part: str, step: int) -> bool:
        """The same, asked by all processes of a job at the same step: due for one is due for all."""
        due, number = self.is_due(part, step), self._schedule.notice.number
        told = processes.exchange(f"{part} at {step}", [due, number])
        numbers = [number for _, number in told if number is not None]
        if numbers and not self._schedule.notice:
            self._schedule.notice.number = numbers[0]
        if processes.count() > 1:
            # A notice that comes after this is for the next time, or one would stop without the others.
            self._stops_together = bool(numbers)
        return any(due for due, _ in told)

    def _stops(self) -> bool:
        return bool(self._schedule.notice) if self._stops_together is None else self._stops_together

    def steps(self, part: str, *, from_step: int = 0) -> "DueSteps":
        """Asked whether it holds a step, it says whether a save is due there; the part begins at `from_step`."""
        return DueSteps(self, part, from_step)

    def save(self, part: str, step: int, tree: Any, facts: dict[str, Any]) -> None:
        """Keep a part's state; arrays are copied before this returns, and written while the caller goes on.

        Raises:
          InterruptedRunError: there was a notice to stop. The save is then complete.
          ValueError: an earlier save could not be written.
        """
        if not self._writes:
            self._last_time, self._last_step[part] = time.monotonic(), step
            stops = self._stops()
        else:
            with self.attempt.saving(saves=1):
                self.wait()
                path = self._folder / part / f"step_{step}"
                written = self._guard(path, self._begin, path, tree)
                self._last_time, self._last_step[part] = time.monotonic(), step
                told = {"circumstances": circumstances.of_this_process(), "facts": facts}
                self._sealing = self._beside.submit(self._seal, path, written, told)
                if stops := self._stops():
                    self.wait()
        if stops:
            assert self._schedule.notice.number is not None
            raise InterruptedRunError(self._schedule.notice.number)

    def load(self, part: str, like: Callable[[dict[str, Any]], Any]) -> Save | None:
        """The newest whole save of a part, or None. `like`: its facts -> the shapes of its tree."""
        seals = sorted((self._folder / part).glob("step_*.json"), key=_step, reverse=True)
        for seal in seals:
            path = seal.with_suffix("")
            if problem := _damage(path, seal):
                print(f"warning: {problem}; going on from before it", file=sys.stderr, flush=True)
                if self._writes:  # or it would count as the newest, and a whole one would make room for it
                    self._remove(path)
                continue
            told = _told(seal)
            self._goes_on(path, part, _step(seal), told)
            facts = told["facts"]
            self._last_step[part] = _step(seal)
            return Save(_step(seal), facts, checkpoint.load(path, like(facts)))
        return None

    def _goes_on(self, path: pathlib.Path, part: str, step: int | None, told: dict[str, Any]) -> None:
        was, now = told.get("circumstances", {}), circumstances.of_this_process()
        if self.attempt.goes_on(part=part, step=step, was=was):
            differs = [
                f"{name} {was.get(name)}, now {now[name]}" for name in now if was.get(name) != now[name]
            ]
            print(
                f"warning: {path} was saved with {'; '.join(differs)}: what follows may differ in its last bits (the "
                'manifest says so, under "continued")',
                file=sys.stderr,
                flush=True,
            )

    def load_together(self, part: str, like: Callable[[dict[str, Any]], Any]) -> Save | None:
        """The same for all processes of a job: the first one passes over what is damaged, then all read the same."""
        saved = self.load(part, like) if self._writes else None
        processes.exchange(f"{part} looked at")
        if not self._writes:
            saved = self.load(part, like)
        steps = processes.exchange(f"{part} read", None if saved is None else saved.step)
        if len(set(steps)) > 1:
            raise ValueError(
                f"{self._folder / part}: the processes of this job found saves of the steps {steps}."
            )
        return saved

    def wait(self) -> None:
        """Until what is being written is written. Raises ValueError where it could not be."""
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            self._guard(self._folder, sealing.result)

    def _seal(self, path: pathlib.Path, written: Callable[[], Any], told: dict[str, Any]) -> None:
        written()
        _write_seal(path, told)
        seals = sorted(path.parent.glob("step_*.json"), key=_step, reverse=True)
        for old in seals[self._schedule.keep_last :]:
            self._remove(old.with_suffix(""))

    @staticmethod
    def _begin(path: pathlib.Path, tree: Any) -> Callable[[], None]:
        Keeper._remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return checkpoint.save_async(path, tree)

    @staticmethod
    def _remove(path: pathlib.Path) -> None:
        """The seal first, so that what is half removed does not count."""
        path.with_suffix(".json").unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    # ---- results

    def finish(self, part: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """A part is done: its result is kept, its saves are not."""
        if not self._writes:
            return
        with self.attempt.saving(saves=0):
            self.wait()
            folder = self._folder / part
            path = folder / "result"
            self._guard(path, self._write_result, path, arrays, facts)
        for save in folder.glob("step_*"):
            if save.is_dir():
                self._remove(save)

    @staticmethod
    def _write_result(path: pathlib.Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        path.mkdir(parents=True, exist_ok=True)
        np.savez(path / "arrays.npz", **arrays)  # pyright: ignore[reportArgumentType]
        _write_seal(path, {"circumstances": circumstances.of_this_process(), "facts": facts})

    def finished(self, part: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and facts of a part that is done, or None."""
        path = self._folder / part / "result"
        seal = path.with_suffix(".json")
        if not seal.exists():
            return None
        if problem := _damage(path, seal):
            print(f"warning: {problem}; this part is done again", file=sys.stderr, flush=True)
            return None
        told = _told(seal)
        self._goes_on(path, part, None, told)
        with np.load(path / "arrays.npz") as data:
            return dict(data), told["facts"]

    @staticmethod
    def _guard(path: pathlib.Path, function: Callable, *args) -> Any:
        try:
            return function(*args)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{path} cannot be written ({type(error).__name__}: {reason}). What was saved before is whole. Usual "
                "cause: a full disk or a folder without write permission. Mend it, then go on (run: with --resume)."
            ) from error


class DueSteps:
    """The steps at which a save of a part is due, as they come."""

    def __init__(self, keeper: Keeper, part: str, from_step: int):
        self._keeper, self._part, self._from_step = keeper, part, from_step

    def __contains__(self, step: object) -> bool:
        assert isinstance(step, int)
        return self._keeper.is_due(self._part, step - self._from_step)


def _step(seal: pathlib.Path) -> int:
    return int(seal.stem.removeprefix("step_"))


def _write_seal(path: pathlib.Path, told: dict[str, Any]) -> None:
    files = {
        file.relative_to(path).as_posix(): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()
    }
    seal = path.with_suffix(".json")
    temporary = seal.with_suffix(".tmp")
    content = {**told, "files": files}
    temporary.write_text(json.dumps({"content": content, "sha256": _sha256_of(content)}), encoding="utf-8")
    temporary.replace(seal)


def _sha256_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _told(seal: pathlib.Path) -> dict[str, Any]:
    return json.loads(seal.read_text(encoding="utf-8"))["content"]


def _damage(path: pathlib.Path, seal: pathlib.Path) -> str | None:
    """What is wrong with a save or result, or None."""
    try:
        whole = json.loads(seal.read_text(encoding="utf-8"))
        content, expected = whole["content"], whole["sha256"]
        files = content["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{seal} cannot be read"
    if _sha256_of(content) != expected:
        return f"{seal} was altered"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        if sha256(file) != expected:
            return f"{file} was altered: its SHA-256 is not the one in {seal.name}"
    return None
