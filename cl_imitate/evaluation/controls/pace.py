"""Pace: prompts from slower and faster learners at equal return. Does the imitator improve at their pace?

The held-out learners live again with their learning rate times some factors, in the same tasks with the same random
numbers. Each is the source of a prompt that ends where its return has come to the same level: a share of the way that
unchanged learners go over the recorded span (one level for all). So the prompts are about equally good, and differ in
how fast they became so. From there the learner goes on in its own life, and the imitator in closed loop, in a
newborn environment of the same task (which must not grow: `check_controls`), for equally many steps; the mean return
over these, less the level at the prompt's end, is how fast either improves.

The estimate is the slope of the imitator's improvement on the learner's, across factors: 1 where it follows, 0 where it
improves at a pace of its own. It is a slope of returns, not of their logarithms, because a slow learner may not improve
at all. Learners that do not come to the level with enough of their life left, at any of the factors, are left out at
all of them.
"""

import dataclasses

import jax
import numpy as np

from cl_imitate import config, simulate, statistics
from cl_imitate.evaluation import entries
from cl_imitate.evaluation.controls import gains, scenes
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.evaluation.scene import Count
from cl_imitate.histories import contexts
from cl_imitate.populations import Population
from cl_imitate.types import History


def horizon_steps(experiment: config.Experiment) -> int:
    """Over how many steps improvements are compared, in whole blocks."""
    block = experiment.evaluation.block_steps
    steps = experiment.controls.pace_steps or experiment.imitator.context_steps
    return -(-steps // block) * block


def window_steps(experiment: config.Experiment) -> int:
    """Over how many last steps a return is averaged: two episodes or more.

    Over more of them, single learners that have come further already are still held to be at the level.
    """
    episode = getattr(experiment.environment, "episode_steps", 1)
    return max(experiment.evaluation.now_steps, 2 * episode)


def way(experiment: config.Experiment, history: History) -> tuple[float, float]:
    """The returns between which unchanged learners improve, from their histories [n, T] over the recorded span."""
    span, steps = experiment.recorded_steps, window_steps(experiment)
    blocks = BlockReturns(history.action.shape[:1], span, steps)
    blocks.add(
        np.asarray(history.reward)[:, :span], np.asarray(history.terminated | history.truncated)[:, :span]
    )
    return float(np.nanmean(blocks.mean[:, 0])), float(np.nanmean(blocks.mean[:, -1]))


def prompt_ends(history: History, level: float, *, window: int, horizon: int) -> np.ndarray:
    """For each history [n, T] the first end of an episode, in steps, at which the mean return of the episodes that
    ended in the last `window` steps has come to `level`; 0 where that is never, or with under `horizon` steps left."""
    done = np.asarray(history.terminated | history.truncated)
    so_far = np.cumsum(np.asarray(history.reward, np.float64), axis=1)
    ends = np.zeros(len(done), int)
    for i in range(len(done)):
        steps = np.flatnonzero(done[i]) + 1
        returns = np.diff(so_far[i, steps - 1], prepend=0.0)
        for number, end in enumerate(steps):
            recent = (steps > end - window) & (steps <= end)
            if end >= window and returns[recent].mean() >= level:
                ends[i] = steps[number] if end + horizon <= done.shape[1] else 0
                break
    return ends


def returns_after(history: History, ends: np.ndarray, *, horizon: int) -> np.ndarray:
    """The mean return of the episodes that ended in the `horizon` steps after `ends`, [n]; NaN where that is 0."""
    found = np.full(len(ends), np.nan)
    for i, end in enumerate(ends):
        if end:
            blocks = BlockReturns((1,), horizon, horizon)
            steps = slice(end, end + horizon)
            done = np.asarray(history.terminated | history.truncated)[i : i + 1, steps]
            blocks.add(np.asarray(history.reward)[i : i + 1, steps], done)
            found[i] = blocks.mean[0, 0]
    return found


def at_rate(population: Population, factor: float) -> Population:
    """The same learners with another learning rate."""
    rates = population.rates.replace(learning_rate=population.rates.learning_rate * factor)
    return dataclasses.replace(population, rates=rates)


def live(study: Study, population: Population) -> History:
    """Whole histories of newborn learners, as long as the control asks for."""
    parts = []
    for _, history in simulate.advance(
        population.newborn(),
        population.streams,
        population.env_params,
        population.rates,
        **population.static,
        num_steps=study.experiment.controls.pace_lives * study.experiment.recorded_steps,
        chunk_steps=study.chunk_steps,
    ):
        parts.append(jax.tree.map(np.asarray, history))
        study.tick(history.action.size)
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


def _imitated(
    study: Study, population: Population, history: History, ends: np.ndarray, label: str
) -> np.ndarray:
    """The imitators' mean returns [S, n] in newborn environments, over the horizon after prompts that end at `ends`."""
    experiment, horizon = study.experiment, horizon_steps(study.experiment)
    step = experiment.recorded_steps
    protocol = Protocol(
        name="now_and_later",
        label=label,
        population="held_out",
        fork_step=step,
        prompt_step=step,
        learner_step=step,
        horizon_steps=horizon,
        now_steps=min(experiment.evaluation.now_steps, horizon),
        wiped=False,
    )
    scene = scenes.scene_of(
        study, protocol, population=population, snapshot=population.newborn(), past=history
    )
    thinning = contexts.thinning(experiment)
    own_ends = np.array([contexts.thinned_step(int(end), **thinning) for end in ends], np.int32)
    arms = imitator_arms(
        dataclasses.replace(scene, prompt_ends=own_ends),
        study.frozen,
        ways=("imitator",),
        prompt_step=step,
        num_steps=horizon,
        count=Count(),
        tick=study.tick,
        keeper=study.keeper,
    )
    return np.where(ends > 0, np.nanmean(arms.returns["imitator"], axis=-1), np.nan)


def _measure(study: Study) -> Arrays:
    experiment, unchanged = study.experiment, study.population("held_out")
    horizon, window = horizon_steps(experiment), window_steps(experiment)
    first, last = way(experiment, study.history("held_out"))
    level = first + experiment.controls.pace_share * (last - first)
    learner, imitator, at = [], [], []
    for factor in experiment.controls.pace_factors:
        population = at_rate(unchanged, factor)
        history = live(study, population)
        ends = prompt_ends(history, level, window=window, horizon=horizon)
        learner.append(returns_after(history, ends, horizon=horizon))
        imitator.append(_imitated(study, population, history, ends, f"pace {factor:g}"))
        at.append(ends)
    return {
        "task": unchanged.task,
        "level": np.array(level),
        "way": np.array(last - first),
        "ends": np.stack(at),
        "learner": np.stack(learner)[:, None],  # [G, 1, n]
        "imitator": np.stack(imitator),  # [G, S, n]
    }


def slope(*arms: np.ndarray) -> np.ndarray:
    """Of the imitator's returns on the learner's across G factors; arms `[..., S, n]`: G imitators, then G learners."""
    means = np.stack([statistics.iqm(arm) for arm in arms])
    imitator, learner = (part - part.mean(axis=0) for part in np.split(means, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (imitator * learner).sum(axis=0) / (learner**2).sum(axis=0)


def _answer(experiment: config.Experiment, arrays: Arrays) -> dict:
    rules, factors = experiment.rules, experiment.controls.pace_factors
    common = {"task": arrays["task"], "experiment": experiment}
    found = gains.estimate(slope, *arrays["imitator"], *arrays["learner"], label="pace", **common)
    slowest, fastest = int(np.argmin(factors)), int(np.argmax(factors))
    spread = gains.estimate(
        lambda fast, slow: statistics.iqm(fast - slow),
        arrays["learner"][fastest],
        arrays["learner"][slowest],
        label="pace of learners",
        **common,
    )
    way = float(arrays["way"])
    differ = way > 0 and gains.is_above(spread, rules.departure_margin * way, rules)
    none = {"estimate": np.nan, "ci95": (np.nan, np.nan)}
    by_factor = [
        {
            "factor": factor,
            "learner_gain": float(np.nanmean(arrays["learner"][g] - arrays["level"]))
            if ends.any()
            else np.nan,
            "imitator_gain": float(np.nanmean(arrays["imitator"][g] - arrays["level"]))
            if ends.any()
            else np.nan,
            "prompted_at_steps": float(np.median(ends[ends > 0])) if ends.any() else np.nan,
            "num_learners": int((ends > 0).sum()),
        }
        for g, (factor, ends) in enumerate(zip(factors, arrays["ends"], strict=True))
    ]
    return {
        **(entries.figure(found, rules) if differ else none),
        "unit": f"slope of the imitator's improvement over {horizon_steps(experiment)} steps on its learner's, across "
        "learning rates, at equal return",
        "meaning": _meaning(found, rules)
        if differ
        else "Learners of these rates do not surely differ, in how they improve after the prompt, by over "
        f"{rules.departure_margin:g} of all that they improve: there is nothing to follow.",
        "level": float(arrays["level"]),
        "learners_differ_by": entries.figure(spread, rules),
        "num_learners": found.num_learners,
        "factors": by_factor,
    }


def _meaning(found: statistics.Estimate, rules: config.Rules) -> str:
    if gains.is_above(found, rules.learns_yes, rules):
        return "At equal return, it improves faster after a faster learner's prompt: its pace follows the learner's."
    if gains.is_below(found, rules.learns_yes, rules):
        if gains.is_above(found, 0.0, rules):
            return f"At equal return, it follows the learner's pace, by less than {rules.learns_yes:g} of it."
        return "At equal return, it improves at a pace of its own, whatever the learner's was."
    return "Undecided: its pace may follow the learner's or not."


def _work(experiment: config.Experiment) -> int:
    lived = experiment.controls.pace_lives * experiment.recorded_steps
    acted = experiment.training.num_seeds * horizon_steps(experiment)
    return len(experiment.controls.pace_factors) * experiment.simulation.num_held_out * (lived + acted)


CONTROL = Control(measure=_measure, answer=_answer, work=_work)
