"""A run's training: what is read, and of each context length the imitators under way."""

import math
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
from cl_imitate.stages.artifacts import (
    best_imitator_path,
    by_fork,
    digests,
    imitator_keys,
    imitator_path,
    load_history,
)
from cl_imitate.stages.losses import Losses
from cl_imitate.stages.run import Run, chunk_steps, keeper_of
from cl_imitate.types import Spec


class Study:
    """The stage of one run; `share` of the time that it takes is its own."""

    def __init__(self, index: int, run: Run, *, share: float):
        run.folder.require("simulate")
        self.index, self.run = index, run
        self.spec = populations.make("recorded", run.experiment).family.env.spec
        self.keeper = keeper_of(run, "train", together=True)
        self.keeper.attempt.share = share
        run.folder.begin("train", goes_on=run.folder.goes_on("train"), attempt=self.keeper.attempt)
        self.source = self._source()
        self.curves: list[dict] = []
        self.trained: dict[int, dict] = {}
        self.best: dict[str, Any] = {}

    def _source(self) -> feeds.Stored | feeds.Streamed:
        experiment = self.run.experiment
        if experiment.training.feed == "store":
            recorded, held_out = (
                load_history(self.run, name, self.spec) for name in ("recorded", "held_out")
            )
            return feeds.Stored(experiment, recorded, held_out)
        held_out = (
            None if experiment.training.num_validation else load_history(self.run, "held_out", self.spec)
        )
        return feeds.Streamed(experiment, held_out, chunk_steps=chunk_steps(experiment))

    def is_done(self, context_steps: int) -> bool:
        """Whether the imitators of one context length were trained before; then they are read."""
        if (done := self.keeper.finished(f"context_{context_steps}")) is None:
            return False
        paths = imitator_path(self.run, context_steps), best_imitator_path(self.run, context_steps)
        imitator = make_imitator(self.run.experiment.imitator, self.spec, context_steps=context_steps)
        like = jax.eval_shape(jax.vmap(imitator.init), imitator_keys(self.run.experiment)[0])
        params, best = (checkpoint.load(path, like) for path in paths)
        if [frozen.digest(params), frozen.digest(best)] != done[1]["sha256"]:
            print(f"warning: {paths[0]} or {paths[1]} was altered: training again", file=sys.stderr)
            return False
        _restore(self.source, done[1])
        self.add(context_steps, params, done[1]["curves"], done[1]["best"])
        return True

    def add(self, context_steps: int, params: Any, curves: list[dict], best: dict[str, Any]) -> None:
        self.trained[context_steps] = by_fork(self.run.experiment, self.spec, context_steps, params)
        self.curves += curves
        self.best |= best

    def finish(self) -> None:
        run, experiment = self.run, self.run.experiment
        run.folder.write_json("losses.json", self.curves)
        price = cost.of(experiment.imitator, self.spec, context_steps=experiment.imitator.context_steps)
        run.folder.finish(
            "train",
            self.keeper.attempt,
            parameters=price.parameters,
            training_flops_per_step=price.training_flops,
            sha256=digests(self.trained),
            chosen_by=experiment.training.checkpoint_rule,
            best_imitators=self.best,
            best_history={str(fork): level for fork, level in self.source.best.items()},
            td_updates=self.source.td_updates,
        )


