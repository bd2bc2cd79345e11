"""The corridor's stages. Each reads what earlier ones left in the run folder and leaves its own there."""

import dataclasses
import functools
import json
import pathlib
import shutil
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
from cl_imitate.evaluation import frozen, metrics, protocols, results, rollouts, verdict
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.histories import contexts, store
from cl_imitate.imitators.make import make_imitator
from cl_imitate.keeper import Keeper, Schedule
from cl_imitate.run_dir import RunDir, open_run
from cl_imitate.types import History, Spec


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and its folder. `origin` is the folder of the config file, for the gate's path."""

    written: config.Experiment  # as the file and the overrides say
    folder: RunDir
    origin: pathlib.Path
    schedule: Schedule = dataclasses.field(
        default_factory=Schedule
    )  # when a stage saves what it can go on from

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


def _keeper(run: Run, stage: str) -> Keeper:
    return Keeper(run.folder.keeper_path(stage), run.schedule)


def _with_block_size(experiment: config.Experiment, size: int) -> config.Experiment:
    simulation = dataclasses.replace(experiment.simulation, block_size=size)
    return dataclasses.replace(experiment, simulation=simulation)


def open_stage_run(
    experiment: config.Experiment,
    path: pathlib.Path,
    origin: pathlib.Path,
    schedule: Schedule | None = None,
) -> Run:
    """The run of `experiment` in `path`, made or opened."""
    folder = open_run(
        path, fingerprint=load_config.fingerprint(experiment), config_text=load_config.dump(experiment)
    )
    return Run(experiment, folder, origin, schedule or Schedule())


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
    keeper = _keeper(run, "simulate")
    with run.folder.stage("simulate", goes_on=not keeper.is_empty) as facts:
        updates = [
            _simulate(run, name, num_steps, keeper)
            for name, num_steps in _recorded_steps(run.experiment).items()
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


def _simulate(run: Run, name: str, num_steps: int, keeper: Keeper) -> int:
    """One population's whole lives. Returns the updates that its learners made."""
    if done := keeper.finished(name):
        return done[1]["td_updates"]
    population = populations.make(name, run.experiment)
    writer, ensemble = _begin_or_go_on(run, population, num_steps, keeper)
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
            if kept is None:
                continue
            ensemble, step = kept, first + number * chunk
            if step in wanted.snapshots:
                _save_snapshot(run, name, step, ensemble)
            if step in wanted.due and step < num_steps:
                _save_life(keeper, name, step, ensemble, writer)
    writer.close()
    updates = int(ensemble.clock.update) * population.num_learners
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
) -> tuple[store.Writer, simulate.Ensemble]:
    spec, name = population.family.env.spec, population.name
    row_bytes = store.row_dtype(spec).itemsize

    def like(facts):
        rows = np.empty((population.num_learners, facts["waiting"] + 1, row_bytes), np.uint8)
        return {"ensemble": population.abstract(), "rows": rows}

    saved, go_on = keeper.load(name, like), None
    if saved is None:
        for left in (run.path / "histories" / name, _snapshot_path(run, name, 0).parent):
            shutil.rmtree(left, ignore_errors=True)
        ensemble = population.newborn()
        if 0 in protocols.snapshot_steps(run.experiment, name):
            _save_snapshot(run, name, 0, ensemble)
    else:
        ensemble = saved.tree["ensemble"]
        go_on = saved.facts["written"], saved.tree["rows"][:, : saved.facts["waiting"]]
    writer = store.Writer(
        run.path / "histories" / name,
        fingerprint=run.folder.fingerprint,
        spec=spec,
        num_learners=population.num_learners,
        num_steps=num_steps,
        learner_key_data=np.asarray(jax.random.key_data(population.learner_keys)),
        go_on=go_on,
    )
    return writer, ensemble


def _save_life(
    keeper: Keeper, name: str, step: int, ensemble: simulate.Ensemble, writer: store.Writer
) -> None:
    written, rows = writer.position
    facts = {"written": written, "waiting": rows.shape[1]}
    rows = np.pad(rows, ((0, 0), (0, 1), (0, 0)))  # never of no size
    keeper.save(name, step, {"ensemble": ensemble, "rows": rows}, facts)


def _snapshot_path(run: Run, name: str, step: int) -> pathlib.Path:
    return run.path / "checkpoints" / "learners" / name / f"step_{step}"


