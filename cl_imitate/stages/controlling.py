"""The stage in which the run's controls are made: what says how far its answers can be believed."""

import pathlib
import time

from cl_imitate import populations, processes, progress
from cl_imitate.evaluation import results
from cl_imitate.evaluation.controls.registry import CONTROLS
from cl_imitate.evaluation.controls.study import Arrays, Study
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.keeper import Keeper
from cl_imitate.stages.artifacts import load_frozen, load_history, load_snapshot
from cl_imitate.stages.run import Run, chunk_steps, contexts_of, keeper_of


def control_stage(run: Run) -> None:
    """Every control that the config names, one after the other; a finished one is not made again.

    Not several at a time in threads, though alone one leaves its cores waiting: of a program split over two CPU devices
    one half was seen never to begin while another thread kept them busy (`floor` beside `shuffled`), and XLA ends the
    process where the other half has waited for 40 s.

    Raises:
      ValueError: this is one of several processes: they have not learnt to share this work.
    """
    if processes.count() > 1:
        raise ValueError(
            f"{run.path}: one process makes the controls, and this is one of {processes.count()}. What came before is "
            f"done. Go on with one: `cl-imitate run --run-dir {run.path} --resume`, without --num-processes (under "
            "Slurm: one task)."
        )
    run.folder.require("train")
    keeper = keeper_of(run, "control")
    goes_on = run.folder.goes_on("control")
    with run.folder.stage("control", goes_on=goes_on, attempt=keeper.attempt) as facts:
        facts["run"] = list(run.experiment.controls.run)
        for name in run.experiment.controls.run:
            was_done = keeper.finished(name) is not None
            arrays, seconds = _measured(run, name, keeper, is_whole=not goes_on)
            goes_on &= was_done  # what an earlier attempt left of one is no part of the next
            if seconds is not None:
                steps = CONTROLS[name].work(run.experiment)
                facts.setdefault("took", {})[name] = {"seconds": seconds, "steps": steps}
            results.save_arrays(_path(run, name), arrays, fingerprint=run.folder.fingerprint)
            if run.schedule.notice:
                assert run.schedule.notice.number is not None
                raise InterruptedRunError(run.schedule.notice.number)


def _measured(run: Run, name: str, keeper: Keeper, *, is_whole: bool) -> tuple[Arrays, float | None]:
    """What a control measured and the seconds it took, None where not all of it was one attempt's."""
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
    seconds = round(time.perf_counter() - begun, 2) if is_whole else None
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
