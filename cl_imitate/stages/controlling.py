"""The stage in which the run's controls are made: what says how far its answers can be believed."""

import functools
import pathlib
import time

import jax

from cl_imitate import populations, processes, progress
from cl_imitate.evaluation import results
from cl_imitate.evaluation.controls.registry import CONTROLS
from cl_imitate.evaluation.controls.study import Arrays, Study
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.keeper import Keeper
from cl_imitate.side_by_side import side_by_side
from cl_imitate.stages.artifacts import load_frozen, load_history, load_snapshot
from cl_imitate.stages.run import Run, chunk_steps, contexts_of, keeper_of
from cl_imitate.start_jax import num_cores

_AT_ONCE_ON_CPU = 2
"""One control alone keeps its cores waiting for each other much of the time: on two of them, two take 0.55 of the time
that they take in turn."""


def control_stage(run: Run) -> None:
    """Every control that the config names, begun in its order; a finished one is not made again.

    Raises:
      ValueError: this is one of several processes: they have not learnt to share this work. Or fewer than none are to
        be made at once.
    """
    if processes.count() > 1:
        raise ValueError(
            f"{run.path}: one process makes the controls, and this is one of {processes.count()}. What came before is "
            f"done. Go on with one: `cl-imitate run --run-dir {run.path} --resume`, without --num-processes (under "
            "Slurm: one task)."
        )
    at_once = min(_at_once(run), len(run.experiment.controls.run))
    run.folder.require("train")
    keeper = keeper_of(run, "control")
    goes_on = run.folder.goes_on("control")
    with run.folder.stage("control", goes_on=goes_on, attempt=keeper.attempt) as facts:
        facts["run"] = list(run.experiment.controls.run)
        took = {}

        def make(name: str) -> None:
            with keeper.another() as own:
                arrays, seconds = _measured(run, name, own)
            if seconds is not None:
                steps = CONTROLS[name].work(run.experiment)
                took[name] = {"seconds": seconds, "steps": steps, "at_once": at_once}
            results.save_arrays(_path(run, name), arrays, fingerprint=run.folder.fingerprint)
            if run.schedule.notice:
                assert run.schedule.notice.number is not None
                raise InterruptedRunError(run.schedule.notice.number)

        names = run.experiment.controls.run
        side_by_side({name: functools.partial(make, name) for name in names}, at_once=at_once)
        facts["took"] = {name: took[name] for name in names if name in took}


def _at_once(run: Run) -> int:
    if run.controls_at_once < 0:
        raise ValueError(
            f"--controls-at-once = {run.controls_at_once}: give how many controls are made side by side, from 1 on, "
            "or 0 for as many as suit this machine."
        )
    is_on_cpu = jax.default_backend() == "cpu"
    return run.controls_at_once or (min(_AT_ONCE_ON_CPU, num_cores()) if is_on_cpu else 1)


def _measured(run: Run, name: str, keeper: Keeper) -> tuple[Arrays, float | None]:
    """What a control measured and the seconds it took, None where an earlier attempt had done some of it."""
    if done := keeper.finished(name):
        return done[0], done[1]["seconds"]
    control, experiment, begun = CONTROLS[name], run.experiment, time.perf_counter()
    spec = populations.make("held_out", experiment).family.env.spec
    with progress.bar(f"control {name.replace('_', ' ')}", control.work(experiment), "steps") as tick:
        arrays = control.measure(
            Study(
                experiment=experiment,
                spec=spec,
                chunk_steps=chunk_steps(experiment),
                population=lambda which: populations.make(which, experiment),
                snapshot=lambda population, step: load_snapshot(run, population, step),
                history=lambda which: load_history(run, which, spec),
                imitators={context: load_frozen(run, spec, context) for context in contexts_of(experiment)},
                tick=tick,
                keeper=keeper,
            )
        )
    seconds = None if keeper.went_on else round(time.perf_counter() - begun, 2)
    keeper.finish(name, arrays, {"seconds": seconds})
    return arrays, seconds


def load_controls(run: Run) -> dict[str, Arrays]:
    """What every control of the run measured, by name.

    Raises:
      ValueError: a file is missing, damaged, or of another configuration.
    """
    fingerprint = run.folder.fingerprint
    return {
        name: results.load_arrays(_path(run, name), fingerprint=fingerprint, stage="control")[0]
        for name in run.experiment.controls.run
    }


def _path(run: Run, name: str) -> pathlib.Path:
    return run.path / "controls" / f"{name}.npz"
