"""The first stage: learners live, and their whole histories are recorded."""

import shutil

import jax
import numpy as np

from cl_imitate import block_size, populations, progress, simulate
from cl_imitate.evaluation import protocols
from cl_imitate.histories import store
from cl_imitate.keeper import Keeper
from cl_imitate.stages.artifacts import (
    load_snapshot,
    open_history,
    recorded_steps,
    save_snapshot,
    snapshot_path,
)
from cl_imitate.stages.parent import parent_of
from cl_imitate.stages.run import Run, chunk_steps, keeper_of, with_block_size


def simulate_stage(run: Run) -> None:
    """Record every population's whole history, and keep the snapshots that the protocols start from."""
    if run.experiment.simulation.block_size == "auto":
        _pick_block_size(run)
    keeper = keeper_of(run, "simulate")
    with run.folder.stage("simulate", goes_on=not keeper.is_empty, attempt=keeper.attempt) as facts:
        updates = [
            _simulate(run, name, num_steps, keeper)
            for name, num_steps in recorded_steps(run.experiment).items()
        ]
        facts["td_updates"] = sum(updates)


def _pick_block_size(run: Run) -> None:
    population = populations.make("recorded", with_block_size(run.written, 1))
    size, rates = block_size.choose(population, chunk_steps=chunk_steps(run.written))
    measured = {str(tried): round(rate) for tried, rate in rates.items()}
    run.folder.note(block_size={"picked": size, "steps_per_second": measured})


def _simulate(run: Run, name: str, num_steps: int, keeper: Keeper) -> int:
    """One population's whole lives. Returns the updates that its learners made."""
    if done := keeper.finished(name):
        return done[1]["td_updates"]
    population, fork = populations.make(name, run.experiment), run.experiment.fork
    if fork is not None and num_steps <= fork.step:
        _writer(run, population, num_steps, None).close()  # all of it is the parent's
        keeper.finish(name, {}, {"td_updates": 0})
        return 0
    writer, ensemble, spent_before = _begin_or_go_on(run, population, num_steps, keeper)
    first, chunk = int(ensemble.clock.step), chunk_steps(run.experiment)
    wanted = _Wanted(protocols.snapshot_steps(run.experiment, name), keeper, name)
    with progress.bar(
        f"simulate {name.replace('_', ' ')}", population.num_learners * (num_steps - first), "steps"
    ) as tick:
        for number, (kept, history) in enumerate(
            simulate.advance(
                ensemble,
                population.streams,
                population.env_params,
                population.rates,
                **population.static,
                num_steps=num_steps - first,
                chunk_steps=chunk,
                keep_steps=wanted,
            ),
            start=1,
        ):
            writer.append(jax.tree.map(np.asarray, history))
            tick(history.action.size)
            keeper.attempt.stepped()
            if kept is None:
                continue
            ensemble, step = kept, first + number * chunk
            if step in wanted.snapshots:
                save_snapshot(run, name, step, ensemble)
            if step in wanted.due and step < num_steps:
                _save_life(keeper, name, step, ensemble, writer, spent_before)
    writer.close()
    updates = (int(ensemble.clock.update) - spent_before) * population.num_learners
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


def _begin_or_go_on(
    run: Run, population: populations.Population, num_steps: int, keeper: Keeper
) -> tuple[store.Writer, simulate.Ensemble, int]:
    """Where the histories go, the learners, and the updates that each had made before this run."""
    spec, name = population.family.env.spec, population.name
    row_bytes = store.row_dtype(spec).itemsize

    def like(facts):
        rows = np.empty((population.num_learners, facts["waiting"] + 1, row_bytes), np.uint8)
        return {"ensemble": population.abstract(), "rows": rows}

    saved = keeper.load(name, like)
    if saved is None:
        for left in (run.path / "histories" / name, snapshot_path(run, name, 0).parent):
            shutil.rmtree(left, ignore_errors=True)
        ensemble = _begin(run, population)
        return _writer(run, population, num_steps, None), ensemble, int(ensemble.clock.update)
    go_on = saved.facts["written"], saved.tree["rows"][:, : saved.facts["waiting"]]
    writer = _writer(run, population, num_steps, go_on)
    return writer, saved.tree["ensemble"], saved.facts["spent_before"]


def _begin(run: Run, population: populations.Population) -> simulate.Ensemble:
    """The learners newly born, or as a fork's parent left them."""
    if run.experiment.fork is not None:
        return load_snapshot(run, population, run.experiment.fork.step)
    ensemble = population.newborn()
    if 0 in protocols.snapshot_steps(run.experiment, population.name):
        save_snapshot(run, population.name, 0, ensemble)
    return ensemble


def _writer(
    run: Run, population: populations.Population, num_steps: int, go_on: tuple[int, np.ndarray] | None
) -> store.Writer:
    spec, fork, before = population.family.env.spec, run.experiment.fork, None
    if fork is not None:
        parents = open_history(parent_of(run), population.name, spec)
        before = store.reference(parents, min(fork.step, num_steps))
    return store.Writer(
        run.path / "histories" / population.name,
        fingerprint=run.folder.fingerprint,
        spec=spec,
        num_learners=population.num_learners,
        num_steps=num_steps,
        learner_key_data=np.asarray(jax.random.key_data(population.learner_keys)),
        go_on=go_on,
        before=before,
    )


def _save_life(
    keeper: Keeper,
    name: str,
    step: int,
    ensemble: simulate.Ensemble,
    writer: store.Writer,
    spent_before: int,
) -> None:
    written, rows = writer.position
    facts = {"written": written, "waiting": rows.shape[1], "spent_before": spent_before}
    rows = np.pad(rows, ((0, 0), (0, 1), (0, 0)))  # never of no size
    keeper.save(name, step, {"ensemble": ensemble, "rows": rows}, facts)
