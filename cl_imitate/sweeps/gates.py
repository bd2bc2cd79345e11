"""A gate that points of a sweep have in common is run once; the others get a copy of it."""

import shutil

from cl_imitate.run_dir import RunDir
from cl_imitate.stages.run import Run, gate_fingerprint
from cl_imitate.sweeps.folder import SweepDir

_BESIDE = "gate.copying"


def share(run: Run, sweep: SweepDir) -> None:
    """Copy to a point the gate that another point of its sweep has run, where both have the same one.

    Nothing is done where there is none yet, or where the point's own was begun. A copy comes to its place whole or not
    at all, and its manifest says in `copied_from` which point ran it.
    """
    place = run.path / "gate"
    if place.exists():
        return
    shutil.rmtree(run.path / _BESIDE, ignore_errors=True)  # of a kill in the middle
    fingerprint = gate_fingerprint(run)
    if (name := _done_by(sweep, fingerprint)) is None:
        return
    path = shutil.copytree(sweep.run_path(name) / "gate", run.path / _BESIDE)
    RunDir(path, fingerprint).note(copied_from=name)
    path.rename(place)


def _done_by(sweep: SweepDir, fingerprint: str) -> str | None:
    """A point that has run this gate to its end."""
    for name in sweep.names:
        path = sweep.run_path(name)
        if (path / "manifest.json").exists():
            stages = RunDir(path, "").manifest["stages"]
            if stages.get("gate", {}).get("fingerprint") == fingerprint:
                return name
    return None
