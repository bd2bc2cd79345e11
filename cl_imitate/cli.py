"""The command line: parse, build the configuration, call one function per stage."""

import dataclasses
import os
import pathlib
import sys
from typing import Annotated

import tyro

from cl_imitate.interruption import InterruptedRunError, Notice, noticed

_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "cl_imitate", "jax")
_MAX_CPU_DEVICES = 8


@dataclasses.dataclass(frozen=True)
class Saving:
    """What a stage under way saves."""

    save_every_seconds: float = 300.0
    """How often a stage under way saves what --resume goes on from (0: only when told to stop)."""
    save_every_steps: int = 0
    """The same, counted in steps of what is under way (0: not counted)."""
    keep_saves: int = 2
    """How many last saves of what is under way are kept; the next one is tried where one is damaged."""


@dataclasses.dataclass(frozen=True)
class StageArguments(Saving):
    """Which configuration, and which folder."""

    config: Annotated[pathlib.Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = None
    """A TOML file, e.g. configs/quickstart.toml. Left out: the one in --run-dir."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's folder. Default: runs/<config name>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Override one value, e.g. --set training.num_seeds=5. May be repeated."""
    parent: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Of a fork, the folder of the run that it was forked from, where that has moved."""


@dataclasses.dataclass(frozen=True)
class OneStage(StageArguments):
    """One stage alone."""

    again: bool = False
    """Redo a stage from its beginning; what it and later stages left in the folder is replaced."""


@dataclasses.dataclass(frozen=True)
class Run(StageArguments):
    """From random initialisation to a verdict: every stage in order."""

    resume: bool = False
    """Start, or go on from where the run in this folder was left, bit for bit."""


@dataclasses.dataclass(frozen=True)
class Simulate(OneStage):
    """Run the learners and record their whole histories."""


@dataclasses.dataclass(frozen=True)
class Gate(OneStage):
    """Run the gate's experiment, where it is one of its own."""


@dataclasses.dataclass(frozen=True)
class Train(OneStage):
    """Train the imitators on the recorded histories."""


@dataclasses.dataclass(frozen=True)
class Evaluate(OneStage):
    """Roll out the frozen imitators beside the learners that go on."""


@dataclasses.dataclass(frozen=True)
class Control(OneStage):
    """Make the controls that the config names: what says how far the answers can be believed."""


@dataclasses.dataclass(frozen=True)
class Report(OneStage):
    """Decide, and draw the figures and the page. Needs no accelerator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fork(Saving):
    """A run whose learners start as another run's were at a step, and live on with what --set changes.

    The learners' rates may be changed, and all that comes after learners: imitator, training, evaluation, gate, rules.
    What was lived before is read from the other run, not copied. Every stage is run.
    """

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of the run to fork; it needs no more than its simulate stage."""
    at: Annotated[int, tyro.conf.arg(metavar="STEP")]
    """The learners' age; their snapshots were kept at evaluation.fork_steps."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The fork's folder. Default: runs/<config name>-fork-<step>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Change one value, e.g. --set learner.learning_rate=1e-4. May be repeated."""
    resume: bool = False
    """Start, or go on from where the fork in this folder was left."""


@dataclasses.dataclass(frozen=True)
class Show:
    """What a run's folder holds, and its verdict."""

    run_dir: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The run's folder."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Several finished runs side by side: a table, and a CSV file, a figure and a page."""

    run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR DIR ...")]
    """The runs' folders, two or more."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/comparison")
    """Where comparison.csv, comparison.png and index.html go; what was there of these names is replaced."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """The environment families that a config can name."""


Command = Run | Simulate | Gate | Train | Evaluate | Control | Report | Fork | Show | Compare | Envs


def main() -> None:
    """The console entry point. Exit code 2: the input was wrong, and nothing was lost."""
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        prog="cl-imitate",
        description="Can a frozen sequence model imitate a continual learner? A measurement.",
    )
    try:
        _dispatch(command)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except InterruptedRunError as interrupted:
        print(f"{interrupted}", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _dispatch(command: Command) -> None:
    if isinstance(command, Envs):
        from cl_imitate.envs import tasks

        print("\n".join(tasks.describe()))
    elif isinstance(command, Show):
        from cl_imitate import show

        show.show(command.run_dir)
    elif isinstance(command, Compare):
        from cl_imitate import compare

        compare.compare(command.run_dirs, command.out)
    else:
        set_up_jax()
        _run_stages(command)


def set_up_jax() -> None:
    """Compiled programs are kept between runs, and every core is a device (an ensemble is split over them)."""
    # Errors only: that the compiler will drop a partitioner (see `sharding`) helps nobody who starts a run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    jax.config.update("jax_num_cpu_devices", min(_num_cores(), _MAX_CPU_DEVICES))
    if jax.config.jax_compilation_cache_dir is None:
        try:
            _CACHE.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a home that cannot be written to: programs are compiled anew each time
        jax.config.update("jax_compilation_cache_dir", str(_CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _num_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _run_stages(command: Run | OneStage | Fork) -> None:
    with noticed() as notice:
        run, parent = _open(command, notice)
        try:
            _run_noticed(command, run, parent)
        except OSError as error:
            raise ValueError(
                f"{error.filename or run.path} cannot be written or read ({error.strerror}). Usual cause: a full disk, "
                "or a folder without write permission. Mend it, then go on (run: with --resume)."
            ) from error


def _run_noticed(command: Run | OneStage | Fork, run, parent) -> None:
    from cl_imitate import show
    from cl_imitate.evaluation import power
    from cl_imitate.stages.corridor import STAGE_FUNCTIONS, run_all
    from cl_imitate.stages.forking import name_parent

    with run.folder.lock():
        if parent is not None:
            name_parent(run, parent)
        if isinstance(command, OneStage):
            name = type(command).__name__.lower()
            if command.again:
                run.folder.forget(name)
            elif run.folder.is_done(name):
                raise ValueError(
                    f"{run.path}: the stage {name} has finished here already. Add --again to redo it and all "
                    "later ones, or use another --run-dir."
                )
            STAGE_FUNCTIONS[name](run)
            return
        if not command.resume and (run.folder.manifest["stages"] or (run.path / "resume").exists()):
            raise ValueError(
                f"{run.path} holds a run already. Add --resume to go on, or use another --run-dir."
            )
        for line in power.notes(run.experiment):
            print(f"note: {line}", file=sys.stderr)
        run_all(run)
    show.show(run.path)


def _open(command: StageArguments | Fork, notice: Notice):
    """The run that a command works on and, where one is named, the run that it was forked from."""
    from cl_imitate.keeper import Schedule
    from cl_imitate.stages.run import check_runnable, open_stage_run

    experiment, origin, parent = _forked(command) if isinstance(command, Fork) else _configured(command)
    check_runnable(experiment, origin)
    schedule = Schedule(
        every_seconds=command.save_every_seconds,
        every_steps=command.save_every_steps,
        notice=notice,
        keep_last=command.keep_saves,
    )
    folder = command.run_dir or pathlib.Path("runs", experiment.name)
    if experiment.fork is not None and parent is None and not (folder / "manifest.json").exists():
        from cl_imitate.stages.parent import unnamed

        raise ValueError(unnamed(folder, experiment.fork))
    return open_stage_run(experiment, folder, origin, schedule), parent


def _forked(command: Fork):
    from cl_imitate.stages.forking import fork_of

    experiment, parent = fork_of(command.run, command.at, command.set)
    return experiment, pathlib.Path(), parent


def _configured(command: StageArguments):
    from cl_imitate import load_config
    from cl_imitate.stages.forking import check
    from cl_imitate.stages.parent import find_parent

    if command.config is not None:
        path = (
            command.config
            if command.config.exists()
            else load_config.find(str(command.config), beside=pathlib.Path())
        )
        origin = path.parent
    elif command.run_dir is not None:
        path, origin = command.run_dir / "config.toml", pathlib.Path()
    else:
        raise ValueError("give a config file, or --run-dir with the folder of a run")
    experiment = load_config.load(path, command.set)
    parent = None
    if command.parent is not None:
        if experiment.fork is None:
            raise ValueError(
                f"--parent {command.parent}: {path} is no fork. Make one: cl-imitate fork RUN --at STEP"
            )
        parent = find_parent(command.parent, experiment.fork)
        check(parent, experiment)
    return experiment, origin, parent
