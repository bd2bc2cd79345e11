"""The first stage: learners live, and their whole histories are recorded."""

import functools
import shutil
from typing import Any

import jax
import numpy as np

from cl_imitate import block_size, populations, processes, progress, simulate
from cl_imitate.evaluation import protocols
from cl_imitate.histories import store
from cl_imitate.keeper import Keeper, Save
from cl_imitate.stages.artifacts import recorded_steps, save_snapshot, snapshot_path
from cl_imitate.stages.run import Run, chunk_steps, keeper_of, with_block_size


def simulate_stage(run: Run) -> None:
    """Record every population's whole history, and keep the snapshots that the protocols start from.

    Each process of a job does so for its own share of the learners; nothing is exchanged but words.
    """
    if run.experiment.simulation.block_size == "auto":
        _pick_block_size(run)
    keeper = keeper_of(run, "simulate")
    with run.folder.stage("simulate") as facts:
        updates = [
            _simulate(run, name, num_steps, keeper)
            for name, num_steps in recorded_steps(run.experiment).items()
        ]
        facts["td_updates"] = sum(updates)


def _pick_block_size(run: Run) -> None:
    measured = None
    if processes.is_first():
        population = populations.make("recorded", with_block_size(run.written, 1))
        size, rates = block_size.choose(population, chunk_steps=chunk_steps(run.written))
        measured = {
            "picked": size,
            "steps_per_second": {str(tried): round(rate) for tried, rate in rates.items()},
        }
    run.folder.note(block_size=measured)


def _simulate(run: Run, name: str, num_steps: int, keeper: Keeper) -> int:
    """One population's whole lives. Returns the updates that its learners made, those of all processes."""
    done = keeper.finished(name)
    if done and processes.count() == 1:
        return done[1]["td_updates"]
    everybody = populations.make(name, run.experiment)
    learners = everybody.own_share()
    own = everybody if processes.count() == 1 else everybody.members(np.array(learners, int))
    saved = None if done or not learners else keeper.load(name, functools.partial(_like, own))
    is_new = not any(processes.exchange(f"{name} begins", bool(done or saved)))
    lives = not done and len(learners) > 0
    if is_new and processes.is_first():
        _remove_what_is_left(run, name)
    writer = _writer(run, everybody, num_steps, saved, is_new) if lives and processes.is_first() else None
    processes.exchange(f"{name} has a store")
    if lives and writer is None:
        writer = _writer(run, everybody, num_steps, saved, is_new)
    updates = done[1]["td_updates"] if done else 0
    if writer is not None:
        updates = _live(run, own, learners, num_steps, keeper, writer, saved)
    updates = sum(processes.exchange(f"{name} has lived", updates))
    if processes.count() > 1 and processes.is_first():
        store.join(run.path / "histories" / name)
    return updates


def _live(
    run: Run,
    own: populations.Population,
    learners: range,
    num_steps: int,
    keeper: Keeper,
    writer: store.Writer,
    saved: Save | None,
) -> int:
    """The lives of one process's learners. Returns the updates that they made."""
    name, chunk = own.name, chunk_steps(run.experiment)
    ensemble = own.newborn() if saved is None else saved.tree["ensemble"]
    if saved is None and 0 in protocols.snapshot_steps(run.experiment, name):
        save_snapshot(run, name, 0, ensemble, learners)
    first = int(ensemble.clock.step)
    wanted = _Wanted(protocols.snapshot_steps(run.experiment, name), keeper, name)
    with progress.bar(
        f"simulate {name.replace('_', ' ')}", own.num_learners * (num_steps - first), "steps"
    ) as tick:
        for number, (kept, history) in enumerate(
            simulate.advance(
                ensemble,
                own.streams,
                own.env_params,
                own.rates,
                **own.static,
                num_steps=num_steps - first,
                chunk_steps=chunk,
                keep_steps=wanted,
            ),
            start=1,
        ):
            writer.append(jax.tree.map(np.asarray, history))
            tick(history.action.size)
            if kept is None:
                continue
            ensemble, step = kept, first + number * chunk
            if step in wanted.snapshots:
                save_snapshot(run, name, step, ensemble, learners)
            if step in wanted.due and step < num_steps:
                _save_life(keeper, name, step, ensemble, writer)
    writer.close()
    updates = int(ensemble.clock.update) * own.num_learners
    keeper.finish(name, {}, {"td_updates": updates})
    return updates


class _Wanted:
    """The steps at which the ensemble is wanted whole: for a snapshot, or because a save is due just then."""

    def __init__(self, snapshots: tuple[int, ...], keeper: Keeper, part: str):
        self.snapshots, self.due = set(snapshots), set()
        self._asks = keeper.steps(part)

    def __contains__(self, step: object) -> bool:
        if step in self._asks:
            self.due.add(step)
        return step in self.snapshots or step in self.due


def _like(own: populations.Population, facts: dict[str, Any]) -> dict[str, Any]:
    row_bytes = store.row_dtype(own.family.env.spec).itemsize
    rows = np.empty((own.num_learners, facts["waiting"] + 1, row_bytes), np.uint8)
    return {"ensemble": own.abstract(), "rows": rows}


def _remove_what_is_left(run: Run, name: str) -> None:
    for left in (run.path / "histories" / name, snapshot_path(run, name, 0).parent):
        shutil.rmtree(left, ignore_errors=True)


def _writer(
    run: Run, everybody: populations.Population, num_steps: int, saved: Save | None, is_new: bool
) -> store.Writer:
    """For this process's learners: of a store that its first process makes, or that was left by all of them."""
    spec, part = everybody.family.env.spec, processes.index()
    shares = everybody.shares()
    go_on = None
    if saved is not None:
        go_on = saved.facts["written"], saved.tree["rows"][:, : saved.facts["waiting"]]
    elif not is_new:
        go_on = 0, np.empty((len(shares[part]), 0, store.row_dtype(spec).itemsize), np.uint8)
    return store.Writer(
        run.path / "histories" / everybody.name,
        fingerprint=run.folder.fingerprint,
        spec=spec,
        num_learners=everybody.num_learners,
        num_steps=num_steps,
        learner_key_data=np.asarray(jax.random.key_data(everybody.learner_keys)),
        go_on=go_on,
        cuts=[share.start for share in shares],
        part=part,
    )


def _save_life(
    keeper: Keeper, name: str, step: int, ensemble: simulate.Ensemble, writer: store.Writer
) -> None:
    written, rows = writer.position
    facts = {"written": written, "waiting": rows.shape[1]}
    rows = np.pad(rows, ((0, 0), (0, 1), (0, 0)))  # never of no size
    keeper.save(name, step, {"ensemble": ensemble, "rows": rows}, facts)
