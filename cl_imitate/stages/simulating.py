"""The first stage: learners live, and their whole histories are recorded."""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cl_imitate import block_size, populations, processes, progress, sharding, simulate
from cl_imitate.blocks import Blocks
from cl_imitate.evaluation import protocols
from cl_imitate.histories import store
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.keeper import Keeper, Save
from cl_imitate.learners.dqn import DQNHyperparams
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
                _writer(run, population, num_steps, None).close()  # all of it is the parent's
                keeper.finish(name, {}, {"td_updates": 0})
            else:
                lives.append(_Life.begin_or_go_on(index, run, keeper, name, num_steps))
        for cohort in _cohorts(lives):
            _live(cohort, num_steps, errors)
            for life in cohort:
                updates[life.index] += life.td_updates
    return errors, updates


def _pick_block_size(runs: Sequence[Run]) -> None:
    """Measure it, where it is to be measured and has not been, once for all."""
    left = [run for run in runs if run.experiment.simulation.block_size == "auto"]
    if not left:
        return
    measured = _measured_block_size(left[0]) if processes.is_first() else None
    for run in left:
        run.folder.note(block_size=measured)


def _measured_block_size(run: Run) -> dict[str, Any]:
    population = populations.make("recorded", with_block_size(run.written, 1))
    size, rates = block_size.choose(population, chunk_steps=chunk_steps(run.written))
    return {"picked": size, "steps_per_second": {str(tried): round(rate) for tried, rate in rates.items()}}


@dataclasses.dataclass(kw_only=True, eq=False)
class _Life:
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
    def begin_or_go_on(cls, index: int, run: Run, keeper: Keeper, name: str, num_steps: int) -> "_Life":
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


def _cohorts(lives: list[_Life]) -> list[list[_Life]]:
    """Lives that can go on together: equally old, in blocks of one size."""
    found: dict[tuple[int, int], list[_Life]] = {}
    for life in lives:
        found.setdefault((life.first, life.population.block_size), []).append(life)
    return list(found.values())


def _live(cohort: list[_Life], num_steps: int, errors: dict[int, FloatingPointError]) -> None:
    """To the end, as one ensemble; errors of runs that diverge are added."""
    by_leaves: dict[tuple, list[_Life]] = {}
    for life in cohort:
        by_leaves.setdefault(life.leaves, []).append(life)
    twins, lead = list(by_leaves.values()), cohort[0]
    joined, seating = populations.join([some[0].population for some in twins])
    ensemble = seating.join([some[0].ensemble for some in twins])
    for life in cohort:
        life.ensemble = None  # what advances is consumed

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
                ensemble,
                joined.streams,
                joined.env_params,
                joined.rates,
                **joined.static,
                num_steps=num_steps - first,
                chunk_steps=chunk,
                keep_steps=wanted,
                # As many as one run alone would take: a program for more may round otherwise.
                devices=Blocks(seating.num_members, joined.block_size).mesh.devices.reshape(-1).tolist(),
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


def _begin_or_go_on(
    run: Run, population: populations.Population, num_steps: int, keeper: Keeper
) -> tuple[store.Writer, simulate.Ensemble, int]:
    """Where the histories go, the learners, and the updates that each had made before this run."""
    saved = keeper.load(population.name, functools.partial(_like, population))
    if saved is None:
        _remove_what_is_left(run, population.name)
        ensemble = _begin(run, population)
        return _writer(run, population, num_steps, None), ensemble, int(ensemble.clock.update)
    writer = _writer(run, population, num_steps, _position(saved))
    return writer, saved.tree["ensemble"], saved.facts["spent_before"]


def _like(population: populations.Population, facts: dict[str, Any]) -> dict[str, Any]:
    """What `_save_life` saves."""
    row_bytes = store.row_dtype(population.family.env.spec).itemsize
    rows = np.empty((population.num_learners, facts["waiting"] + 1, row_bytes), np.uint8)
    return {"ensemble": population.abstract(), "rows": rows}


def _position(saved: Save) -> tuple[int, np.ndarray]:
    """Where the histories were, for a `store.Writer` that goes on."""
    return saved.facts["written"], saved.tree["rows"][:, : saved.facts["waiting"]]


def _remove_what_is_left(run: Run, name: str) -> None:
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


def _writer(
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


# ---- one of several processes


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
            _live([life], num_steps, errors)
            for error in errors.values():
                raise error
            updates = life.td_updates
        total += sum(processes.exchange(f"{name} has lived", updates))
        if processes.is_first():
            store.join(run.path / "histories" / name)
    return total


def _begin_or_go_on_share(
    run: Run, keeper: Keeper, name: str, num_steps: int, *, is_done: bool
) -> _Life | None:
    """This process's share of a population; None where it has none, or has lived. All processes ask for it.

    The first one makes room and the store, the others then open it; a share of which nothing was saved begins anew in a
    store of which the others have written their parts.
    """
    everybody = populations.make(name, run.experiment)
    shares, index = everybody.shares(), processes.index()
    learners = shares[index]
    is_idle = is_done or not learners
    own = None if is_idle else everybody.members(np.array(learners))
    saved = None if own is None else keeper.load(name, functools.partial(_like, own))
    is_new = not any(processes.exchange(f"{name} begins", is_done or saved is not None))
    if is_new and processes.is_first():
        _remove_what_is_left(run, name)
    writer = None
    for is_turn in (processes.is_first(), not processes.is_first()):
        if is_turn and own is not None:
            row_bytes = store.row_dtype(own.family.env.spec).itemsize
            go_on = None if is_new else (0, np.empty((len(learners), 0, row_bytes), np.uint8))
            if saved is not None:
                go_on = _position(saved)
            cuts = [share.start for share in shares]
            writer = _writer(run, everybody, num_steps, go_on, cuts=cuts, part=index)
        processes.exchange(f"{name} has a store")
    if own is None or writer is None:
        return None
    ensemble = own.newborn() if saved is None else saved.tree["ensemble"]
    if saved is None and 0 in protocols.snapshot_steps(run.experiment, name):
        save_snapshot(run, name, 0, ensemble, learners)
    return _Life(
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
