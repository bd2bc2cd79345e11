"""The command line: parse, build the configuration, call one function per stage."""

import dataclasses
import os
import pathlib
import sys
import traceback
from typing import Annotated, Literal, NoReturn

import tyro

from cl_imitate.interruption import InterruptedRunError, Notice, noticed
from cl_imitate.start_jax import set_up_jax


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
class Job:
    """The processes that make one run together."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """Whether this process is one of a job of several. auto: with --coordinator, or as one of several tasks of a Slurm
    step; on: also as any other cluster tells (Open MPI, TPU pods)."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where the job's first process listens; for all of its processes the same. Left out: the cluster tells."""
    num_processes: int | None = None
    """How many processes the job has. Left out: the cluster tells."""
    process_id: int | None = None
    """Which of them this is, from 0 on. Left out: the cluster tells."""
    cpu_devices: int = 0
    """Without an accelerator: into how many devices this process's cores are divided (0: one a core, at most 8)."""


@dataclasses.dataclass(frozen=True)
class StageArguments(Job, Saving):
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
class Sweep:
    """Every point of a config with a [sweep], those of equal shapes as one ensemble; then a table of all."""

    config: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """A TOML file with a [sweep], e.g. configs/sweep.toml."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The sweep's folder. Default: runs/<config name>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Override one value of all points, e.g. --set training.num_updates=50. May be repeated."""
    resume: bool = False
    """Run only what is missing; points under way go on from inside a stage, bit for bit."""
    launcher: Literal["local", "slurm", "ray"] = "local"
    """Where points are computed: in this process, as Slurm jobs (extra "slurm"), as Ray tasks (extra "ray")."""
    launcher_set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option of the launcher, e.g. --launcher-set gpus_per_node=1. May be repeated."""
    memory_gib: float | None = None
    """So much memory one job may use; points are split into waves that fit. Default: what is free here."""
    save_every_seconds: float = 300.0
    """How often a stage under way saves what --resume goes on from (0: only when told to stop)."""
    save_every_steps: int = 0
    """The same, counted in steps of what is under way (0: not counted)."""


@dataclasses.dataclass(frozen=True)
class Show:
    """What a run's folder holds, and its verdict; or where the points of a sweep stand."""

    run_dir: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of a run or of a sweep."""
    watch: bool | None = None
    """A sweep: show it again and again until all is done. Default: on a terminal, while it runs."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Several finished runs side by side: a table, and a CSV file, a figure and a page."""

    run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR DIR ...")]
    """The runs' folders, two or more."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/comparison")
    """Where comparison.csv, comparison.png and index.html go; what was there of these names is replaced."""


@dataclasses.dataclass(frozen=True)
class Horizon:
    """How far frozen imitation goes and what moves the break, from sweeps (and runs) that are done or under way."""

    dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR DIR ...")]
    """Folders of sweeps, e.g. runs/horizon, or of runs."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/horizon_page")
    """Where horizon.csv, the figures and index.html go; what was there of these names is replaced."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """The environment families that a config can name."""


Command = (
    Run
    | Simulate
    | Gate
    | Train
    | Evaluate
    | Control
    | Report
    | Fork
    | Sweep
    | Show
    | Compare
    | Horizon
    | Envs
)


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
        _end(2, f"error: {error}")
    except InterruptedRunError as interrupted:
        _end(interrupted.exit_code, f"{interrupted}", saved=True)
    except FloatingPointError as error:
        _end(1, f"error: {error}")
    except Exception as error:
        if not _is_one_of_several():
            raise
        _end(1, _told_by_one_of_several(error))


def _end(code: int, message: str, *, saved: bool = False) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    if _is_one_of_several():
        from cl_imitate import processes

        processes.leave(code, saved=saved)
    sys.exit(code)


def _is_one_of_several() -> bool:
    if "jax" not in sys.modules:
        return False
    from cl_imitate import processes

    return processes.count() > 1


def _told_by_one_of_several(error: Exception) -> str:
    """What another one said is said; all else with a trace, for jax has many ways to say that a peer is gone."""
    from cl_imitate import processes

    if isinstance(error, processes.OtherProcessEndedError):
        return f"error: {error}"
    trace = "".join(traceback.format_exception(error))
    return f"{trace}error: process {processes.index()} of this job ends here (or lost another one: see what that says)"


def _dispatch(command: Command) -> None:
    if isinstance(command, Envs):
        from cl_imitate.envs import tasks

        print("\n".join(tasks.describe()))
    elif isinstance(command, Show):
        _show(command)
    elif isinstance(command, Compare):
        from cl_imitate import compare

        compare.compare(command.run_dirs, command.out)
    elif isinstance(command, Horizon):
        from cl_imitate.sweeps import horizon

        horizon.draw(command.dirs, command.out)
    elif isinstance(command, Sweep):
        set_up_jax()
        _sweep(command)
    elif isinstance(command, Fork):
        set_up_jax()
        _run_stages(command)
    else:
        set_up_jax(command.cpu_devices)
        _join_job(command)
        _run_stages(command)


def _show(command: Show) -> None:
    from cl_imitate import show
    from cl_imitate.sweeps import live
    from cl_imitate.sweeps.folder import SweepDir, is_sweep

    if is_sweep(command.run_dir):
        live.show(SweepDir(command.run_dir), watch=command.watch)
    else:
        show.show(command.run_dir)


def _join_job(command: Job) -> None:
    told = (command.coordinator, command.num_processes, command.process_id)
    is_slurm_step = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if command.distributed == "off" and any(value is not None for value in told):
        raise ValueError("--distributed off goes with none of --coordinator, --num-processes, --process-id.")
    if command.distributed == "on" or (
        command.distributed == "auto" and (is_slurm_step or any(value is not None for value in told))
    ):
        from cl_imitate import processes

        processes.begin(*told)


def _sweep(command: Sweep) -> None:
    from cl_imitate import load_config
    from cl_imitate.sweeps import live
    from cl_imitate.sweeps.sweep import Request, run_sweep

    request = Request(
        config=command.config,
        overrides=command.set,
        folder=command.run_dir,
        resume=command.resume,
        launcher=command.launcher,
        launcher_options=load_config.options(command.launcher_set, origin="--launcher-set"),
        memory_gib=command.memory_gib,
        save_every_seconds=command.save_every_seconds,
        save_every_steps=command.save_every_steps,
    )
    with noticed() as notice:
        sweep = run_sweep(request, notice)
    live.show(sweep, watch=False)
    if sweep.without_result():
        sys.exit(1)


def _run_stages(command: Run | OneStage | Fork) -> None:
    from cl_imitate import processes

    with noticed(processes.make_notice()) as notice:
        run, parent = _open(command, notice)
        try:
            _run_noticed(command, run, parent)
        except OSError as error:
            raise ValueError(
                f"{error.filename or run.path} cannot be written or read ({error.strerror}). Usual cause: a full disk, "
                "or a folder without write permission. Mend it, then go on (run: with --resume)."
            ) from error


def _run_noticed(command: Run | OneStage | Fork, run, parent) -> None:
    from cl_imitate import processes, show
    from cl_imitate.stages.corridor import STAGE_FUNCTIONS, run_all
    from cl_imitate.stages.forking import name_parent

    with run.folder.lock():
        if parent is not None:
            name_parent(run, parent)
        if processes.is_first():  # the others do what it does, or end with it
            _check_what_is_there(command, run)
        processes.exchange("checked")
        if isinstance(command, OneStage):
            name = type(command).__name__.lower()
            if command.again:
                run.folder.forget(name)
            STAGE_FUNCTIONS[name](run)
            return
        if processes.is_first():
            _say_what_to_expect(run.experiment)
        run_all(run)
    if processes.is_first():
        show.show(run.path)


def _check_what_is_there(command: Run | OneStage | Fork, run) -> None:
    """Raises ValueError where the command would do again what has been done."""
    if isinstance(command, OneStage):
        name = type(command).__name__.lower()
        if run.folder.is_done(name) and not command.again:
            raise ValueError(
                f"{run.path}: the stage {name} has finished here already. Add --again to redo it and all "
                "later ones, or use another --run-dir."
            )
    elif not command.resume and (run.folder.manifest["stages"] or (run.path / "resume").exists()):
        raise ValueError(f"{run.path} holds a run already. Add --resume to go on, or use another --run-dir.")


def _say_what_to_expect(experiment) -> None:
    from cl_imitate import processes
    from cl_imitate.evaluation import power

    notes = list(power.notes(experiment))
    if processes.count() > 1 and experiment.controls.run:
        notes.append(
            "this job ends before the controls, which one process makes; go on with one then (--resume)"
        )
    for line in notes:
        print(f"note: {line}", file=sys.stderr)


def _open(command: StageArguments | Fork, notice: Notice):
    """The run that a command works on and, where one is named, the run that it was forked from."""
    from cl_imitate import load_config, processes
    from cl_imitate.keeper import Schedule
    from cl_imitate.stages.run import check_for_a_job, check_runnable, open_stage_run

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
    processes.check_equal("command", _told(command))
    processes.check_equal("configuration", load_config.fingerprint(experiment))
    processes.check_equal("--run-dir", str(folder.absolute()))
    check_for_a_job(experiment, origin)
    return open_stage_run(experiment, folder, origin, schedule), parent


def _told(command: StageArguments | Fork) -> str:
    """What a command does with what is there already."""
    flags = [name for name in ("again", "resume") if getattr(command, name, False)]
    return " --".join([type(command).__name__.lower(), *flags])


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
