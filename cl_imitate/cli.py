"""The command line: parse, build the configuration, call one function per stage."""

import dataclasses
import os
import pathlib
import sys
import traceback
from typing import Annotated, Literal, NoReturn

import tyro

from cl_imitate.interruption import InterruptedRunError, Notice, noticed

_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "cl_imitate", "jax")
_MAX_CPU_DEVICES = 8


@dataclasses.dataclass(frozen=True)
class StageArguments:
    """Which configuration, and which folder."""

    config: Annotated[pathlib.Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = None
    """A TOML file, e.g. configs/quickstart.toml. Left out: the one in --run-dir."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's folder. Default: runs/<config name>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Override one value, e.g. --set training.num_seeds=5. May be repeated."""
    save_every_seconds: float = 300.0
    """How often a stage under way saves what --resume goes on from (0: only when told to stop)."""
    save_every_steps: int = 0
    """The same, counted in steps of what is under way (0: not counted)."""
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
class Report(OneStage):
    """Decide, and draw the figures and the page. Needs no accelerator."""


@dataclasses.dataclass(frozen=True)
class Show:
    """What a run's folder holds, and its verdict."""

    run_dir: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The run's folder."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """The environment families that a config can name."""


Command = Run | Simulate | Gate | Train | Evaluate | Report | Show | Envs


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
        _end(interrupted.exit_code, f"{interrupted}")
    except FloatingPointError as error:
        _end(1, f"error: {error}")
    except Exception as error:
        if not _is_one_of_several():
            raise
        _end(1, _told_by_one_of_several(error))


def _end(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    if _is_one_of_several():
        from cl_imitate import processes

        processes.leave(code)
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
        from cl_imitate import show

        show.show(command.run_dir)
    else:
        set_up_jax(command.cpu_devices)
        _join_job(command)
        _run_stages(command)


def _join_job(command: StageArguments) -> None:
    told = (command.coordinator, command.num_processes, command.process_id)
    is_slurm_step = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    if command.distributed == "off" and any(value is not None for value in told):
        raise ValueError("--distributed off goes with none of --coordinator, --num-processes, --process-id.")
    if command.distributed == "on" or (
        command.distributed == "auto" and (is_slurm_step or any(value is not None for value in told))
    ):
        from cl_imitate import processes

        processes.begin(*told)


def set_up_jax(cpu_devices: int = 0) -> None:
    """Compiled programs are kept between runs, and every core is a device (an ensemble is split over them)."""
    # Errors only: that the compiler will drop a partitioner (see `sharding`) helps nobody who starts a run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    jax.config.update("jax_num_cpu_devices", cpu_devices or min(_num_cores(), _MAX_CPU_DEVICES))
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


def _run_stages(command: Run | OneStage) -> None:
    from cl_imitate import processes

    with noticed(processes.make_notice()) as notice:
        run = _open(command, notice)
        try:
            _run_noticed(command, run)
        except OSError as error:
            raise ValueError(
                f"{error.filename or run.path} cannot be written or read ({error.strerror}). Usual cause: a full disk, "
                "or a folder without write permission. Mend it, then go on (run: with --resume)."
            ) from error


def _run_noticed(command: Run | OneStage, run) -> None:
    from cl_imitate import processes, show
    from cl_imitate.stages.corridor import STAGE_FUNCTIONS, run_all

    with run.folder.lock():
        if processes.is_first():  # the others do what it does, or end with it
            _check_what_is_there(command, run)
        processes.exchange("checked")
        if isinstance(command, OneStage):
            name = type(command).__name__.lower()
            if command.again:
                run.folder.forget(name)
            STAGE_FUNCTIONS[name](run)
            return
        run_all(run)
    if processes.is_first():
        show.show(run.path)


def _check_what_is_there(command: Run | OneStage, run) -> None:
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


def _open(command: StageArguments, notice: Notice):
    from cl_imitate import load_config, processes
    from cl_imitate.keeper import Schedule
    from cl_imitate.stages.run import check_runnable, open_stage_run

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
    check_runnable(experiment, origin)
    schedule = Schedule(
        every_seconds=command.save_every_seconds, every_steps=command.save_every_steps, notice=notice
    )
    folder = command.run_dir or pathlib.Path("runs", experiment.name)
    processes.check_equal("configuration", load_config.fingerprint(experiment))
    processes.check_equal("--run-dir", str(folder.absolute()))
    return open_stage_run(experiment, folder, origin, schedule)