def _save_snapshot(run: Run, name: str, step: int, ensemble: simulate.Ensemble) -> None:
    path = _snapshot_path(run, name, step)
    shutil.rmtree(path, ignore_errors=True)  # a run that goes on comes by again
    checkpoint.save(path, ensemble)


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
    return open_stage_run(experiment, run.path / "gate", origin, run.schedule)


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
    keeper = _keeper(run, "train")
    with run.folder.stage("train", goes_on=not keeper.is_empty) as facts:
        source = _source(run, spec)
        curves: list[dict] = []
        trained = {}
        for context_steps in _contexts(experiment):
            params, rows = _train_context(run, spec, context_steps, source, keeper)
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
    run: Run, spec: Spec, context_steps: int, source: feeds.Stored | feeds.Streamed, keeper: Keeper
) -> tuple[Any, list[dict]]:
    """The chosen parameters [forks * seeds, ...] of one context length, and the curves of their losses."""
    experiment, training, part = run.experiment, run.experiment.training, f"context_{context_steps}"
    imitator = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    imitator_keys, forks = _imitator_keys(experiment)
    like = jax.eval_shape(jax.vmap(imitator.init), imitator_keys)
    if done := keeper.finished(part):
        params = checkpoint.load(_imitator_path(run, context_steps), like)
        if frozen.digest(params) == done[1]["sha256"]:
            _restore(source, done[1])
            return params, done[1]["curves"]
        print(f"warning: {_imitator_path(run, context_steps)} was altered: training again", file=sys.stderr)
    price = cost.of(experiment.imitator, spec, context_steps=context_steps)
    print(f"{len(forks)} imitators of context {context_steps}: {price} each", file=sys.stderr)
    held_out_key = keys.stream(keys.root(experiment.seed), keys.Stream.BATCH)
    tokens = len(forks) * training.batch_size * context_steps
    state, losses = _begin_or_go_on_training(
        train.init_train_state(imitator_keys, imitator=imitator, training=training), source, keeper, part
    )
    left = 1.0 - int(state.update) / training.num_updates
    work = round(left * (training.num_updates * tokens + source.steps_lived))
    with progress.bar(f"train context {context_steps}", work, "steps") as tick:
        for state, measured in train.fit(
            state,
            imitator_keys,
            forks,
            source.feed(tick, part),
            source.held_out,
            held_out_key,
            imitator=imitator,
            training=training,
            context_steps=context_steps,
            devices=source.train_devices,
        ):
            losses.add(measured)
            run.folder.log(
                stage="train",
                context_steps=context_steps,
                update=measured.update,
                train_loss=float(measured.train_loss.mean()),
                held_out_loss=float(measured.held_out_loss.mean()),
            )
            tick(measured.train_loss.shape[1] * tokens)
            if measured.update < training.num_updates and keeper.is_due(part, measured.update):
                facts = {"updates": losses.updates, **_told(source)}
                keeper.save(part, measured.update, {"state": state, "losses": losses.arrays}, facts)
    params = train.chosen_params(state, training)
    shutil.rmtree(_imitator_path(run, context_steps), ignore_errors=True)
    checkpoint.save(_imitator_path(run, context_steps), params)
    curves = losses.curves(experiment, context_steps, _loss_floor(experiment, spec))
    keeper.finish(part, {}, {"curves": curves, "sha256": frozen.digest(params), **_told(source)})
    return params, curves


def _loss_floor(experiment: config.Experiment, spec: Spec) -> float | None:
    """What no imitator's loss can fall below, as far as is known: the learner's greedy action known at every step.

    None where epsilon changes over a life, so that there is no one floor.
    """
    learner = experiment.learner
    if learner.epsilon_start != learner.epsilon_end:
        return None
    return metrics.policy_entropy(learner.epsilon_end, spec.num_actions)


class _Losses:
    """Of M imitators, as they are measured."""

    def __init__(self, updates: list[int], train_losses: np.ndarray, held_out: np.ndarray):
        """`train_losses`: [M, updates so far]. `held_out`: [M, len(updates)], measured after these updates."""
        self.updates, self._train, self._held_out = list(updates), [train_losses], [held_out]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        parts = {"train": self._train, "held_out": self._held_out}
        return {name: np.concatenate(some, axis=1) for name, some in parts.items()}

    def add(self, measured: train.Progress) -> None:
        self.updates.append(measured.update)
        self._train.append(measured.train_loss)
        self._held_out.append(measured.held_out_loss[:, None])

    def curves(self, experiment: config.Experiment, context_steps: int, floor: float | None) -> list[dict]:
        """One for each fork: what losses.json holds."""
        arrays, num_seeds = self.arrays, experiment.training.num_seeds
        losses, held = arrays["train"], arrays["held_out"]
        return [
            {
                "context_steps": context_steps,
                "fork_step": fork,
                "updates": list(range(1, losses.shape[1] + 1)),
                "train_loss": np.round(losses[index * num_seeds :][:num_seeds], 5).tolist(),
                "held_out_update": self.updates,
                "floor": floor,
                "held_out_loss": np.round(held[index * num_seeds :][:num_seeds], 5).tolist(),
            }
            for index, fork in enumerate(sorted(experiment.evaluation.fork_steps))
        ]


def _begin_or_go_on_training(
    newborn: train.TrainState, source: feeds.Stored | feeds.Streamed, keeper: Keeper, part: str
) -> tuple[train.TrainState, _Losses]:
    num = newborn.best_loss.shape[0]

    def like(facts):
        updates = facts["updates"]
        shapes = {"train": (num, updates[-1]), "held_out": (num, len(updates))}
        losses = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        return {"state": newborn, "losses": losses}

    saved = keeper.load(part, like)
    if saved is None:
        return newborn, _Losses([], np.zeros((num, 0), np.float32), np.zeros((num, 0), np.float32))
    _restore(source, saved.facts)
    losses = saved.tree["losses"]
    return saved.tree["state"], _Losses(saved.facts["updates"], losses["train"], losses["held_out"])


def _told(source: feeds.Stored | feeds.Streamed) -> dict[str, Any]:
    """What a source has found out so far."""
    return {"best": {str(fork): level for fork, level in source.best.items()}, "spent": dict(source.spent)}


def _restore(source: feeds.Stored | feeds.Streamed, told: dict[str, Any]) -> None:
    for fork, level in ((int(fork), level) for fork, level in told["best"].items()):
        source.best[fork] = float(np.fmax(level, source.best[fork])) if fork in source.best else level
    source.spent.update(told["spent"])


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
    keeper = _keeper(run, "evaluate")
    with run.folder.stage("evaluate", goes_on=not keeper.is_empty) as facts:
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
            cells += _run_cells(run, scene, imitators, count, keeper)
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


def _run_cells(
    run: Run, scene: rollouts.Scene, imitators: dict, count: rollouts.Count, keeper: Keeper
) -> list[results.Cell]:
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
        spent = {"count": count, "tick": tick, "keeper": keeper}
        learners = rollouts.learner_arms(scene, source_snapshot, **spent)
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
