"""The run that a run was forked from. What its learners lived before the fork is read there, and never copied."""

import json
import pathlib

from cl_imitate import config, load_config
from cl_imitate.open_run import check_path
from cl_imitate.run_dir import RunDir
from cl_imitate.stages.run import Run


def parent_of(run: Run) -> Run:
    """The run that a fork's learners come from, where the fork's manifest says that it lies.

    Raises:
      ValueError: nobody has named it, it is not there, or it is another one.
    """
    fork = run.experiment.fork
    assert fork is not None
    told = run.folder.manifest.get("parent")
    if told is None:
        raise ValueError(unnamed(run.path, fork))
    return find_parent(pathlib.Path(told["path"]), fork)


def unnamed(path: pathlib.Path, fork: config.Fork) -> str:
    """What to do about a fork whose parent is not known."""
    return (
        f"{path}: this configuration is a fork: its learners come from a run with the fingerprint "
        f"{fork.parent_fingerprint[:12]}, and nobody has said where that lies. Name its folder: --parent RUN."
    )


def open_finished(path: pathlib.Path) -> Run:
    """A run that can be forked: its learners have lived.

    Raises:
      ValueError: there is no run, or its configuration is not the one that made it, or its simulate stage is not done.
    """
    check_path(path.resolve())
    try:
        fingerprint = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path / 'manifest.json'} cannot be read ({error}), and without it there is no run to fork there. If the "
            "run was moved, name it again: --parent NEW_PATH beside the fork's --run-dir."
        ) from error
    experiment = load_config.load(path / "config.toml")
    if load_config.fingerprint(experiment) != fingerprint:
        raise ValueError(
            f"{path / 'config.toml'} is not the configuration that made this run (fingerprint {fingerprint[:12]}): it "
            "was altered, or another version of cl_imitate wrote it. Put the original back, or use that version."
        )
    run = Run(experiment, RunDir(path, fingerprint), pathlib.Path())
    run.folder.require("simulate")
    return run


def find_parent(path: pathlib.Path, fork: config.Fork) -> Run:
    """The run in a folder, if it is the one that a fork was made from.

    Raises:
      ValueError: it is not, or there is none.
    """
    run = open_finished(path)
    if run.folder.fingerprint != fork.parent_fingerprint:
        raise ValueError(
            f"{path} holds a run with the fingerprint {run.folder.fingerprint[:12]}, and the fork was made from one "
            f"with {fork.parent_fingerprint[:12]}. Name that one: --parent PATH beside the fork's --run-dir."
        )
    return run
