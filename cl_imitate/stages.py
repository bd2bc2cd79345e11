"""The corridor's stages. Each reads what earlier ones left in the run folder and leaves its own there."""

import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import (
    block_size,
    checkpoint,
    config,
    cost,
    feeds,
    keys,
    load_config,
    populations,
    progress,
    simulate,
    train,
)
from cl_imitate.envs import tasks
from cl_imitate.evaluation import frozen, protocols, results, rollouts, verdict
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.histories import contexts, store
from cl_imitate.imitators.make import make_imitator
from cl_imitate.run_dir import RunDir, open_run
from cl_imitate.types import History, Spec


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and its folder. `origin` is the folder of the config file, for the gate's path."""

    written: config.Experiment  # as the file and the overrides say
    folder: RunDir
    origin: pathlib.Path

    @property
    def experiment(self) -> config.Experiment:
        """The configuration, with a block size that was measured in this folder in the place of "auto"."""
        if self.written.simulation.block_size != "auto":
            return self.written
        measured = self.folder.manifest.get("block_size")
        return _with_block_size(self.written, measured["picked"]) if measured else self.written

    @property
    def path(self) -> pathlib.Path:
        return self.folder.path


def _with_block_size(experiment: config.Experiment, size: int) -> config.Experiment:
    simulation = dataclasses.replace(experiment.simulation, block_size=size)
    return dataclasses.replace(experiment, simulation=simulation)


def open_stage_run(experiment: config.Experiment, path: pathlib.Path, origin: pathlib.Path) -> Run:
    """The run of `experiment` in `path`, made or opened."""
    folder = open_run(
        path, fingerprint=load_config.fingerprint(experiment), config_text=load_config.dump(experiment)
    )
    return Run(experiment, folder, origin)


def chunk_steps(experiment: config.Experiment) -> int:
    """Env steps in one compiled chunk."""
    return simulate.chunk_plan(
        protocols.boundary_steps(experiment),
        experiment.learner,
        at_most=experiment.simulation.chunk_steps,
    )


def check_runnable(experiment: config.Experiment, origin: pathlib.Path) -> None:
    """Raises ValueError for what only building can tell: sizes that do not fit, variants that do not apply.

    `origin` is the config file's folder, where the gate's experiment is looked for first.
    """
    chunk_steps(experiment)
    own = tasks.make(experiment.environment, shapes=experiment.shapes)
    tasks.make(experiment.environment, shapes=experiment.shapes, split="held_out")
    for context_steps in _contexts(experiment):
        make_imitator(experiment.imitator, own.env.spec, context_steps=context_steps)
    if not has_own_gate(experiment):
        check_runnable(*_gate_experiment(experiment, origin))
    for index, rung in enumerate(experiment.evaluation.rungs):
        family = tasks.make(
            rung.environment or experiment.environment,
            shapes=experiment.shapes,
            variants=rung.variants,
            split=rung.split,
        )
        is_symmetry = rung.variants == ("permute_actions",) and isinstance(
            rung.environment or experiment.environment, config.Lock | config.Bandit
        )
        if is_symmetry and rung.rung not in ("0", "1"):
            raise ValueError(
                f"evaluation.rungs[{index}] ({rung.name}): permuted actions make just another task of this family. "
                "Call it rung 1, or choose another variant."
            )
        if family.env.spec.observation != own.env.spec.observation:
            raise ValueError(
                f"evaluation.rungs[{index}] ({rung.name}): its observations are {family.env.spec.observation}, the "
                f"imitator's {own.env.spec.observation}. A rung must stay among symbols or among screens."
            )


# ---- simulate


def simulate_stage(run: Run) -> None:
    """Record every population's whole history, and keep the snapshots that the protocols start from."""
    if run.experiment.simulation.block_size == "auto":
        _pick_block_size(run)
    with run.folder.stage("simulate") as facts:
        updates = [
            _simulate(run, name, num_steps) for name, num_steps in _recorded_steps(run.experiment).items()
        ]
        facts["td_updates"] = sum(updates)


