"""The command line: parse, build the configuration, call one function per stage."""

import contextlib
import dataclasses
import os
import pathlib
import sys
import traceback
from typing import NoReturn

import tyro

from cl_imitate import __version__
from cl_imitate.commands import (
    Command,
    Compare,
    Envs,
    Fork,
    Horizon,
    Job,
    OneStage,
    Run,
    Saving,
    Show,
    StageArguments,
    Sweep,
)
from cl_imitate.interruption import InterruptedRunError, Notice, noticed
from cl_imitate.start_jax import set_up_jax


def main() -> None:
    """The console entry point. Exit code 2: the input was wrong, and nothing was lost."""
    if sys.argv[1:] == ["--version"]:
        print(f"cl_imitate {__version__}")
        return
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        prog="cl-imitate",
        description="Can a frozen sequence model imitate a continual learner? A measurement. --version says which one "
        "this is.",
    )
    try:
        _dispatch(command)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
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
        _compare(command)
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


def _compare(command: Compare) -> None:
    from cl_imitate import compare
    from cl_imitate.sweeps.folder import check_has_verdict

    for path in command.run_dirs:
        check_has_verdict(path)
    compare.compare(command.run_dirs, command.out)


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
        schedule=_schedule(command),
    )
    with noticed() as notice:
        sweep = run_sweep(request, notice)
    live.show(sweep, watch=False)
    if sweep.without_result():
        sys.exit(1)


def _schedule(command: Saving):
    """When a command saves; whoever waits for a signal puts its notice in."""
    from cl_imitate.keeper import Schedule

    return Schedule(
        every_seconds=command.save_every_seconds,
        every_steps=command.save_every_steps,
        keep_last=command.keep_saves,
    )


def _run_stages(command: Run | OneStage | Fork) -> None:
    from cl_imitate import processes

    with noticed(processes.make_notice()) as notice:
        run, parent = _open(command, notice)
        try:
            _run_noticed(command, run, parent)
        except FileExistsError:  # ours, which says what to do
            raise
        except OSError as error:
            raise ValueError(
                f"{error.filename or run.path} cannot be written or read ({error.strerror or error}). Usual cause: a "
                "full disk, or a folder without write permission. Mend it, then go on (run: with --resume)."
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
            with run.folder.redoing(name) if command.again else contextlib.nullcontext():
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
    from cl_imitate.stages.run import check_for_a_job, check_runnable, open_stage_run

    experiment, origin, parent = _forked(command) if isinstance(command, Fork) else _configured(command)
    check_runnable(experiment, origin)
    schedule = dataclasses.replace(_schedule(command), notice=notice)
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
