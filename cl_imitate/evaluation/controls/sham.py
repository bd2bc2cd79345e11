"""The sham learner: histories with the learners' return curve, in which nobody learns.

Each recorded learner is kept as it was at some ages (its *stages*), weights alone. A sham history is lived in the
learner's task, with random numbers of its own, by these snapshots in turn: at every episode one of them acts, and no
weight ever changes. Which one is drawn by the real learners' stage distribution at that age: another learner is drawn,
how far it had come at that age is looked up (its return, as a share of its own way from the first stage to the last),
and of the stages next to the same share of this learner's way one is drawn, so that the expected return is that
share's. Draws are independent from episode to episode.

So at every age the returns are distributed as the real learners' are, and the mean return curve is theirs. But what is
done in an episode does not depend on what happened earlier in that history: what knowledge the snapshot has came from
another life, and the next episode may know less. An imitator of such histories can learn what there is to know of a
task, that it comes to be known with time, and to take up what a context shows; no rule that turns experience into
better actions is there to be imitated. What a real imitator gains beyond that is what may be called an imitated
learning rule. What this cannot show: that whatever a sham-trained imitator does is *not* learning. To repeat what was
seen to pay is a rule too, only not one that it was shown.

Axes: N learners, G stages, E episodes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from cl_imitate import config, keys, simulate
from cl_imitate.evaluation.controls import retrained
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.histories import contexts
from cl_imitate.learners.dqn import DQNHyperparams
from cl_imitate.populations import Population
from cl_imitate.progress import Tick
from cl_imitate.types import History


def stage_steps(experiment: config.Experiment) -> tuple[int, ...]:
    """The ages at which learners are kept: evenly spaced from 0 to the last fork, on the ends of chunks."""
    last, chunk_steps = experiment.recorded_steps, _chunk_steps(experiment)
    num = min(experiment.controls.sham_stages, last // chunk_steps + 1)
    ages = np.linspace(0, last, num)
    return tuple(sorted({round(age / chunk_steps) * chunk_steps for age in ages}))


def _chunk_steps(experiment: config.Experiment) -> int:
    boundaries = (experiment.recorded_steps, _episode_steps(experiment))
    at_most = min(
        experiment.simulation.chunk_steps, experiment.recorded_steps // experiment.controls.sham_stages
    )
    return simulate.chunk_plan(
        boundaries, experiment.learner, at_most=max(at_most, experiment.learner.steps_per_update)
    )


def snapshots(population: Population, ages: tuple[int, ...], *, chunk_steps: int, tick: Tick) -> Any:
    """The learners' weights at these ages, leaves [G, N, ...] on the host."""
    ensemble = population.newborn()
    kept_params = [jax.tree.map(np.asarray, ensemble.learner.params)]
    for kept, history in simulate.advance(
        ensemble,
        population.streams,
        population.env_params,
        population.rates,
        **population.static,
        num_steps=ages[-1],
        chunk_steps=chunk_steps,
        keep_steps=ages,
    ):
        tick(history.action.size)
        if kept is not None:
            kept_params.append(jax.tree.map(np.asarray, kept.learner.params))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *kept_params)


class _Acting:
    """A population in an environment of its own in which given weights act, and nothing is learned."""

    def __init__(self, population: Population, key: jax.Array, tick: Tick):
        own_keys = keys.members(key, population.num_learners)
        self._population, self._tick = population, tick
        self._streams = simulate.make_streams(own_keys)
        self._ensemble = simulate.init_ensemble(
            own_keys, population.env_params, env=population.family.env, dqn=population.dqn
        )

    def act(self, params: Any, num_steps: int, epsilon: Callable[[DQNHyperparams], Any] | None) -> History:
        """`num_steps` more steps by these weights, [N, num_steps] on the host.

        `epsilon`: of the learners' rates, if it is not to be as at the age that was lived here.
        """
        population, rates = self._population, self._population.rates
        if epsilon is not None:
            rates = rates.replace(epsilon_start=epsilon(rates), epsilon_end=epsilon(rates))
        learner = self._ensemble.learner.replace(params=jax.tree.map(jnp.asarray, params))
        [(ensemble, history)] = simulate.advance(
            self._ensemble.replace(learner=learner),
            self._streams,
            population.env_params,
            rates,
            **population.static,
            num_steps=num_steps,
            chunk_steps=num_steps,
            hold=True,
        )
        assert ensemble is not None
        self._ensemble = ensemble
        self._tick(history.action.size)
        return jax.tree.map(np.asarray, history)


def levels(population: Population, params: Any, key: jax.Array, *, num_steps: int, tick: Tick) -> np.ndarray:
    """Each stage's mean return when it acts for `num_steps` at the last epsilon, float [G, N]; NaN where no episode
    ended."""
    found = []
    for stage in range(jax.tree.leaves(params)[0].shape[0]):
        acting = _Acting(population, keys.member(key, stage), tick)
        history = acting.act(
            jax.tree.map(lambda x, i=stage: x[i], params), num_steps, lambda rates: rates.epsilon_end
        )
        blocks = BlockReturns((population.num_learners,), num_steps, num_steps)
        blocks.add(np.asarray(history.reward), np.asarray(history.terminated | history.truncated))
        found.append(blocks.mean[:, 0])
    return np.stack(found)


