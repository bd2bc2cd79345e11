"""Behavioural novelty: what is done after the fork that no training history holds.

A deed is a pair of an observation and an action. Known are the pairs of all histories that the imitators were trained
on, up to the fork, whatever the task. A learner that goes on improving comes to where none of them has been (as far as
there is somewhere: on a small Lock all pairs are soon known, and the figure says so); an imitator that goes on with it
must, too. Measured over LATER's horizon, on its own learners and keys.

What is new to one learner need not be new: among the recorded lives there may be some that had come, by the fork, to
where learners come later. How many had is told beside it (`shown`): LATER asks of what nobody was shown only where it
is near 0.

Pairs are told apart by 64 bits: of two different pairs among n known ones, one is taken for another with a chance of
about n / 2^64.
"""

import warnings
from typing import Any

import jax
import numpy as np

from cl_imitate import simulate, statistics
from cl_imitate.config import Experiment
from cl_imitate.evaluation import metrics, returns
from cl_imitate.evaluation.closed_loop import Record
from cl_imitate.evaluation.controls.scenes import later_scene, rows
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.scene import Count, Scene, again
from cl_imitate.histories import contexts
from cl_imitate.types import SymbolObservation

_FACTORS = np.random.default_rng(1).integers(0, 2**63, 1 << 12, dtype=np.uint64) * 2 + 1
_STEPS_AT_ONCE = 4096


def measure(study: Study) -> Arrays:
    """Shares of new pairs in each block, [1 or S, n, K], how many different ones over the horizon, [1 or S, n], and
    returns: of the learners in each block, [1, n, K], of the recorded ones at birth and before the fork, [1, N]."""
    experiment = study.experiment
    known = known_pairs(study)
    scene = later_scene(study, experiment.simulation.num_held_out)
    block, blocks = scene.block_steps, experiment.evaluation.later_steps // scene.block_steps
    learner = Seen(known, block, blocks)
    earned = returns.BlockReturns((1, scene.population.num_learners), blocks * block, block)
    for history in _lives(study, scene):
        learner.add(history.obs[None], history.action[None])
        earned.add(history.reward[None], (history.terminated | history.truncated)[None])
        study.tick(history.action.size)
    imitator = Seen(known, block, blocks)

    def watch(params: Any, record: Record) -> Any:
        imitator.add(np.asarray(record.obs), np.asarray(record.action))
        return params

    imitator_arms(
        scene,
        study.imitators[experiment.imitator.context_steps][scene.protocol.fork_step],
        ways=("imitator",),
        prompt_step=scene.protocol.prompt_step,
        num_steps=experiment.evaluation.later_steps,
        count=Count(),
        tick=study.tick,
        after_block=watch,
    )
    return {
        "task": scene.population.task,
        "num_known": np.array(len(known)),
        "num_possible": np.array(_num_possible(study)),
        "learner_share": learner.shares,
        "imitator_share": imitator.shares,
        "learner_distinct": learner.distinct,
        "imitator_distinct": imitator.distinct,
        "learner_returns": earned.mean,
        **_recorded_levels(study),
    }


def work(experiment: Experiment) -> int:
    """Steps of the learners and of the imitators."""
    streams = 1 + experiment.training.num_seeds
    return experiment.simulation.num_held_out * streams * experiment.evaluation.later_steps