class Course:
    """The imitators of one context length of one run, in training."""

    def __init__(self, study: Study, context_steps: int):
        self.study, self.context_steps, self.part = study, context_steps, f"context_{context_steps}"
        experiment = study.run.experiment
        self.imitator = make_imitator(experiment.imitator, study.spec, context_steps=context_steps)
        self.member_keys, self.forks = imitator_keys(experiment)
        newborn = train.init_train_state(
            self.member_keys, imitator=self.imitator, training=experiment.training
        )
        self.state, self.losses = _begin_or_go_on(newborn, study.source, study.keeper, self.part)
        study.run.folder.forget_log(
            after_update=int(self.state.update), stage="train", context_steps=context_steps
        )

    @property
    def tokens(self) -> int:
        """Steps read in an update."""
        return len(self.forks) * self.study.run.experiment.training.batch_size * self.context_steps

    @property
    def work(self) -> int:
        """Steps that are left to be read or lived."""
        num_updates = self.study.run.experiment.training.num_updates
        left = 1.0 - int(self.state.update) / num_updates
        return round(left * (num_updates * self.tokens + self.study.source.steps_lived))

    def trainee(self, tick: progress.Tick) -> train.Trainee:
        source, experiment = self.study.source, self.study.run.experiment
        return train.Trainee(
            state=self.state,
            imitator_keys=self.member_keys,
            fork_steps=self.forks,
            feed=source.feed(tick, self.part),
            held_out=source.held_out,
            held_out_key=keys.stream(keys.root(experiment.seed), keys.Stream.BATCH),
            training=experiment.training,
        )

    def add(self, measured: train.Progress) -> None:
        self.losses.add(measured)
        self.study.run.folder.log(
            stage="train",
            context_steps=self.context_steps,
            update=measured.update,
            train_loss=float(measured.train_loss.mean()),
            held_out_loss=float(measured.held_out_loss.mean()),
        )

    def is_due(self, update: int) -> bool:
        is_last = update >= self.study.run.experiment.training.num_updates
        return not is_last and self.study.keeper.is_due_together(self.part, update)

    def save(self, update: int, state: train.TrainState) -> None:
        facts = {"updates": self.losses.updates, **_told(self.study.source)}
        kept = _own_copy(state)
        self.study.keeper.save(self.part, update, {"state": kept, "losses": self.losses.arrays}, facts)

    def finish(self, state: train.TrainState) -> None:
        study, experiment = self.study, self.study.run.experiment
        params, best_params = _own_copy((train.chosen_params(state, experiment.training), state.best_params))
        for path, tree in (
            (imitator_path(study.run, self.context_steps), params),
            (best_imitator_path(study.run, self.context_steps), best_params),
        ):
            if processes.is_first():
                shutil.rmtree(path, ignore_errors=True)
            processes.exchange("room for imitators")
            checkpoint.save(path, tree)
        floor = _loss_floor(experiment, study.spec)
        curves = self.losses.curves(experiment, self.context_steps, floor)
        best = self.losses.best(experiment, self.context_steps)
        sha256 = [frozen.digest(params), frozen.digest(best_params)]
        told = {"curves": curves, "best": best, "sha256": sha256, **_told(study.source)}
        study.keeper.finish(self.part, {}, told)
        study.add(self.context_steps, params, curves, best)


def _own_copy(tree: Any) -> Any:
    """What all processes of a job have in parts, whole in this one; they all ask for it."""
    return tree if processes.count() == 1 else sharding.on_host(tree)


def _loss_floor(experiment: config.Experiment, spec: Spec) -> float | None:
    """What no imitator's loss can fall below, as far as is known: the learner's greedy action known at every step.

    None where epsilon changes over a life (or rates did, at a fork), so that there is no one floor.
    """
    learner = experiment.learner
    has_changed = experiment.fork is not None and experiment.fork.rates_since > 0
    if learner.epsilon_start != learner.epsilon_end or has_changed:
        return None
    if experiment.imitator.shows("coin"):  # then only what a random action is stays hidden
        return learner.epsilon_end * math.log(spec.num_actions)
    return metrics.policy_entropy(learner.epsilon_end, spec.num_actions)


def _begin_or_go_on(
    newborn: train.TrainState, source: feeds.Stored | feeds.Streamed, keeper: Keeper, part: str
) -> tuple[train.TrainState, Losses]:
    num = newborn.best_loss.shape[0]

    def like(facts):
        updates = facts["updates"]
        shapes = {"train": (num, updates[-1]), "held_out": (num, len(updates))}
        losses = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        return {"state": newborn, "losses": losses}

    saved = keeper.load_together(part, like)
    if saved is None:
        return newborn, Losses([], np.zeros((num, 0), np.float32), np.zeros((num, 0), np.float32))
    _restore(source, saved.facts)
    losses = saved.tree["losses"]
    return saved.tree["state"], Losses(saved.facts["updates"], losses["train"], losses["held_out"])


def _told(source: feeds.Stored | feeds.Streamed) -> dict[str, Any]:
    """What a source has found out so far."""
    best = {str(fork): level for fork, level in source.best.items()}
    return {"best_history": best, "spent": dict(source.spent)}


def _restore(source: feeds.Stored | feeds.Streamed, told: dict[str, Any]) -> None:
    for fork, level in ((int(fork), level) for fork, level in told["best_history"].items()):
        source.best[fork] = float(np.fmax(level, source.best[fork])) if fork in source.best else level
    source.spent.update(told["spent"])