def draw_stages(
    stage_levels: np.ndarray, ages: np.ndarray, starts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Which stage acts in each episode, int [N, E].

    Args:
      stage_levels: [G, N], from `levels`. ages: [G], the stages' ages. starts: [E], the ages at episodes' starts.
    """
    share = np.stack([_share_of_way(column) for column in stage_levels.T], axis=1)
    num_learners = share.shape[1]
    other = rng.integers(num_learners, size=(num_learners, len(starts)))
    coins = rng.uniform(size=(2, *other.shape))
    stages = np.empty(other.shape, int)
    for i in range(num_learners):
        steps = np.unique(share[:, i])
        for e, start in enumerate(starts):
            target = np.interp(start, ages, share[:, other[i, e]])
            upper = int(np.searchsorted(steps, target))
            lower = max(upper - 1, 0)
            between = steps[upper] - steps[lower]
            is_upper = between <= 0 or coins[0, i, e] < (target - steps[lower]) / between
            members = np.flatnonzero(share[:, i] == steps[upper if is_upper else lower])
            stages[i, e] = members[int(coins[1, i, e] * len(members))]
    return stages


def _share_of_way(stage_levels: np.ndarray) -> np.ndarray:
    """How far a learner had come at each stage, [G] from 0 to 1: what never falls and fits its returns best.

    Where that tells nothing (it never came further), its age does.
    """
    num = len(stage_levels)
    seen = np.flatnonzero(np.isfinite(stage_levels))
    if len(seen) > 1:
        filled = np.interp(np.arange(num), seen, stage_levels[seen])
        fit = scipy.optimize.isotonic_regression(filled).x
        if fit[-1] > fit[0]:
            return (fit - fit[0]) / (fit[-1] - fit[0])
    return np.linspace(0.0, 1.0, num)


def sham_histories(
    population: Population, params: Any, stages: np.ndarray, key: jax.Array, *, episode_steps: int, tick: Tick
) -> History:
    """Histories [N, E * episode_steps] in which stage `stages[i, e]` of learner i acts in its e-th episode.

    Epsilon is that of the age; actions are random, as a learner's are, until its replay is filled.
    """
    acting, parts = _Acting(population, key, tick), []
    learners, warm_up = np.arange(population.num_learners), population.learner.learning_starts_steps
    for number, episode in enumerate(stages.T):
        at_random = (
            None if number * episode_steps >= warm_up else lambda rates: jnp.ones_like(rates.epsilon_end)
        )
        weights = jax.tree.map(lambda x, s=episode: x[s, learners], params)
        parts.append(acting.act(weights, episode_steps, at_random))
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


def _episode_steps(experiment: config.Experiment) -> int:
    """How long one snapshot acts: an episode, or about a block where episodes vary; it divides the recorded span."""
    fixed = getattr(experiment.environment, "episode_steps", None)
    return fixed or math.gcd(experiment.recorded_steps, experiment.evaluation.block_steps)


def make_histories(study: Study) -> tuple[History, np.ndarray]:
    """Sham histories of the recorded population, as long as theirs, and their stages [N, E]."""
    experiment, population = study.experiment, study.population("recorded")
    ages = stage_steps(experiment)
    key = keys.stream(keys.root(experiment.seed), keys.Stream.SHAM)
    params = snapshots(population, ages, chunk_steps=_chunk_steps(experiment), tick=study.tick)
    measured = levels(
        population,
        params,
        keys.member(key, 0),
        num_steps=experiment.controls.sham_level_steps,
        tick=study.tick,
    )
    episode = _episode_steps(experiment)
    starts = np.arange(0, experiment.recorded_steps, episode)
    rng = np.random.default_rng([experiment.seed, int(keys.Stream.SHAM)])
    stages = draw_stages(measured, np.array(ages), starts + 0.5 * episode, rng)
    made = sham_histories(
        population, params, stages, keys.member(key, 1), episode_steps=episode, tick=study.tick
    )
    return made, stages


def _forks(experiment: config.Experiment) -> tuple[int, ...]:
    evaluation = experiment.evaluation
    return tuple(sorted({evaluation.now_fork_step, evaluation.later_fork_step, experiment.recorded_steps}))


def _measure(study: Study) -> Arrays:
    made, _ = make_histories(study)
    thinned = contexts.thin(made, **contexts.thinning(study.experiment))
    altered = retrained.retrain(study, "sham", thinned, forks=_forks(study.experiment))
    return retrained.beside_real(study, "sham", altered) | {"sham_return": _curve(study.experiment, made)}


def _curve(experiment: config.Experiment, history: History) -> np.ndarray:
    """The mean return by block of steps, [K]."""
    blocks = BlockReturns(
        history.action.shape[:1], history.action.shape[1], experiment.evaluation.block_steps
    )
    blocks.add(np.asarray(history.reward), np.asarray(history.terminated | history.truncated))
    return np.nanmean(blocks.mean, axis=0)


def _answer(experiment: config.Experiment, arrays: Arrays) -> dict:
    words = retrained.Words(
        "sham histories, in which nobody learns",
        "having seen learning",
        "An imitator of lives in which nobody learned does as well: it has inferred the task and taken up what its "
        "context shows. No learning rule was imitated, as far as this can tell.",
    )
    curve = {"sham_return_by_block": np.round(arrays["sham_return"], 4)}
    return retrained.answer(experiment, arrays, words) | curve


def _work(experiment: config.Experiment) -> int:
    controls = experiment.controls
    lived = 2 * experiment.recorded_steps + controls.sham_stages * controls.sham_level_steps
    return lived * experiment.simulation.num_recorded + retrained.steps(experiment, forks=_forks(experiment))


CONTROL = Control(measure=_measure, answer=_answer, work=_work)
