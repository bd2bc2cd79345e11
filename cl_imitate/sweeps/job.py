"""What one process does of a sweep: some points that differ in leaves only, through every stage.

Learners and imitators of all points live and learn in one ensemble; evaluation and report go point by point, through
the same compiled programs. A point that fails is told of and left out; the others go on.
"""

import contextlib
import dataclasses
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from cl_imitate import progress
from cl_imitate.interruption import InterruptedRunError, Notice, noticed
from cl_imitate.keeper import Schedule
from cl_imitate.stages.corridor import STAGE_FUNCTIONS
from cl_imitate.stages.run import Run, has_own_gate, open_stage_run
from cl_imitate.stages.simulating import simulate_together
from cl_imitate.stages.training import train_together
from cl_imitate.sweeps import gates
from cl_imitate.sweeps.folder import SweepDir

_BEAT_SECONDS = 2.0
_TOGETHER = {"simulate": simulate_together, "train": train_together}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Some points of one group, to be computed by one process; what a launcher sends there."""

    sweep: pathlib.Path
    names: tuple[str, ...]
    group: int = 0  # jobs of one group run the same compiled programs
    schedule: Schedule = dataclasses.field(default_factory=Schedule)  # its notice is that of the process

    def __str__(self) -> str:
        return f"{len(self.names)} point{'s' * (len(self.names) > 1)} ({self.names[0]} ...)"


def run_job(job: Job, notice: Notice | None = None) -> None:
    """Every point's stages that are not done yet.

    Raises:
      InterruptedRunError: there was a notice to stop; what is under way is saved.
    """
    with contextlib.ExitStack() as stack:
        if notice is None:
            # Elsewhere than in the main thread no signal arrives.
            is_main = threading.current_thread() is threading.main_thread()
            notice = stack.enter_context(noticed()) if is_main else Notice()
        schedule = dataclasses.replace(job.schedule, notice=notice)
        board = _Board(SweepDir(job.sweep.resolve()), job.names)
        stack.enter_context(board.beating())
        runs = {}
        for name in job.names:
            with board.failing(name):
                run = open_stage_run(
                    board.sweep.experiment(name), board.sweep.run_path(name), board.sweep.origin, schedule
                )
                stack.enter_context(run.folder.lock())
                runs[name] = run
        for stage in _TOGETHER:
            _together(stage, runs, board)
        for name in [name for name in runs if name in board.alive]:
            for stage in ("evaluate", "control", "report"):
                is_asked_for = stage != "control" or bool(runs[name].experiment.controls.run)
                if is_asked_for and name in board.alive and not runs[name].folder.is_done(stage):
                    _alone(stage, name, runs[name], board)
            board.end(name)


def _together(stage: str, runs: dict[str, Run], board: "_Board") -> None:
    """One stage of all points that are left. Where it fails for another reason than a point's own numbers, each is
    tried alone, so that the ones that it does not concern go on."""
    if stage == "train":
        for name in [name for name in runs if name in board.alive]:
            if not has_own_gate(runs[name].experiment) and not runs[name].folder.is_done("gate"):
                board.at("gate", [name])
                with board.failing(name), gates.turn(runs[name], board.sweep):
                    gates.share(runs[name], board.sweep)
                    STAGE_FUNCTIONS["gate"](runs[name])
    names = [name for name in runs if name in board.alive and not runs[name].folder.is_done(stage)]
    if not names:
        return
    board.at(stage, names)
    try:
        errors = _TOGETHER[stage]([runs[name] for name in names])
    except InterruptedRunError:
        raise
    except Exception:
        if len(names) == 1:  # then it was tried alone
            with board.failing(names[0]):
                raise
            return
        traceback.print_exc()
        for name in names:
            if not runs[name].folder.is_done(stage):
                _alone(stage, name, runs[name], board)
        return
    for index, error in errors.items():
        board.fail(names[index], error)


def _alone(stage: str, name: str, run: Run, board: "_Board") -> None:
    board.at(stage, [name])
    with board.failing(name):
        STAGE_FUNCTIONS[stage](run)


class _Board:
    """Where this job's points stand, written to the sweep's folder again and again."""

    def __init__(self, sweep: SweepDir, names: Sequence[str]):
        self.sweep, self.alive = sweep, dict.fromkeys(names, "")  # by name: what it is at
        self._at: tuple[str, tuple[str, ...]] = ("begin", tuple(names))
        self._bar: tuple[str, float | None] = ("", None)
        self._writing = threading.Lock()

    def at(self, stage: str, names: Sequence[str]) -> None:
        """These points are now at a stage; the others wait for them."""
        with self._writing:
            self.alive.update(dict.fromkeys(names, stage))
            self._at, self._bar = (stage, tuple(names)), ("", None)
        self._write()

    def end(self, name: str) -> None:
        """A point is done, as its run folder says; it is not told of any more."""
        with self._writing:
            if self.alive.pop(name, None) is not None:
                self.sweep.tell(name, state="done")

    def fail(self, name: str, error: BaseException) -> None:
        """A point is given up."""
        state = "diverged" if isinstance(error, FloatingPointError) else "failed"
        told = (
            f"{error}"
            if isinstance(error, FloatingPointError | ValueError)
            else f"{type(error).__name__}: {error}"
        )
        with self._writing:
            self.sweep.tell(name, state=state, stage=self.alive.pop(name, ""), error=told)

    @contextlib.contextmanager
    def failing(self, name: str) -> Iterator[None]:
        """What goes wrong inside, goes wrong for this point only."""
        try:
            yield
        except InterruptedRunError:
            raise
        except Exception as error:
            if not isinstance(error, FloatingPointError | ValueError):
                traceback.print_exc()
            self.fail(name, error)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """While this holds, it is written that the points are under way, and how far; then, that they are not."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(_BEAT_SECONDS):
                self._write()

        def watch(label: str, share: float) -> None:
            self._bar = label, share

        thread = threading.Thread(target=beat, daemon=True)
        self._write()
        thread.start()
        try:
            with progress.watched(watch):
                yield
        finally:
            ended.set()
            thread.join()
            self._write("stopped")

    def _write(self, state: str = "running") -> None:
        with self._writing:
            (stage, names), (label, share) = self._at, self._bar
            for name in list(self.alive):
                is_there = name in names
                self.sweep.tell(
                    name,
                    state=state,
                    stage=(label or stage) if is_there else self.alive[name],
                    progress=share if is_there else None,
                )


def wait_until(is_done: Callable[[], bool], notice: Notice, every_seconds: float = 0.5) -> bool:
    """Until something is done, or there is a notice to stop; whether it is done."""
    while not is_done():
        if notice:
            return False
        time.sleep(every_seconds)
    return True
