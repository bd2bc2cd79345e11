"""A population's life while it is recorded: it is born or goes on, is lived to its end, and is saved on the way."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cl_imitate import populations, progress, sharding, simulate
from cl_imitate.evaluation import protocols
from cl_imitate.histories import store
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.keeper import Keeper, Save
from cl_imitate.learners.dqn import DQNHyperparams
from cl_imitate.seating import Seating
from cl_imitate.stages.artifacts import load_snapshot, open_history, save_snapshot, snapshot_path
from cl_imitate.stages.parent import parent_of
from cl_imitate.stages.run import Run, chunk_steps


@dataclasses.dataclass(kw_only=True, eq=False)
class Life:
    """One population of one run, or one process's share of it, being recorded."""

    index: int  # of the run
    run: Run
    keeper: Keeper
    population: populations.Population
    writer: store.Writer
    ensemble: simulate.Ensemble | None
    first: int  # how many steps it had lived before
    spent_before: int  # updates that each learner had made before this run
    learners: range | None = None  # which these are of all, where they are a process's share
    td_updates: int = 0

    @classmethod
    def begin_or_go_on(cls, index: int, run: Run, keeper: Keeper, name: str, num_steps: int) -> "Life":
        population = populations.make(name, run.experiment)
        writer, ensemble, spent_before = _begin_or_go_on(run, population, num_steps, keeper)
        return cls(
            index=index,
            run=run,
            keeper=keeper,
            population=population,
            writer=writer,
            ensemble=ensemble,
            first=int(ensemble.clock.step),
            spent_before=spent_before,
        )

    @property
    def leaves(self) -> tuple:
        """What decides on it, besides what all runs share: equal ones are lived once."""
        experiment = self.run.experiment
        rates = [getattr(experiment.learner, name) for name in DQNHyperparams.__dataclass_fields__]
        return (experiment.seed, experiment.fork, *rates)

    def keep(self, step: int, num_steps: int, ensemble: simulate.Ensemble, wanted: "_Wanted") -> None:
        """What is to be kept of it at a step. Raises InterruptedRunError after a save for which there was a notice."""
        name = self.population.name
        mesh = sharding.ensemble_mesh(self.population.num_learners)
        ensemble = sharding.place(
            ensemble, mesh, simulate.SPECS
        )  # as it is written does not tell who was beside it
        if step in wanted.snapshots:
            save_snapshot(self.run, name, step, ensemble, self.learners)
        if step in wanted.due and step < num_steps:
            _save_life(self.keeper, name, step, ensemble, self.writer, self.spent_before)

    def close(self, ensemble: simulate.Ensemble) -> None:
        self.writer.close()
        made = int(ensemble.clock.update) - self.spent_before
        self.td_updates = made * self.population.num_learners
        self.keeper.finish(self.population.name, {}, {"td_updates": self.td_updates})


def _taken(cohort: list[Life], twins: list[list[Life]], seating: Seating) -> simulate.Ensemble:
    """The learners of a cohort, which are its lives' no longer: what advances is consumed."""
    ensemble = seating.join([some[0].ensemble for some in twins])
    for life in cohort:
        life.ensemble = None
    return ensemble


class _Wanted:
    """The steps at which the ensemble is wanted whole: for a snapshot, or because a save is due just then."""

    def __init__(self, snapshots: tuple[int, ...], is_due: Callable[[int], bool]):
        self.snapshots, self.due = set(snapshots), set()
        self._is_due = is_due

    def __contains__(self, step: object) -> bool:
        assert isinstance(step, int)
        if self._is_due(step):
            self.due.add(step)
        return step in self.snapshots or step in self.due


def cohorts_of(lives: list[Life]) -> list[list[Life]]:
    """Lives that can go on together: equally old, in blocks of one size."""
    found: dict[tuple[int, int], list[Life]] = {}
    for life in lives:
        found.setdefault((life.first, life.population.block_size), []).append(life)
    return list(found.values())


