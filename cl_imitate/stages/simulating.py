"""The first stage: learners live, and their whole histories are recorded."""

import contextlib
import functools
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from cl_imitate import block_size, populations, processes
from cl_imitate.evaluation import protocols
from cl_imitate.histories import store
from cl_imitate.keeper import Keeper
from cl_imitate.stages.artifacts import recorded_steps, save_snapshot
from cl_imitate.stages.lives import (
    Life,
    cohorts_of,
    live,
    open_writer,
    position_of,
    remove_what_is_left,
    saved_like,
)
from cl_imitate.stages.run import Run, chunk_steps, keeper_of, with_block_size


def simulate_stage(run: Run) -> None:
    """Record every population's whole history, and keep the snapshots that the protocols start from.

    Raises:
      FloatingPointError: a learner diverged.
    """
    for error in simulate_together([run]).values():
        raise error


def simulate_together(runs: Sequence[Run]) -> dict[int, FloatingPointError]:
    """The stage of several runs whose configurations differ in leaves only (seeds and rates), as one ensemble.

    Each goes on from where it was left, alone or with others, and leaves what it would leave alone. Returns the errors
    of runs in which a learner diverged, by index; the others do not notice.

    Each process of a job does so for its own share of the learners of one run; nothing is exchanged but words.

    Raises:
      ValueError: this is one of several processes, and there are several runs, or a fork.
    """
    if processes.count() > 1:
        _check_for_several_processes(runs)
    _pick_block_size(runs)
    keepers = [keeper_of(run, "simulate") for run in runs]
    for run, keeper in zip(runs, keepers, strict=True):
        keeper.attempt.share = 1 / len(runs)
        run.folder.begin("simulate", goes_on=run.folder.goes_on("simulate"), attempt=keeper.attempt)
    try:
        if processes.count() > 1:
            errors, updates = {}, [_simulate_share(runs[0], keepers[0])]
        else:
            errors, updates = _simulate(runs, keepers)
    except BaseException:
        for keeper in keepers:
            with contextlib.suppress(
                ValueError
            ):  # what is being written must be, before another goes on from here
                keeper.wait()
            keeper.attempt.put()
        raise
    for index, (run, keeper) in enumerate(zip(runs, keepers, strict=True)):
        if index in errors:
            keeper.attempt.put()
        else:
            run.folder.finish("simulate", keeper.attempt, td_updates=updates[index])
    return errors


def _check_for_several_processes(runs: Sequence[Run]) -> None:
    one_of = f"one process does so, and this is one of {processes.count()}"
    if len(runs) > 1:
        raise ValueError(
            f"the learners of {len(runs)} runs are to live in one ensemble: {one_of}. Start the sweep as one process."
        )
    if runs[0].experiment.fork is not None:
        raise ValueError(
            f"{runs[0].path}: a fork's learners are to go on: {one_of}. Simulate with one: `cl-imitate simulate "
            f"--run-dir {runs[0].path}`, without --num-processes. Several can do what comes after."
        )


def _simulate(
    runs: Sequence[Run], keepers: Sequence[Keeper]
) -> tuple[dict[int, FloatingPointError], list[int]]:
    """Every population. Returns the errors of runs that diverged, by index, and the updates of each run's learners."""
    errors: dict[int, FloatingPointError] = {}
    updates = [0] * len(runs)
    for name, num_steps in recorded_steps(runs[0].experiment).items():
        lives = []
        for index, (run, keeper) in enumerate(zip(runs, keepers, strict=True)):
            if done := keeper.finished(name):
                updates[index] += done[1]["td_updates"]
            elif index in errors:
                continue
            elif run.experiment.fork is not None and num_steps <= run.experiment.fork.step:
                population = populations.make(name, run.experiment)
                shutil.rmtree(
                    run.path / "histories" / name, ignore_errors=True
                )  # of an attempt that was cut off
                open_writer(run, population, num_steps, None).close()  # all of it is the parent's
                keeper.finish(name, {}, {"td_updates": 0})
            else:
                lives.append(Life.begin_or_go_on(index, run, keeper, name, num_steps))
        for cohort in cohorts_of(lives):
            live(cohort, num_steps, errors)
            for life in cohort:
                updates[life.index] += life.td_updates
    return errors, updates


def _pick_block_size(runs: Sequence[Run]) -> None:
    """Measure it, where it is to be measured and has not been, once for all."""
    left = [run for run in runs if run.experiment.simulation.block_size == "auto"]
    processes.exchange("block size looked at")
    if not left:
        return
    measured = _measured_block_size(left[0]) if processes.is_first() else None
    for run in left:
        run.folder.note(block_size=measured)


def _measured_block_size(run: Run) -> dict[str, Any]:
    population = populations.make("recorded", with_block_size(run.written, 1))
    size, rates = block_size.choose(population, chunk_steps=chunk_steps(run.written))
    return {"picked": size, "steps_per_second": {str(tried): round(rate) for tried, rate in rates.items()}}


def _simulate_share(run: Run, keeper: Keeper) -> int:
    """This process's share of every population. Returns the updates that the learners of all processes made.

    Raises:
      FloatingPointError: a learner diverged.
    """
    total = 0
    for name, num_steps in recorded_steps(run.experiment).items():
        done = keeper.finished(name)
        updates = 0 if done is None else done[1]["td_updates"]
        life = _begin_or_go_on_share(run, keeper, name, num_steps, is_done=done is not None)
        if life is not None:
            errors: dict[int, FloatingPointError] = {}
            live([life], num_steps, errors)
            for error in errors.values():
                raise error
            updates = life.td_updates
        total += sum(processes.exchange(f"{name} has lived", updates))
        if processes.is_first():
            store.join(run.path / "histories" / name)
    return total


def _begin_or_go_on_share(
    run: Run, keeper: Keeper, name: str, num_steps: int, *, is_done: bool
) -> Life | None:
    """This process's share of a population; None where it has none, or has lived. All processes ask for it.

    The first one makes room and the store, the others then open it; a share of which nothing was saved begins anew in a
    store of which the others have written their parts.
    """
    everybody = populations.make(name, run.experiment)
    shares, index = everybody.shares(), processes.index()
    learners = shares[index]
    is_idle = is_done or not learners
    own = None if is_idle else everybody.members(np.array(learners))
    saved = None if own is None else keeper.load(name, functools.partial(saved_like, own))
    is_new = not any(processes.exchange(f"{name} begins", is_done or saved is not None))
    if is_new and processes.is_first():
        remove_what_is_left(run, name)
    writer = None
    for is_turn in (processes.is_first(), not processes.is_first()):
        if is_turn and own is not None:
            row_bytes = store.row_dtype(own.family.env.spec).itemsize
            go_on = None if is_new else (0, np.empty((len(learners), 0, row_bytes), np.uint8))
            if saved is not None:
                go_on = position_of(saved)
            cuts = [share.start for share in shares]
            writer = open_writer(run, everybody, num_steps, go_on, cuts=cuts, part=index)
        processes.exchange(f"{name} has a store")
    if own is None or writer is None:
        return None
    ensemble = own.newborn() if saved is None else saved.tree["ensemble"]
    if saved is None and 0 in protocols.snapshot_steps(run.experiment, name):
        save_snapshot(run, name, 0, ensemble, learners)
    return Life(
        index=0,
        run=run,
        keeper=keeper,
        population=own,
        writer=writer,
        ensemble=ensemble,
        first=int(ensemble.clock.step),
        spent_before=0,
        learners=learners,
    )
