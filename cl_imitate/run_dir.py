"""A run's folder: the resolved config, the manifest, the stages done, and the metrics along the way."""

import dataclasses
import json
import pathlib
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import filelock
import jax

import cl_imitate
from cl_imitate import compiling, processes

STAGES = ("simulate", "gate", "train", "evaluate", "report")
_ARTIFACTS = {
    "simulate": ("histories", "checkpoints/learners", "resume/simulate"),
    "gate": (),  # a run folder of its own, which goes on where it stopped
    "train": ("checkpoints/imitators", "losses.json", "resume/train"),
    "evaluate": ("evaluation", "resume/evaluate"),
    "report": ("report", "verdict.json"),
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "orbax-checkpoint", "tensorstore", "numpy")


@dataclasses.dataclass(frozen=True)
class RunDir:
    """`path` belongs to exactly one configuration."""

    path: pathlib.Path
    fingerprint: str

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json as it stands."""
        return json.loads((self.path / "manifest.json").read_text())

    def is_done(self, stage: str) -> bool:
        """Whether a stage has finished in this folder."""
        return stage in self.manifest["stages"]

    def require(self, stage: str) -> None:
        """Raises ValueError where an earlier stage has not finished."""
        if not self.is_done(stage):
            raise ValueError(
                f"{self.path}: the stage {stage} has not finished here. "
                f"Run `cl-imitate {stage}` with this config and --run-dir first."
            )

    def forget(self, stage: str) -> None:
        """A stage and all later ones count as not done; what they left is removed when they are done again."""
        if processes.is_first():
            self._forget(stage)
        processes.exchange("forgotten")

    def _forget(self, stage: str) -> None:
        if stage in ("simulate", "gate"):
            shutil.rmtree(self.path / "gate", ignore_errors=True)
        manifest = self.manifest
        for name in STAGES[STAGES.index(stage) :]:
            manifest["stages"].pop(name, None)
            shutil.rmtree(self.keeper_path(name), ignore_errors=True)
        _write_json(self.path / "manifest.json", manifest)

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

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Do a stage: what an unfinished attempt left is removed unless it goes on, and success is marked.

        Yields a dict: what is put there is kept in the manifest beside the seconds. The processes of a job begin and
        end a stage together, and the first one marks it.
        """
        if processes.is_first() and not self.goes_on(name):
            self._remove(name)
        processes.exchange(f"{name} begins")
        facts: dict[str, Any] = {}
        start, compiled = time.perf_counter(), compiling.seconds()
        yield facts
        processes.exchange(f"{name} is done")
        if processes.is_first():
            self._mark(name, start, compiled, facts)
        processes.exchange(f"{name} is marked")

    def _remove(self, stage: str) -> None:
        for artifact in _ARTIFACTS[stage]:
            path = self.path / artifact
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _mark(self, name: str, start: float, compiled: float, facts: dict[str, Any]) -> None:
        manifest = self.manifest
        manifest["stages"][name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "compile_seconds": round(compiling.seconds() - compiled, 2),
            "git_revision": _git_revision(),
            **facts,
        }
        if processes.count() > 1:
            manifest["stages"][name]["processes"] = processes.count()
        _write_json(self.path / "manifest.json", manifest)
        shutil.rmtree(self.keeper_path(name), ignore_errors=True)

    def note(self, **facts: Any) -> None:
        """Facts about the whole run, kept in the manifest; all processes of a job know them afterwards."""
        if processes.is_first():
            _write_json(self.path / "manifest.json", {**self.manifest, **facts})
        processes.exchange("noted")

    def log(self, **metrics: Any) -> None:
        """One line of metrics.jsonl, from a job's first process."""
        if not processes.is_first():
            return
        with (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps({"time": round(time.time(), 3), **metrics}) + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file of the run, replaced whole; a job's first process writes it."""
        if processes.is_first():
            _write_json(self.path / name, value)


def open_run(path: pathlib.Path, *, fingerprint: str, config_text: str) -> RunDir:
    """Make a run's folder, or open the one that this configuration made. A job's first process makes it.

    Raises:
      ValueError: the folder holds another configuration's run, or something else; or the processes of a job do not
        see the same folder.
    """
    if processes.is_first():
        _make_or_open(path, fingerprint=fingerprint, config_text=config_text)
    processes.exchange("folder made")
    if not (path / "manifest.json").exists():
        raise ValueError(
            f"{path.absolute()} is not there for process {processes.index()} of this job. All of them need one shared "
            "folder: give --run-dir a path on a file system that all machines see."
        )
    return _make_or_open(path, fingerprint=fingerprint, config_text=config_text)


def _make_or_open(path: pathlib.Path, *, fingerprint: str, config_text: str) -> RunDir:
    manifest = path / "manifest.json"
    if manifest.exists():
        try:
            content = json.loads(manifest.read_text())
            found, _ = content["fingerprint"], content["stages"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(
                f"{manifest} is damaged, or not a run's ({error}). Use another --run-dir."
            ) from error
        if found != fingerprint:
            raise ValueError(
                f"{path} holds a run of another configuration (fingerprint {found[:12]}, this one is "
                f"{fingerprint[:12]}). Use another --run-dir."
            )
        return RunDir(path, fingerprint)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file. Use another --run-dir.")
    if path.exists() and not _is_barely_begun(path, config_text):
        raise ValueError(f"{path} is not empty and is not a run. Use another --run-dir.")
    try:
        first = {"fingerprint": fingerprint, **_circumstances(), "stages": {}}
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.toml").write_text(config_text)
        _write_json(manifest, first)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Use another --run-dir.") from error
    return RunDir(path, fingerprint)


def _is_barely_begun(path: pathlib.Path, config_text: str) -> bool:
    """Whether a folder is empty, or holds no more than a process killed at the very beginning of this run leaves."""
    names = {file.name for file in path.iterdir()}
    if not names <= {"config.toml", "manifest.json.tmp"}:
        return False
    return "config.toml" not in names or config_text.startswith((path / "config.toml").read_text())


def _circumstances() -> dict[str, Any]:
    device = jax.local_devices()[0]
    return {
        "cl_imitate": cl_imitate.__version__,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.platform} {device.device_kind}",
        "num_devices": jax.device_count(),
        "num_processes": processes.count(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _git_revision() -> str | None:
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _write_json(path: pathlib.Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)