def live(cohort: list[Life], num_steps: int, errors: dict[int, FloatingPointError]) -> None:
    """To the end, as one ensemble; errors of runs that diverge are added."""
    by_leaves: dict[tuple, list[Life]] = {}
    for life in cohort:
        by_leaves.setdefault(life.leaves, []).append(life)
    twins, lead = list(by_leaves.values()), cohort[0]
    joined, seating = populations.join([some[0].population for some in twins])

    def on_diverged(has_diverged: np.ndarray, step: int) -> None:
        for place, some in enumerate(twins):
            if (own := has_diverged[seating.seats(place)]).any():
                error = simulate.divergence(own, step)
                errors.update({life.index: error for life in some if life.index not in errors})
        if all(life.index in errors for life in cohort):
            raise errors[lead.index]

    first, chunk = lead.first, chunk_steps(lead.run.experiment)

    def is_due(step: int) -> bool:
        """Asked of a run that still saves: one that has diverged would call for a save at every chunk."""
        return next(life for life in cohort if life.index not in errors).keeper.is_due(joined.name, step)

    wanted = _Wanted(protocols.snapshot_steps(lead.run.experiment, joined.name), is_due)
    label = f"simulate {joined.name.replace('_', ' ')}"
    with (
        contextlib.suppress(FloatingPointError),
        progress.bar(label, joined.num_learners * (num_steps - first), "steps") as tick,
    ):
        for number, (kept, history) in enumerate(
            simulate.advance(
                _taken(cohort, twins, seating),
                joined.streams,
                joined.env_params,
                joined.rates,
                **joined.static,
                num_steps=num_steps - first,
                chunk_steps=chunk,
                keep_steps=wanted,
                on_diverged=on_diverged,
            ),
            start=1,
        ):
            history = jax.tree.map(np.asarray, history)
            tick(history.action.size)
            for life in cohort:
                life.keeper.attempt.stepped()
            stop: InterruptedRunError | None = None
            for place, some in enumerate(twins):
                own, own_history = seating.part(kept, place), seating.part(history, place)
                for life in some:
                    if life.index in errors:
                        continue
                    life.writer.append(own_history)
                    if own is None:
                        continue
                    try:
                        life.keep(first + number * chunk, num_steps, own, wanted)
                    except InterruptedRunError as interrupted:
                        stop = interrupted  # when all are saved
                    if first + number * chunk == num_steps:
                        life.close(own)
            if stop is not None:
                raise stop


def _begin_or_go_on(
    run: Run, population: populations.Population, num_steps: int, keeper: Keeper
) -> tuple[store.Writer, simulate.Ensemble, int]:
    """Where the histories go, the learners, and the updates that each had made before this run."""
    saved = keeper.load(population.name, functools.partial(saved_like, population))
    if saved is None:
        remove_what_is_left(run, population.name)
        ensemble = _begin(run, population)
        return open_writer(run, population, num_steps, None), ensemble, int(ensemble.clock.update)
    writer = open_writer(run, population, num_steps, position_of(saved))
    return writer, saved.tree["ensemble"], saved.facts["spent_before"]


def saved_like(population: populations.Population, facts: dict[str, Any]) -> dict[str, Any]:
    """What `_save_life` saves."""
    row_bytes = store.row_dtype(population.family.env.spec).itemsize
    rows = np.empty((population.num_learners, facts["waiting"] + 1, row_bytes), np.uint8)
    return {"ensemble": population.abstract(), "rows": rows}


def position_of(saved: Save) -> tuple[int, np.ndarray]:
    """Where the histories were, for a `store.Writer` that goes on."""
    return saved.facts["written"], saved.tree["rows"][:, : saved.facts["waiting"]]


def remove_what_is_left(run: Run, name: str) -> None:
    """Of an attempt of which nothing was saved."""
    for left in (run.path / "histories" / name, snapshot_path(run, name, 0).parent):
        shutil.rmtree(left, ignore_errors=True)


def _begin(run: Run, population: populations.Population) -> simulate.Ensemble:
    """The learners newly born, or as a fork's parent left them."""
    if run.experiment.fork is not None:
        return load_snapshot(run, population, run.experiment.fork.step)
    ensemble = population.newborn()
    if 0 in protocols.snapshot_steps(run.experiment, population.name):
        save_snapshot(run, population.name, 0, ensemble)
    return ensemble


def open_writer(
    run: Run,
    population: populations.Population,
    num_steps: int,
    go_on: tuple[int, np.ndarray] | None,
    *,
    cuts: Sequence[int] = (0,),
    part: int = 0,
) -> store.Writer:
    """`population`: all learners, those of other processes too; for `cuts` and `part` see `store.Writer`."""
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
        cuts=cuts,
        part=part,
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
