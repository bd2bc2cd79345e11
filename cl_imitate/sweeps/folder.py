"""A sweep's folder: the plan, where each point stands, and the runs.

sweep.json           the plan, written once: axes, points, their configurations
states/<point>.json  where a point stands; written by the process that computes it, and by nobody else
points/<point>/      its run folder, as any other
gates/<gate>.lock    held by the job that is at this gate
table.csv, table.parquet
"""

import dataclasses
import hashlib
import json
import pathlib
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import filelock

from cl_imitate import config, load_config
from cl_imitate.files import write_json
from cl_imitate.open_run import check_path
from cl_imitate.run_dir import STAGES, RunDir
from cl_imitate.sweeps.axes import Point

SILENT_SECONDS = 60.0
"""A point that is computed is heard of every few seconds; one that was silent for so long has been stopped."""


@dataclasses.dataclass(frozen=True)
class SweepDir:
    """`path` belongs to exactly one plan."""

    path: pathlib.Path

    @property
    def plan(self) -> dict[str, Any]:
        """sweep.json."""
        return json.loads((self.path / "sweep.json").read_text(encoding="utf-8"))

    @property
    def names(self) -> list[str]:
        return [point["name"] for point in self.plan["points"]]

    @property
    def origin(self) -> pathlib.Path:
        """The folder of the config file, where gates are looked for."""
        return pathlib.Path(self.plan["origin"])

    def experiment(self, name: str) -> config.Experiment:
        """The configuration of a point."""
        written = next(point["config"] for point in self.plan["points"] if point["name"] == name)
        return load_config.build(tomllib.loads(written), origin=f"{self.path / 'sweep.json'}, {name}")

    def run_path(self, name: str) -> pathlib.Path:
        return self.path / "points" / name

    def state(self, name: str) -> dict[str, Any]:
        """Where a point stands.

        `state` is waiting, running, stopped, failed, diverged or done; `stage` and `progress` are what is under way,
        `error` what went wrong, `seconds` what each finished stage took.
        """
        told = {"state": "waiting", "stage": "", "progress": None, "error": None}
        if (file := self.path / "states" / f"{name}.json").exists():
            told |= json.loads(file.read_text(encoding="utf-8"))
        run = RunDir(self.run_path(name), "")
        stages = run.manifest["stages"] if (run.path / "manifest.json").exists() else {}
        told["seconds"] = {stage: stages[stage]["seconds"] for stage in STAGES if stage in stages}
        if "report" in stages:
            told |= {"state": "done", "stage": "", "progress": None, "error": None}
        elif told["state"] == "done":
            told["state"] = "waiting"  # what it had left was removed
        elif told["state"] == "running" and time.time() - told["time"] > SILENT_SECONDS:
            told["state"] = "stopped"
        return told

    def tell(self, name: str, **told: Any) -> None:
        """Say where a point stands."""
        write_json(self.path / "states" / f"{name}.json", {**told, "time": time.time()})

    def without_result(self) -> list[str]:
        """The points that have no verdict, whatever the reason."""
        return [name for name in self.names if self.state(name)["state"] != "done"]

    def missing(self) -> list[str]:
        """The points without a result. One that diverged has its result: it would do so again, bit for bit."""
        return [name for name in self.names if self.state(name)["state"] not in ("done", "diverged")]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from leading this sweep. Raises ValueError: one does."""
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                f"{self.path}: another process leads this sweep. Wait for it, or use another --run-dir."
            ) from error
        try:
            yield
        finally:
            lock.release()


def is_sweep(path: pathlib.Path) -> bool:
    """Whether a folder is a sweep's."""
    return (path / "sweep.json").is_file()


def check_has_verdict(path: pathlib.Path) -> None:
    """Raises ValueError: a folder is a sweep's, not a run's; or that of a sweep's point which diverged."""
    if is_sweep(path):
        raise ValueError(
            f"{path} is the folder of a sweep, not of a run. See all its points with `cl-imitate horizon "
            f"{path}`, or give the folders of some: {path / 'points'}/*"
        )
    run = path.resolve()
    sweep = SweepDir(run.parent.parent)
    if run.parent.name != "points" or not is_sweep(sweep.path):
        return
    if (told := sweep.state(run.name))["state"] == "diverged":
        raise ValueError(
            f"{path} has no verdict, and --resume would bring none: its learners or imitators diverged, and would "
            f"do so again ({told['error']}). Leave it out, or run it in another folder with what that asks for."
        )


def open_sweep(
    path: pathlib.Path, points: list[Point], *, name: str, origin: pathlib.Path, resume: bool
) -> SweepDir:
    """Make a sweep's folder, or open the one of these points.

    Raises:
      ValueError: the folder holds another sweep or something else, or this one was begun and is not to be resumed.
    """
    check_path(path)
    prints = [point.fingerprint for point in points]
    fingerprint = hashlib.sha256("".join(prints).encode()).hexdigest()
    sweep = SweepDir(path)
    if is_sweep(path):
        if (found := sweep.plan["fingerprint"]) != fingerprint:
            raise ValueError(
                f"{path} holds another sweep (fingerprint {found[:12]}, this one is {fingerprint[:12]}). Use another "
                "--run-dir."
            )
        if not resume:
            raise ValueError(f"{path} holds this sweep already. Add --resume to run what is missing.")
        return sweep
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty and is not a sweep. Use another --run-dir.")
    try:
        (path / "states").mkdir(parents=True)
        (path / "points").mkdir()
        plan = {
            "name": name,
            "fingerprint": fingerprint,
            "origin": str(origin.resolve()),
            "axes": list(points[0].values),
            "points": [
                {
                    "name": point.name,
                    "values": point.values,
                    "fingerprint": own,
                    "config": load_config.dump(point.experiment),
                }
                for point, own in zip(points, prints, strict=True)
            ],
        }
        write_json(path / "sweep.json", plan)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Use another --run-dir.") from error
    return sweep
