"""Test-time training: the imitator's weights unfrozen after the fork, and what that does to LATER.

At the later fork the imitator acts in closed loop as in LATER, but its training goes on: the horizon is acted in
rounds, and after each one its weights are updated on a stream as far as it has been lived. (a) The stream is that of
the held-out learner that goes on, from its birth to the age that was just reached, never beyond. (b) It is the
imitator's own: the learner's history up to the fork, and from there on what the imitator did itself. There is one copy
of the weights for each imitator seed, trained on the streams of all held-out learners. Updates are those of training
(`train.fit`) at a constant rate, with a new optimiser. Histories are whole: rounds end within episodes, and so far no
thinned history could go (`check_controls` refuses them).

The weights' hash must differ then; that it does shows that the hash by which the frozen arms are judged can tell.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, keys, statistics, train
from cl_imitate.evaluation import entries
from cl_imitate.evaluation.closed_loop import Frozen, Record
from cl_imitate.evaluation.controls import gains, scenes
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.frozen import digest
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.learner_arms import learner_arm
from cl_imitate.evaluation.scene import Count, Scene
from cl_imitate.types import History, empty_history

STREAMS = ("learner's stream", "own stream")


def training_of(experiment: config.Experiment) -> config.Training:
    """How weights are trained after the fork: as before it, at a constant rate."""
    controls, training = experiment.controls, experiment.training
    rate = controls.test_time_learning_rate or training.final_learning_rate
    return dataclasses.replace(
        training,
        learning_rate=rate,
        final_learning_rate=rate,
        warmup_updates=0,
        num_updates=controls.test_time_rounds * controls.test_time_updates,
        evaluate_every_updates=controls.test_time_updates,
        evaluate_windows=1,
        skip_ahead=0.0,  # MONTH is asked of frozen weights alone
    )


class Trainer(abc.ABC):
    """Trains S imitators between the blocks that they act, each on its own copy of the streams.

    Attributes:
      params: the weights as they are, [S, ...].
    """

    def __init__(self, experiment: config.Experiment, frozen: Frozen, num_blocks: int):
        self.params = frozen.params
        self._frozen, self._num_blocks, self._blocks = frozen, num_blocks, 0
        self._training, self._rounds = training_of(experiment), experiment.controls.test_time_rounds
        self._root = keys.stream(keys.root(experiment.seed), keys.Stream.TEST_TIME)
        newborn = train.init_train_state(
            keys.members(self._root, 1), imitator=frozen.imitator, training=self._training
        )
        self._states = [
            jax.tree.map(jnp.copy, newborn).replace(params=self._of_seed(seed))
            for seed in range(frozen.num_seeds)
        ]

    def _of_seed(self, seed: int) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[seed : seed + 1]), self.params)

    def lived(self, record: Record) -> None:
        """Told of every block that was acted; who trains on another's stream need not know."""
        del record

    @abc.abstractmethod
    def stream(self, seed: int) -> tuple[History, int]:
        """What is trained on now: histories [n, T], and how much of them has been lived."""

    @property
    def num_updates(self) -> int:
        """Made so far on each imitator."""
        return int(self._states[0].update)

    def after_block(self, params: Any, record: Record) -> Any:
        """What `imitator_arms` calls: trains where a round ends, but for the last one."""
        self.lived(record)
        self._blocks += 1
        rounds_before, rounds = (
            blocks * self._rounds // self._num_blocks for blocks in (self._blocks - 1, self._blocks)
        )
        if rounds == rounds_before or self._blocks == self._num_blocks:
            return params
        for seed in range(self._frozen.num_seeds):
            self._train(seed)
        trained = [state.params for state in self._states]
        self.params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *trained)
        return self.params

    def _train(self, seed: int) -> None:
        histories, end = self.stream(seed)
        self._states[seed], _ = next(
            train.fit(
                self._states[seed],
                keys.members(self._root, 1, first=seed),
                jnp.full(1, end, jnp.int32),
                lambda _: (histories, self._training.num_updates),
                histories,
                self._root,
                imitator=self._frozen.imitator,
                training=self._training,
                context_steps=self._frozen.context_steps,
            )
        )


class OnLearner(Trainer):
    """Trains on the streams of the learners that go on."""

    def __init__(self, study: Study, frozen: Frozen, num_blocks: int, fork_step: int, going_on: History):
        super().__init__(study.experiment, frozen, num_blocks)
        self._step, self._last = fork_step, fork_step + going_on.action.shape[1]
        self._whole = _joined(_until(study, fork_step), going_on)

    def lived(self, record: Record) -> None:
        self._step = min(self._step + record.action.shape[-1], self._last)

    def stream(self, seed: int) -> tuple[History, int]:
        del seed
        return self._whole, self._step


class OnOwn(Trainer):
    """Trains on what the imitators did themselves, after the learners' histories up to the fork."""

    def __init__(self, study: Study, frozen: Frozen, num_blocks: int, fork_step: int):
        super().__init__(study.experiment, frozen, num_blocks)
        past = _until(study, fork_step)
        num, self._step = past.action.shape
        room = empty_history(study.spec, (num, num_blocks * frozen.imitator.block_steps))
        self._whole = [_joined(past, room) for _ in range(frozen.num_seeds)]

    def lived(self, record: Record) -> None:
        steps = slice(self._step, self._step + record.action.shape[-1])
        for seed, history in enumerate(self._whole):
            for name, values in (
                ("obs", record.obs),
                ("action", record.action),
                ("reward", record.reward),
                ("truncated", record.done),
            ):
                np.asarray(getattr(history, name))[:, steps] = np.asarray(values)[seed]
        self._step = steps.stop

    def stream(self, seed: int) -> tuple[History, int]:
        return self._whole[seed], self._step