def _pick_block_size(run: Run) -> None:
    population = populations.make("recorded", _with_block_size(run.written, 1))
    size, rates = block_size.choose(population, chunk_steps=chunk_steps(run.written))
    measured = {str(tried): round(rate) for tried, rate in rates.items()}
    run.folder.note(block_size={"picked": size, "steps_per_second": measured})


def _recorded_steps(experiment: config.Experiment) -> dict[str, int]:
    """How long each population is recorded: up to its last snapshot or prompt."""
    steps = {"recorded": experiment.recorded_steps, "held_out": experiment.recorded_steps}
    if experiment.training.feed == "stream":
        del steps["recorded"]  # they are made when they are trained on
    if experiment.evaluation.months:
        steps["held_out_train_tasks"] = max(protocols.snapshot_steps(experiment, "held_out_train_tasks"))
    return steps


def _simulate(run: Run, name: str, num_steps: int) -> int:
    experiment = run.experiment
    population = populations.make(name, experiment)
    writer = store.Writer(
        run.path / "histories" / name,
        fingerprint=run.folder.fingerprint,
        spec=population.family.env.spec,
        num_learners=population.num_learners,
        num_steps=num_steps,
        learner_key_data=np.asarray(jax.random.key_data(population.learner_keys)),
    )
    wanted = set(protocols.snapshot_steps(experiment, name))
    ensemble = population.newborn()
    chunk = chunk_steps(experiment)
    if 0 in wanted:
        _save_snapshot(run, name, 0, ensemble)
    label = f"simulate {name.replace('_', ' ')}"
    with progress.bar(label, population.num_learners * num_steps, "steps") as tick:
        for step, (kept, history) in enumerate(
            simulate.advance(
                ensemble,
                population.streams,
                population.env_params,
                population.rates,
                **population.static,
                num_steps=num_steps,
                chunk_steps=chunk,
                keep_steps=wanted,
            ),
            start=1,
        ):
            if kept is not None:
                ensemble = kept
                if step * chunk in wanted:
                    _save_snapshot(run, name, step * chunk, ensemble)
            writer.append(jax.tree.map(np.asarray, history))
            tick(history.action.size)
    writer.close()
    return int(ensemble.clock.update) * population.num_learners


def _snapshot_path(run: Run, name: str, step: int) -> pathlib.Path:
    return run.path / "checkpoints" / "learners" / name / f"step_{step}"


def _save_snapshot(run: Run, name: str, step: int, ensemble: simulate.Ensemble) -> None:
    checkpoint.save(_snapshot_path(run, name, step), ensemble)


def _load_snapshot(run: Run, population: populations.Population, step: int) -> simulate.Ensemble:
    return checkpoint.load(_snapshot_path(run, population.name, step), population.abstract())


def _load_history(run: Run, name: str, spec: Spec) -> History:
    path = run.path / "histories" / name
    return store.open_store(path, fingerprint=run.folder.fingerprint, spec=spec).read()


# ---- gate


def gate_stage(run: Run) -> None:
    """Run the experiment that shows that this instrument can see a yes, inside this run's folder."""
    if has_own_gate(run.experiment):
        raise ValueError(
            'gate.experiment = "self": the gate is this run\'s own PROCESS, and there is nothing to run for it.'
        )
    with run.folder.stage("gate") as facts:
        gate = _gate_run(run)
        run_all(gate, stop_after="evaluate")
        done = gate.folder.manifest["stages"]
        facts["fingerprint"] = gate.folder.fingerprint
        facts["frozen"] = done["evaluate"]["frozen"]
        facts["td_updates"] = sum(one.get("td_updates", 0) for one in done.values())


def _gate_run(run: Run) -> Run:
    experiment, origin = _gate_experiment(run.experiment, run.origin)
    return open_stage_run(experiment, run.path / "gate", origin)