def answer(experiment: Experiment, arrays: Arrays) -> dict[str, Any]:
    """The imitator's share of new deeds, beside the learner's."""
    rules, task = experiment.rules, arrays["task"]

    def interval(values: np.ndarray, other: np.ndarray | None = None) -> dict[str, Any]:
        found = statistics.estimate(
            _mean_difference,
            values,
            np.zeros((1, len(task))) if other is None else other,
            task=task,
            rng=np.random.default_rng([experiment.seed, 9]),
            samples=rules.bootstrap_samples,
        )
        return {"estimate": found.value, "ci95": found.interval(rules.confidence)}

    learner, imitator = (arrays[f"{arm}_share"].mean(axis=-1) for arm in ("learner", "imitator"))
    share = interval(learner)
    nothing_new = not share["estimate"] > 0
    shown = _shown(experiment, arrays)
    return {
        **interval(imitator),
        "unit": "share of the steps after the fork at which a pair of observation and action is in no training history",
        "meaning": (
            "The learner itself does nothing new after the fork: there is nothing to be compared."
            if nothing_new
            else "How much of what the imitator does after the fork was done in no training history, beside the "
            "learner's."
        )
        + _shown_in_words(shown),
        "shown": {"estimate": shown.value, "ci95": shown.interval(rules.confidence)},
        "void": nothing_new,
        "learner": share,
        "difference": interval(imitator, learner),
        "distinct_pairs": {
            "learner": interval(arrays["learner_distinct"]),
            "imitator": interval(arrays["imitator_distinct"]),
        },
        "num_known_pairs": int(arrays["num_known"]),
        "num_possible_pairs": int(arrays["num_possible"]) or None,  # of symbols; of screens nobody knows
        "curve": {
            "block_steps": experiment.evaluation.block_steps,
            "learner": arrays["learner_share"].mean(axis=(0, 1)),
            "imitator": arrays["imitator_share"].mean(axis=(0, 1)),
        },
    }


NOVELTY = Control(measure=measure, answer=answer, work=work)