def _until(study: Study, step: int) -> History:
    return jax.tree.map(lambda x: x[:, :step], study.history("held_out"))


def _joined(first: History, then: History) -> History:
    return jax.tree.map(lambda *xs: np.concatenate([np.asarray(x) for x in xs], axis=1), first, then)


def _num_blocks(experiment: config.Experiment, frozen: Frozen) -> int:
    num = -(-experiment.evaluation.later_steps // frozen.imitator.block_steps)
    if num < 2:
        raise ValueError(
            f"test_time_training acts in blocks of {frozen.imitator.block_steps} steps and trains between them, and "
            f"evaluation.later_steps = {experiment.evaluation.later_steps} is a single one: lower "
            "imitator.refill_steps."
        )
    return num


def trainers(study: Study, scene: Scene, frozen: Frozen) -> dict[str, Trainer]:
    """One for each of `STREAMS`."""
    num_blocks, fork = _num_blocks(study.experiment, frozen), scene.protocol.fork_step
    going_on = learner_arm(
        scene,
        "learner, its history kept",
        num_steps=scene.protocol.horizon_steps,
        keeps_history=True,
        count=Count(),
        tick=study.tick,
        keeper=study.keeper,
    ).history
    assert going_on is not None
    made = OnLearner(study, frozen, num_blocks, fork, going_on), OnOwn(study, frozen, num_blocks, fork)
    return dict(zip(STREAMS, made, strict=True))


def _measure(study: Study) -> Arrays:
    fork = study.experiment.evaluation.later_fork_step
    protocol = scenes.at_fork(study.experiment, fork)
    frozen = study.imitators[study.frozen.context_steps][fork]
    cells = scenes.beside_learners(study, protocol, frozen=frozen)
    scene, later = scenes.scene_of(study, protocol), cells[-1]
    facts = {"sha256_before": np.array(digest(frozen.params))}
    for name, trainer in trainers(study, scene, frozen).items():
        arms = imitator_arms(
            scene,
            frozen,
            ways=("imitator",),
            prompt_step=protocol.prompt_step,
            num_steps=protocol.horizon_steps,
            count=Count(),
            tick=study.tick,
            after_block=trainer.after_block,
        )
        returns = {**later.returns, "imitator": arms.returns["imitator"]}
        cells.append(dataclasses.replace(later, name=later.name.replace("frozen", name, 1), returns=returns))
        facts[f"sha256_after {name}"] = np.array(digest(trainer.params))
        facts["updates"] = np.array(trainer.num_updates)
    return gains.keep(cells) | facts


def _answer(experiment: config.Experiment, arrays: Arrays) -> dict:
    rules = experiment.rules
    later = {cell.name.split(":")[0]: cell for cell in gains.kept(arrays) if cell.protocol == "later"}
    task = later["frozen"].task
    gained = {name: gains.later_gains(cell, experiment) for name, cell in later.items()}
    frozen, learner = gained["frozen"]
    common: dict[str, Any] = {"task": task, "experiment": experiment}
    shares = {
        name: gains.estimate(statistics.iqm_ratio, *pair, label=f"test time {name}", **common)
        for name, pair in gained.items()
    }
    more = {
        name: gains.estimate(
            gains.difference_of_shares, gained[name][0], frozen, learner, label=f"more {name}", **common
        )
        for name in STREAMS
    }
    if "updates" not in arrays:
        raise ValueError(
            "test_time_training was measured by an earlier revision, which did not keep how many updates it made. "
            "Make it again: `cl-imitate control --again --run-dir RUN`"
        )
    before = str(arrays["sha256_before"])
    after = {name: str(arrays[f"sha256_after {name}"]) for name in STREAMS}
    return {
        **entries.figure(more[STREAMS[0]], rules),
        "passed": all(one != before for one in after.values()),
        "unit": "share of the learner's gain in LATER: imitator trained on, on the stream of the learner that goes on, "
        "less the frozen one",
        "meaning": f"{_taught(more[STREAMS[0]], rules)} {_by_itself(more[STREAMS[1]], rules)}",
        "own_stream": entries.figure(more[STREAMS[1]], rules),
        "later_ratio": {name: entries.figure(found, rules) for name, found in shares.items()},
        "updates": int(arrays["updates"]),
        "sha256_before": before,
        "sha256_after": after,
    }


def _taught(more: statistics.Estimate, rules: config.Rules) -> str:
    """Of the learner's stream: what training would have been shown, had recording gone on."""
    low, high = more.interval(rules.confidence)
    if low > 0:
        return "Taught on what its learner goes on to live, it improves by more than frozen: being shown more helps."
    if high < 0:
        return "Taught on what its learner goes on to live, it improves by less than frozen: so few updates do harm."
    return "Taught on what its learner goes on to live, it improves by not surely more or less than frozen."


def _by_itself(more: statistics.Estimate, rules: config.Rules) -> str:
    """Of its own stream: nobody shows it anything."""
    low, high = more.interval(rules.confidence)
    said = f"Taught on what it lives itself ({more.value:.2f} [{low:.2f}, {high:.2f}])"
    if low > 0:
        return f"{said}, it improves by more than frozen, too: that is learning on by itself."
    if high < 0:
        return f"{said}, it improves by less than frozen: to predict its own actions makes nobody better."
    return f"{said}, it improves by not surely more or less than frozen."


def _work(experiment: config.Experiment) -> int:
    protocol = scenes.at_fork(experiment, experiment.evaluation.later_fork_step)
    streams = 1 + len(STREAMS) * experiment.training.num_seeds
    more = streams * protocol.horizon_steps * experiment.simulation.num_held_out
    return scenes.steps_beside_learners(experiment, protocol, kinds=1) + more


CONTROL = Control(measure=_measure, answer=_answer, work=_work)