def _gate_experiment(
    experiment: config.Experiment, origin: pathlib.Path
) -> tuple[config.Experiment, pathlib.Path]:
    """The gate's experiment with the run's seed, and the folder of its file."""
    path = load_config.find(experiment.gate.experiment, beside=origin)
    return load_config.load(path, overrides=(f"seed={experiment.seed}",)), path.parent


def has_own_gate(experiment: config.Experiment) -> bool:
    """Whether the gate is this run's own PROCESS from an empty context."""
    return experiment.gate.experiment == "self"


# ---- train


def _contexts(experiment: config.Experiment) -> tuple[int, ...]:
    return (experiment.imitator.context_steps, *experiment.imitator.also_context_steps)


def _imitator_keys(experiment: config.Experiment) -> tuple[jax.Array, jax.Array]:
    """Keys [M] and forks [M] (in steps of what they read) of all imitators of one context length: forks outermost.

    A seed's imitators share their initialisation and batches over forks; only their data differ.
    """
    root = keys.stream(keys.root(experiment.seed), keys.Stream.IMITATOR)
    seeds = keys.members(root, experiment.training.num_seeds)
    forks = [
        contexts.thinned_step(fork, **contexts.thinning(experiment))
        for fork in sorted(experiment.evaluation.fork_steps)
    ]
    return (
        seeds[jnp.tile(jnp.arange(len(seeds)), len(forks))],
        jnp.repeat(jnp.array(forks, jnp.int32), experiment.training.num_seeds),
    )


def train_stage(run: Run) -> None:
    """Train every imitator on the recorded histories, from before its fork only."""
    run.folder.require("simulate")
    experiment = run.experiment
    spec = populations.make("recorded", experiment).family.env.spec
    with run.folder.stage("train") as facts:
        source = _source(run, spec)
        curves, trained = [], {}
        for context_steps in _contexts(experiment):
            params, rows = _train_context(run, spec, context_steps, source)
            checkpoint.save(_imitator_path(run, context_steps), params)
            trained[context_steps] = _by_fork(experiment, spec, context_steps, params)
            curves += rows
        run.folder.write_json("losses.json", curves)
        price = cost.of(experiment.imitator, spec, context_steps=experiment.imitator.context_steps)
        facts["parameters"], facts["training_flops_per_step"] = price.parameters, price.training_flops
        facts["sha256"] = _digests(trained)
        facts["best_history"] = {str(fork): level for fork, level in source.best.items()}
        facts["td_updates"] = source.td_updates


def _source(run: Run, spec: Spec) -> feeds.Stored | feeds.Streamed:
    experiment = run.experiment
    if experiment.training.feed == "store":
        recorded, held_out = (_load_history(run, name, spec) for name in ("recorded", "held_out"))
        return feeds.Stored(experiment, recorded, held_out)
    held_out = None if experiment.training.num_validation else _load_history(run, "held_out", spec)
    return feeds.Streamed(experiment, held_out, chunk_steps=chunk_steps(experiment))


def _imitator_path(run: Run, context_steps: int) -> pathlib.Path:
    return run.path / "checkpoints" / "imitators" / f"context_{context_steps}"


