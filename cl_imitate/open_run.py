"""How a run's folder is made, or found and checked: the resolved config, and the circumstances in the manifest."""

import pathlib
import platform
import sys
import time
import tomllib
from importlib import metadata
from typing import Any

import jax

from cl_imitate import circumstances, differences, processes
from cl_imitate.files import replace_text, write_json
from cl_imitate.run_dir import RunDir, read_manifest

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "gymnax", "orbax-checkpoint", "tensorstore", "numpy")


def open_run(path: pathlib.Path, *, fingerprint: str, config_text: str) -> RunDir:
    """Make a run's folder, or open the one that this configuration made. A job's first process makes it.

    Raises:
      ValueError: the folder holds another configuration's run, or something else, or has brackets in its path; or the
        processes of a job do not see the same folder.
    """
    check_path(path)
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
        found = read_manifest(path, "fingerprint", "stages")["fingerprint"]
        if found != fingerprint:
            raise ValueError(
                f"{path} holds a run of another configuration ({_difference(path, config_text)}; fingerprint "
                f"{found[:12]}, this one is {fingerprint[:12]}). Use another --run-dir."
            )
        if processes.is_first():
            _mend_config(path, config_text)
        return RunDir(path, fingerprint)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file. Use another --run-dir.")
    if path.exists() and not _is_barely_begun(path, config_text):
        raise ValueError(f"{path} is not empty and is not a run. Use another --run-dir.")
    try:
        first = {"fingerprint": fingerprint, **_circumstances(), "stages": {}}
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.toml").write_text(config_text, encoding="utf-8", newline="\n")
        write_json(manifest, first)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}). Use another --run-dir.") from error
    return RunDir(path, fingerprint)


def check_path(path: pathlib.Path) -> None:
    """Whether what is written below a path can be read again.

    Raises:
      ValueError: it has brackets, which the checkpoints' library takes for a pattern when it reads.
    """
    if set("[]") & set(str(path.absolute())):
        raise ValueError(
            f"{path.absolute()} has [ or ] in its path, and no checkpoint that is written there could be read again. "
            "Use a folder without brackets: --run-dir (where the current directory has some, an absolute one)."
        )


def _values(path: pathlib.Path) -> dict[str, Any] | None:
    """What a run's config.toml says; None where it is lost or damaged."""
    try:
        return tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _difference(path: pathlib.Path, config_text: str) -> str:
    """How the configuration that a folder holds differs from this one, in words."""
    if (there := _values(path)) is None:
        return "its config.toml cannot be read"
    return (
        differences.told(there, tomllib.loads(config_text)) or "its config.toml was altered since it was made"
    )


def _mend_config(path: pathlib.Path, config_text: str) -> None:
    """Write config.toml again where it does not say what made the run, which by its fingerprint is `config_text`."""
    found = _values(path)
    if found == tomllib.loads(config_text):
        return
    try:
        replace_text(path / "config.toml", config_text)
    except OSError as error:
        raise ValueError(
            f"{path / 'config.toml'} cannot be written ({error.strerror}), and is lost or altered. Make it writable."
        ) from error
    state = "lost or damaged" if found is None else "altered"
    print(
        f"warning: {path / 'config.toml'} was {state}, and is written again as it was: this configuration has the "
        "fingerprint of the manifest",
        file=sys.stderr,
        flush=True,
    )


def _is_barely_begun(path: pathlib.Path, config_text: str) -> bool:
    """Whether a folder is empty, or holds no more than a process killed at the very beginning of this run leaves."""
    names = {file.name for file in path.iterdir()}
    if not names <= {"config.toml", "manifest.json.tmp"}:
        return False
    return "config.toml" not in names or config_text.encode().startswith((path / "config.toml").read_bytes())


def _circumstances() -> dict[str, Any]:
    here = circumstances.of_this_process()
    return {
        **{name: here[name] for name in ("cl_imitate", "git_revision", "device")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_devices": jax.device_count(),
        "num_processes": processes.count(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
