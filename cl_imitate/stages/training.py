"""The stage in which imitators are trained on recorded histories."""

import shutil
import sys
from typing import Any

import jax
import numpy as np

from cl_imitate import (
    checkpoint,
    config,
    cost,
    feeds,
    keys,
    populations,
    processes,
    progress,
    sharding,
    train,
)
from cl_imitate.evaluation import frozen, metrics
from cl_imitate.imitators.make import make_imitator
from cl_imitate.keeper import Keeper
from cl_imitate.stages.artifacts import by_fork, digests, imitator_keys, imitator_path, load_history
from cl_imitate.stages.run import Run, chunk_steps, contexts_of, keeper_of
from cl_imitate.types import Spec


def train_stage(run: Run) -> None:
    """Train every imitator on the recorded histories, from before its fork only."""
    run.folder.require("simulate")
    experiment = run.experiment
    spec = populations.make("recorded", experiment).family.env.spec
    keeper = keeper_of(run, "train", together=True)
    with run.folder.stage("train") as facts:
        source = _source(run, spec)
        curves: list[dict] = []
        trained = {}
        for context_steps in contexts_of(experiment):
            params, rows = _train_context(run, spec, context_steps, source, keeper)
            trained[context_steps] = by_fork(experiment, spec, context_steps, params)
            curves += rows
        run.folder.write_json("losses.json", curves)
        price = cost.of(experiment.imitator, spec, context_steps=experiment.imitator.context_steps)
        facts["parameters"], facts["training_flops_per_step"] = price.parameters, price.training_flops
        facts["sha256"] = digests(trained)
        facts["best_history"] = {str(fork): level for fork, level in source.best.items()}
        facts["td_updates"] = source.td_updates


def _source(run: Run, spec: Spec) -> feeds.Stored | feeds.Streamed:
    experiment = run.experiment
    if experiment.training.feed == "store":
        recorded, held_out = (load_history(run, name, spec) for name in ("recorded", "held_out"))
        return feeds.Stored(experiment, recorded, held_out)
    held_out = None if experiment.training.num_validation else load_history(run, "held_out", spec)
    return feeds.Streamed(experiment, held_out, chunk_steps=chunk_steps(experiment))


def _train_context(
    run: Run, spec: Spec, context_steps: int, source: feeds.Stored | feeds.Streamed, keeper: Keeper
) -> tuple[Any, list[dict]]:
    """The chosen parameters [forks * seeds, ...] of one context length, and the curves of their losses."""
    experiment, training, part = run.experiment, run.experiment.training, f"context_{context_steps}"
    imitator = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    member_keys, forks = imitator_keys(experiment)
    like = jax.eval_shape(jax.vmap(imitator.init), member_keys)
    if done := keeper.finished(part):
        params = checkpoint.load(imitator_path(run, context_steps), like)
        if frozen.digest(params) == done[1]["sha256"]:
            _restore(source, done[1])
            return params, done[1]["curves"]
        print(f"warning: {imitator_path(run, context_steps)} was altered: training again", file=sys.stderr)
    price = cost.of(experiment.imitator, spec, context_steps=context_steps)
    if processes.is_first():
        print(f"{len(forks)} imitators of context {context_steps}: {price} each", file=sys.stderr)
    held_out_key = keys.stream(keys.root(experiment.seed), keys.Stream.BATCH)
    tokens = len(forks) * training.batch_size * context_steps
    state, losses = _begin_or_go_on_training(
        train.init_train_state(member_keys, imitator=imitator, training=training), source, keeper, part
    )
    left = 1.0 - int(state.update) / training.num_updates
    work = round(left * (training.num_updates * tokens + source.steps_lived))
    with progress.bar(f"train context {context_steps}", work, "steps") as tick:
        for state, measured in train.fit(
            state,
            member_keys,
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
            if measured.update < training.num_updates and keeper.is_due_together(part, measured.update):
                facts = {"updates": losses.updates, **_told(source)}
                kept = state if processes.count() == 1 else sharding.on_host(state)
                keeper.save(part, measured.update, {"state": kept, "losses": losses.arrays}, facts)
    params = train.chosen_params(state, training)
    if processes.count() > 1:
        params = sharding.on_host(params)
    if processes.is_first():
        shutil.rmtree(imitator_path(run, context_steps), ignore_errors=True)
    processes.exchange("room for the imitators")
    checkpoint.save(imitator_path(run, context_steps), params)
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

    saved = keeper.load_together(part, like)
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