def _train_context(
    run: Run, spec: Spec, context_steps: int, source: feeds.Stored | feeds.Streamed
) -> tuple[Any, list[dict]]:
    experiment, training = run.experiment, run.experiment.training
    imitator = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    imitator_keys, forks = _imitator_keys(experiment)
    price = cost.of(experiment.imitator, spec, context_steps=context_steps)
    print(f"{len(forks)} imitators of context {context_steps}: {price} each", file=sys.stderr)
    state = train.init_train_state(imitator_keys, imitator=imitator, training=training)
    held_out_key = keys.stream(keys.root(experiment.seed), keys.Stream.BATCH)
    tokens = len(forks) * training.batch_size * context_steps
    updates, train_losses, held_out_losses = [], [], []
    work = training.num_updates * tokens + source.steps_lived
    with progress.bar(f"train context {context_steps}", work, "steps") as tick:
        for state, measured in train.fit(
            state,
            imitator_keys,
            forks,
            source.feed(tick),
            source.held_out,
            held_out_key,
            imitator=imitator,
            training=training,
            context_steps=context_steps,
            devices=source.train_devices,
        ):
            updates.append(measured.update)
            train_losses.append(measured.train_loss)
            held_out_losses.append(measured.held_out_loss)
            run.folder.log(
                stage="train",
                context_steps=context_steps,
                update=measured.update,
                train_loss=float(measured.train_loss.mean()),
                held_out_loss=float(measured.held_out_loss.mean()),
            )
            tick(measured.train_loss.shape[1] * tokens)
    losses = np.concatenate(train_losses, axis=1)
    held = np.stack(held_out_losses, axis=1)
    rows = []
    for index, fork in enumerate(sorted(experiment.evaluation.fork_steps)):
        seeds = slice(index * training.num_seeds, (index + 1) * training.num_seeds)
        rows.append(
            {
                "context_steps": context_steps,
                "fork_step": fork,
                "updates": list(range(1, losses.shape[1] + 1)),
                "train_loss": np.round(losses[seeds], 5).tolist(),
                "held_out_update": updates,
                "held_out_loss": np.round(held[seeds], 5).tolist(),
            }
        )
    return train.chosen_params(state, training), rows


# ---- evaluate


def _load_frozen(run: Run, spec: Spec, context_steps: int) -> dict[int, Frozen]:
    """The trained imitators of one context length, by fork."""
    imitator = make_imitator(run.experiment.imitator, spec, context_steps=context_steps)
    imitator_keys, _ = _imitator_keys(run.experiment)
    like = jax.eval_shape(jax.vmap(imitator.init), imitator_keys)
    params = checkpoint.load(_imitator_path(run, context_steps), like)
    return _by_fork(run.experiment, spec, context_steps, params)


def _by_fork(experiment: config.Experiment, spec: Spec, context_steps: int, params: Any) -> dict[int, Frozen]:
    """Parameters [forks * seeds, ...] as imitators, by fork."""
    imitator = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    seeds = experiment.training.num_seeds
    return {
        fork: Frozen(
            imitator=imitator,
            context_steps=context_steps,
            params=jax.tree.map(lambda leaf, i=index: leaf[i * seeds : (i + 1) * seeds], params),
            num_seeds=seeds,
        )
        for index, fork in enumerate(sorted(experiment.evaluation.fork_steps))
    }


def evaluate_stage(run: Run) -> None:
    """Every protocol's arms side by side, the imitators' weights frozen (hashed before and after)."""
    run.folder.require("train")
    experiment = run.experiment
    count = rollouts.Count()
    with run.folder.stage("evaluate") as facts:
        sources = {name: populations.make(name, experiment) for name in _recorded_steps(experiment)}
        spec = sources["held_out"].family.env.spec
        past = {name: _load_history(run, name, spec) for name in sources if name != "recorded"}
        best = {
            int(fork): level for fork, level in run.folder.manifest["stages"]["train"]["best_history"].items()
        }
        past = {
            name: contexts.thin(history, **contexts.thinning(experiment)) for name, history in past.items()
        }
        imitators = {context: _load_frozen(run, spec, context) for context in _contexts(experiment)}
        before = _digests(imitators)
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
                snapshot = population.newborn()
            else:
                population = source = sources[protocol.population]
                snapshot = _load_snapshot(run, population, protocol.learner_step)
            scene = rollouts.make_scene(
                protocol,
                index,
                experiment,
                population,
                snapshot,
                source,
                past.get(source.name),
                chunk_steps=chunk_steps(experiment),
                best_history=best[protocol.fork_step],
                past_step=functools.partial(contexts.thinned_step, **contexts.thinning(experiment)),
            )
            cells += _run_cells(run, scene, imitators, count)
        after = {name: " and ".join(sorted(count.acted.get(name, {"never acted"}))) for name in before}
        results.save_cells(run.path / "evaluation" / "cells.npz", cells, fingerprint=run.folder.fingerprint)
        facts["frozen"] = {"sha256_before": before, "sha256_after": after}
        facts["td_updates"] = count.td_updates
        facts["imitator_steps"] = count.imitator_steps


