"""The stage in which frozen imitators act beside the learners that go on."""

import functools
import pathlib

import jax
import numpy as np

from cl_imitate import populations, processes, progress
from cl_imitate.evaluation import protocols, results, rollouts
from cl_imitate.evaluation.learner_arms import learner_arms
from cl_imitate.evaluation.scene import Count, Scene, make_scene
from cl_imitate.histories import contexts
from cl_imitate.keeper import Keeper
from cl_imitate.stages.artifacts import (
    digests,
    load_frozen,
    load_history,
    load_snapshot,
    recorded_steps,
)
from cl_imitate.stages.run import Run, chunk_steps, contexts_of, keeper_of
from cl_imitate.types import History


def evaluate_stage(run: Run) -> None:
    """Every protocol's arms side by side, the imitators' weights frozen (hashed before and after).

    Each process of a job runs all arms of its own share of the learners, and the first one joins what they did.
    """
    run.folder.require("train")
    experiment = run.experiment
    count = Count()
    keeper = keeper_of(run, "evaluate")
    with run.folder.stage(
        "evaluate", goes_on=run.folder.goes_on("evaluate"), attempt=keeper.attempt
    ) as facts:
        sources = {name: populations.make(name, experiment) for name in recorded_steps(experiment)}
        spec = sources["held_out"].family.env.spec
        past = {name: load_history(run, name, spec) for name in sources if name != "recorded"}
        best = {
            int(fork): level for fork, level in run.folder.manifest["stages"]["train"]["best_history"].items()
        }
        past = {
            name: contexts.thin(history, **contexts.thinning(experiment)) for name, history in past.items()
        }
        imitators = {context: load_frozen(run, spec, context) for context in contexts_of(experiment)}
        before = digests(imitators)
        if before != run.folder.manifest["stages"]["train"]["sha256"]:
            raise ValueError(
                f"{run.path / 'checkpoints' / 'imitators'}: the weights are not those that this run trained (their "
                "SHA-256 differs). Train again: `cl-imitate train --again` with this --run-dir."
            )
        cells = []
        rung_index = 0
        for index, protocol in enumerate(protocols.protocols(experiment)):
            if protocol.rung is not None:
                population = populations.on_rung(experiment, protocol.rung, rung_index)
                source, rung_index = sources["held_out"], rung_index + 1
            else:
                population = source = sources[protocol.population]
            learners = population.own_share()
            if not learners:
                _read_with_the_others(run, protocol, population, source)
                continue
            own = population if processes.count() == 1 else population.members(np.array(learners))
            if protocol.rung is not None:
                snapshot = own.newborn()
            else:
                snapshot = load_snapshot(run, population, protocol.learner_step, learners)
            scene = make_scene(
                protocol,
                index,
                experiment,
                own,
                snapshot,
                source,
                _some(past.get(source.name), learners),
                chunk_steps=chunk_steps(experiment),
                best_history=best[protocol.fork_step],
                past_step=functools.partial(contexts.thinned_step, **contexts.thinning(experiment)),
                first=learners.start,
            )
            cells += _run_cells(run, scene, imitators, count, keeper)
        cells, count = _of_all_processes(run, cells, count)
        after = {name: " and ".join(sorted(count.acted.get(name, {"never acted"}))) for name in before}
        if processes.is_first():
            results.save_cells(
                run.path / "evaluation" / "cells.npz", cells, fingerprint=run.folder.fingerprint
            )
        facts["frozen"] = {"sha256_before": before, "sha256_after": after}
        facts["td_updates"] = count.td_updates
        facts["imitator_steps"] = count.imitator_steps
        facts["seconds_per_step"] = count.seconds_per_step


def _read_with_the_others(
    run: Run, protocol: protocols.Protocol, population: populations.Population, source: populations.Population
) -> None:
    """A process that has none of a protocol's learners reads the snapshots that all read together."""
    one = range(1)
    if protocol.rung is None:
        load_snapshot(run, population, protocol.learner_step, one)
    if protocol.transplant:
        load_snapshot(run, source, run.experiment.recorded_steps, one)


def _some(past: History | None, learners: range) -> History | None:
    return jax.tree.map(lambda x: x[learners.start : learners.stop], past)


def _of_all_processes(run: Run, cells: list[results.Cell], count: Count) -> tuple[list[results.Cell], Count]:
    """What all processes did, for the first one; each hands its cells over as a file."""
    if processes.count() == 1:
        return cells, count
    folder, fingerprint = run.path / "evaluation", run.folder.fingerprint

    def part(process: int) -> pathlib.Path:
        return folder / f"cells_of_process_{process}.npz"

    results.save_cells(part(processes.index()), cells, fingerprint=fingerprint)
    acted = {name: sorted(hashes) for name, hashes in count.acted.items()}
    told = processes.exchange("cells", [count.td_updates, count.imitator_steps, acted])
    if not processes.is_first():
        return cells, count
    files = [part(process) for process in range(processes.count())]
    joined = results.join([results.load_cells(file, fingerprint=fingerprint) for file in files])
    for file in files:
        file.unlink()
    return joined, Count(
        timed=count.timed,
        td_updates=sum(updates for updates, _, _ in told),
        imitator_steps=sum(steps for _, steps, _ in told),
        acted={name: {one for _, _, acted in told for one in acted.get(name, ())} for name in told[0][2]},
    )


def _run_cells(run: Run, scene: Scene, imitators: dict, count: Count, keeper: Keeper) -> list[results.Cell]:
    protocol, experiment = scene.protocol, run.experiment
    last_fork = experiment.recorded_steps
    source_snapshot = None
    if protocol.transplant:
        own = range(scene.first, scene.first + scene.population.num_learners)
        source_snapshot = load_snapshot(run, scene.source, last_fork, None if processes.count() == 1 else own)
    num, seeds = scene.population.num_learners, experiment.training.num_seeds
    arms = 2 + protocol.wiped + protocol.masked + protocol.transplant
    line = scene.population.family.knows_window_line  # of one seed
    streams = (arms * seeds + line) * len(imitators) + protocol.goes_on + protocol.transplant
    held_steps = protocol.horizon_steps if protocol.held_whole else protocol.now_steps
    total = num * (streams * protocol.horizon_steps + held_steps)
    with progress.bar(f"evaluate {protocol.label}", total, "steps") as tick:
        spent = {"count": count, "tick": tick, "keeper": keeper}
        learners = learner_arms(scene, source_snapshot, **spent)
        cells = []
        for by_fork in imitators.values():
            cells += rollouts.run_protocol(
                scene,
                learners,
                by_fork[protocol.fork_step],
                source_step=last_fork,
                **spent,
            )
    return cells