def pairs(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Observations [..., its shape] and actions [...] as numbers, uint64 [...]."""
    lead = action.shape
    values = np.concatenate([obs.reshape(*lead, -1), action[..., None]], axis=-1).astype(
        np.uint64
    ) + np.uint64(1)
    if values.shape[-1] > len(_FACTORS):
        raise ValueError(
            f"an observation of {values.shape[-1] - 1} bytes; novelty reads at most {len(_FACTORS) - 1}"
        )
    mixed = (values * _FACTORS[: values.shape[-1]]).sum(axis=-1, dtype=np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ (mixed >> np.uint64(32))


def known_pairs(study: Study) -> np.ndarray:
    """The different pairs in what the imitators of LATER's fork were trained on, sorted, uint64 [.]."""
    experiment = study.experiment
    recorded = study.history("recorded")
    thinning = contexts.thinning(experiment)
    num = recorded.action.shape[0] - experiment.training.num_validation
    recorded = contexts.thin(recorded, **thinning)
    until = contexts.thinned_step(experiment.evaluation.later_fork_step, **thinning)
    found = [
        np.unique(
            pairs(np.asarray(recorded.obs[:num, first:last]), np.asarray(recorded.action[:num, first:last]))
        )
        for first in range(0, until, _STEPS_AT_ONCE)
        for last in (min(first + _STEPS_AT_ONCE, until),)
    ]
    return np.unique(np.concatenate(found))


def _recorded_levels(study: Study) -> Arrays:
    """Of the lives that the imitators of LATER's fork were trained on: their first return, and their last before it."""
    experiment, recorded = study.experiment, study.history("recorded")
    num = recorded.action.shape[0] - experiment.training.num_validation
    done, steps = np.asarray(recorded.terminated | recorded.truncated)[:num], experiment.evaluation.now_steps

    def level(end_step: int) -> np.ndarray:
        reward = np.asarray(recorded.reward)[:num]
        return returns.levels(reward, done, end_step=end_step, num_steps=steps)[None]

    fork = experiment.evaluation.later_fork_step
    return {
        "recorded_first": level(min(steps, fork)),
        "recorded_last": level(fork),
        "recorded_task": study.population("recorded").task[:num],
    }


def _shown(experiment: Experiment, arrays: Arrays) -> statistics.Estimate:
    """The share of the recorded lives that had come, before the fork, to where learners come after it: to within
    `rules.departure_margin` of their whole way. Nothing where they make none, or where no episode tells."""
    rules, earned = experiment.rules, arrays["learner_returns"]
    blocks = max(1, round(rules.reference_fraction * earned.shape[-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of learners that ended no episode there
        ends = np.nanmean(earned[..., -blocks:], axis=-1)
    end, start = (
        float(metrics.value_of(statistics.iqm, levels)) for levels in (ends, arrays["recorded_first"])
    )
    if not end > start:
        return statistics.nothing()
    last, level = arrays["recorded_last"], end - rules.departure_margin * (end - start)
    return statistics.estimate(
        lambda values: values.mean(axis=(-2, -1)),
        np.where(np.isfinite(last), (last >= level).astype(float), np.nan),
        task=arrays["recorded_task"],
        rng=np.random.default_rng([experiment.seed, 10]),
        samples=rules.bootstrap_samples,
    )


def _shown_in_words(shown: statistics.Estimate) -> str:
    if not np.isfinite(shown.value):
        return ""
    if not shown.value > 0:
        return " No recorded life had come by the fork to where learners come after it: nobody was shown it."
    return (
        f" Of the recorded lives, {100 * shown.value:.3g}% had come by the fork to where learners come after it: what "
        "these did there was shown."
    )


class Seen:
    """What streams [S, n] do, beside what is known.

    Attributes:
      shares: float [S, n, K] of new pairs in each block.
      distinct: int [S, n] of different new pairs, up to the last block's end.
    """

    def __init__(self, known: np.ndarray, block_steps: int, num_blocks: int):
        self._known, self._block_steps, self._num_blocks = known, block_steps, num_blocks
        self._left = num_blocks * block_steps
        self._is_new: list[np.ndarray] = []
        self._new: dict[tuple[int, int], set[int]] = {}

    def add(self, obs: np.ndarray, action: np.ndarray) -> None:
        """The next steps [S, n, T, ...] and [S, n, T]; those past the last block do not count."""
        obs, action = np.asarray(obs)[:, :, : self._left], np.asarray(action)[:, :, : self._left]
        self._left -= action.shape[-1]
        done = pairs(obs, action)
        at = np.minimum(np.searchsorted(self._known, done), len(self._known) - 1)
        is_new = self._known[at] != done
        self._is_new.append(is_new)
        for stream in np.ndindex(done.shape[:2]):
            self._new.setdefault(stream, set()).update(done[stream][is_new[stream]].tolist())

    @property
    def shares(self) -> np.ndarray:
        is_new = np.concatenate(self._is_new, axis=-1)
        return is_new.reshape(*is_new.shape[:2], self._num_blocks, self._block_steps).mean(axis=-1)

    @property
    def distinct(self) -> np.ndarray:
        found = np.zeros(self._is_new[0].shape[:2], np.int64)
        for stream, new in self._new.items():
            found[stream] = len(new)
        return found


def _lives(study: Study, scene: Scene):
    """The learners that go on, a chunk of their histories at a time: LATER's own arm, bit for bit."""
    population = scene.population
    begun = simulate.begin_episode(
        rows(scene.snapshot, np.arange(population.num_learners)),
        again(scene.reset_keys),
        population.env_params,
        env=population.family.env,
        dqn=population.dqn,
    )
    for _, history in simulate.advance(
        begun,
        population.streams.replace(env=scene.env_keys),
        population.env_params,
        population.rates,
        **population.static,
        num_steps=study.experiment.evaluation.later_steps,
        chunk_steps=scene.chunk_steps,
    ):
        yield jax.tree.map(np.asarray, history)


def _num_possible(study: Study) -> int:
    """How many pairs there are at most; 0: not countable."""
    observation = study.spec.observation
    return (
        observation.num_symbols * study.spec.num_actions if isinstance(observation, SymbolObservation) else 0
    )


def _mean_difference(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (values - other).mean(axis=(-2, -1))