def _digests(imitators: dict[int, dict[int, Frozen]]) -> dict[str, str]:
    return {
        rollouts.frozen_name(context, fork): frozen.digest(imitator.params)
        for context, by_fork in imitators.items()
        for fork, imitator in by_fork.items()
    }


def _run_cells(run: Run, scene: rollouts.Scene, imitators: dict, count: rollouts.Count) -> list[results.Cell]:
    protocol, experiment = scene.protocol, run.experiment
    last_fork = experiment.recorded_steps
    source_snapshot = None
    if protocol.transplant:
        source_snapshot = _load_snapshot(run, scene.source, last_fork)
    num, seeds = scene.population.num_learners, experiment.training.num_seeds
    arms = 2 + protocol.wiped + protocol.masked + protocol.transplant
    streams = arms * seeds * len(imitators) + protocol.goes_on + protocol.transplant
    total = num * (streams * protocol.horizon_steps + protocol.now_steps)
    with progress.bar(f"evaluate {protocol.label}", total, "steps") as tick:
        learners = rollouts.learner_arms(scene, source_snapshot, count=count, tick=tick)
        cells = []
        for by_fork in imitators.values():
            cells += rollouts.run_protocol(
                scene,
                learners,
                by_fork[protocol.fork_step],
                source_step=last_fork,
                count=count,
                tick=tick,
            )
    return cells


# ---- report


def report_stage(run: Run) -> dict[str, Any]:
    """The verdict and the page; needs no accelerator. Returns the verdict."""
    from cl_imitate import report  # here: the plotting library is slow to import and no other stage needs it

    run.folder.require("evaluate")
    experiment, fingerprint = run.experiment, run.folder.fingerprint
    gate_cells = None
    if not has_own_gate(experiment):
        run.folder.require("gate")
        gate = _gate_run(run)
        gate_cells = results.load_cells(
            gate.path / "evaluation" / "cells.npz", fingerprint=gate.folder.fingerprint
        )
    with run.folder.stage("report"):
        cells = results.load_cells(run.path / "evaluation" / "cells.npz", fingerprint=fingerprint)
        manifest = run.folder.manifest
        stages = manifest["stages"]
        decided = verdict.decide(
            experiment,
            cells,
            fingerprint=fingerprint,
            frozen=stages["evaluate"]["frozen"],
            seconds={name: facts["seconds"] for name, facts in stages.items()},
            td_steps=sum(facts.get("td_updates", 0) for facts in stages.values()),
            imitator_steps=stages["evaluate"]["imitator_steps"],
            gate_cells=gate_cells,
            gate_facts=stages.get("gate"),
        )
        run.folder.write_json("verdict.json", decided)
        report.write(
            run.path,
            experiment=experiment,
            cells=cells,
            gate_cells=gate_cells,
            verdict=decided,
            manifest=manifest,
            loss_curves=json.loads((run.path / "losses.json").read_text()),
        )
    return decided


# ---- all


STAGE_FUNCTIONS = {
    "simulate": simulate_stage,
    "gate": gate_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}


def run_all(run: Run, *, stop_after: str = "report") -> None:
    """Every stage that has not finished in this folder, in order."""
    for name, stage in STAGE_FUNCTIONS.items():
        if name == "gate" and has_own_gate(run.experiment):
            continue
        if not run.folder.is_done(name):
            stage(run)
        if name == stop_after:
            return
