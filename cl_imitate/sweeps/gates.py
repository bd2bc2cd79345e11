"""A gate that points of a sweep have in common is run once; the others get a copy of it.

Jobs that come to the same gate at the same time take turns, by a lock in the sweep's folder: the first one runs it, the
others wait and copy. Where the file system does not hold locks for all machines (some network file systems), jobs on
different machines each run it. Nothing but time is lost by that, for every point has a gate of its own.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import filelock

from cl_imitate.interruption import InterruptedRunError
from cl_imitate.run_dir import RunDir
from cl_imitate.stages.run import Run, gate_fingerprint
from cl_imitate.sweeps.folder import SweepDir

_BESIDE = "gate.copying"
_POLL_SECONDS = 1.0


@contextmanager
def turn(run: Run, sweep: SweepDir) -> Iterator[None]:
    """While this holds, no other process of the sweep is at this point's gate; one that is, is waited for.

    The lock ends with the process that holds it, however that ends.

    Raises:
      InterruptedRunError: there was a notice to stop while it waited.
    """
    folder, notice = sweep.path / "gates", run.schedule.notice
    folder.mkdir(exist_ok=True)
    lock = filelock.FileLock(folder / f"{gate_fingerprint(run)}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_POLL_SECONDS)
        except filelock.Timeout:
            if notice:
                assert notice.number is not None
                raise InterruptedRunError(notice.number) from None
            if isinstance(lock, filelock.SoftFileLock):
                break  # this file system has no locks, and the file that stands for one may be a dead process's
    try:
        yield
    finally:
        lock.release()


def share(run: Run, sweep: SweepDir) -> None:
    """Copy to a point the gate that another point of its sweep has run, where both have the same one.

    Nothing is done where there is none yet, where it cannot be copied, or where the point's own was begun. A copy comes
    to its place whole or not at all, and its manifest says in `copied_from` which point ran it.
    """
    place, beside = run.path / "gate", run.path / _BESIDE
    if place.exists():
        return
    shutil.rmtree(beside, ignore_errors=True)  # of a kill in the middle
    fingerprint = gate_fingerprint(run)
    if (name := _done_by(sweep, fingerprint)) is None:
        return
    copied = RunDir(beside, fingerprint)
    try:
        shutil.copytree(sweep.run_path(name) / "gate", beside)
    except OSError:  # it is being removed, to be run again
        shutil.rmtree(beside, ignore_errors=True)
        return
    if _is_whole(copied):
        copied.note(copied_from=name)
        beside.rename(place)


def _done_by(sweep: SweepDir, fingerprint: str) -> str | None:
    """A point that has run this gate to its end, and still has all of it."""
    for name in sweep.names:
        path = sweep.run_path(name)
        if (path / "manifest.json").exists():
            stages = RunDir(path, "").manifest["stages"]
            is_it = stages.get("gate", {}).get("fingerprint") == fingerprint
            if is_it and _is_whole(RunDir(path / "gate", fingerprint)):
                return name
    return None


def _is_whole(gate: RunDir) -> bool:
    """Whether there is a gate that was run to its end, with what it measured."""
    files = gate.path / "manifest.json", gate.path / "evaluation" / "cells.npz"
    return all(file.exists() for file in files) and gate.is_done("evaluate")
