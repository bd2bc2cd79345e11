"""Two controls in which histories lose something: the order of their episodes, or their rewards.

An imitator of shuffled histories can still learn what there is to know of a task from a context, but has never seen
that later episodes are better. Nor that they end high: at every age such histories return what a life returns on
average. So what an imitator of them lacks is counted beside what they reach themselves. (In PROCESS, both kinds read
their own stream, which is in order.) An imitator with masked rewards is trained, prompted and let act without ever
reading one; where what it observes shows the reward, as on a ring that moves on when the action was right, little is
hidden by this.
"""

import functools

import jax
import numpy as np

from cl_imitate import config
from cl_imitate.evaluation.controls import retrained
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.imitators.base import Imitator
from cl_imitate.types import History, StepTokens


def shuffle_episodes(history: History, order: config.EpisodeOrder, seed: int) -> History:
    """The same episodes of each history [N, T] in another order; what follows the last whole episode stays there.

    "random": history i by the i-th of the generators that `seed` makes. "reversed": the last one first.
    """
    done = np.asarray(history.terminated | history.truncated)
    index = np.tile(np.arange(done.shape[1]), (done.shape[0], 1))
    for i, ends in enumerate(done):
        episodes = np.split(index[i], np.flatnonzero(ends) + 1)
        whole, rest = episodes[:-1], episodes[-1]
        if order == "reversed":
            places = np.arange(len(whole))[::-1]
        else:
            places = np.random.default_rng([seed, i]).permutation(len(whole))
        index[i] = np.concatenate([*(whole[place] for place in places), rest])
    rows = np.arange(len(index))[:, None]
    return jax.tree.map(lambda values: np.asarray(values)[rows, index], history)


@functools.cache
def without_rewards(imitator: Imitator) -> Imitator:
    """The same network, which reads 0 for every reward."""

    def masked(tokens: StepTokens) -> StepTokens:
        return tokens.replace(prev_reward=jax.numpy.zeros_like(tokens.prev_reward))

    return imitator._replace(
        logits=lambda params, tokens, key: imitator.logits(params, masked(tokens), key),
        prompt=lambda params, memory, tokens, is_there: imitator.prompt(
            params, memory, masked(tokens), is_there
        ),
        act=lambda params, memory, tokens: imitator.act(params, memory, masked(tokens)),
    )


def _measure_shuffled(study: Study) -> Arrays:
    experiment = study.experiment
    real = retrained.recorded_histories(study)
    histories = shuffle_episodes(real, experiment.controls.episode_order, experiment.seed)
    altered = retrained.retrain(study, "shuffled", histories, forks=_forks(experiment))
    return retrained.beside_real(study, "shuffled", altered) | retrained.data_levels(study, histories, real)


def _measure_reward_masked(study: Study) -> Arrays:
    altered = retrained.retrain(
        study,
        "reward_masked",
        retrained.recorded_histories(study),
        forks=_forks(study.experiment),
        imitator=without_rewards(study.frozen.imitator),
    )
    return retrained.beside_real(study, "reward_masked", altered)


def _forks(experiment: config.Experiment) -> tuple[int, ...]:
    return (experiment.recorded_steps,)


def _work(experiment: config.Experiment) -> int:
    return retrained.steps(experiment, forks=_forks(experiment))


def _answer_shuffled(experiment: config.Experiment, arrays: Arrays) -> dict:
    words = {
        "random": retrained.Words(
            "histories whose episodes were shuffled",
            "the order of a learner's episodes",
            "An imitator that never saw a learner improve from episode to episode does as well: it infers what there "
            "is to know of a task, and imitates no course of learning.",
        ),
        "reversed": retrained.Words(
            "histories whose episodes were reversed",
            "the order of a learner's episodes",
            "An imitator that only ever saw learners get worse does as well: it infers what there is to know of a "
            "task, and imitates no course of learning.",
        ),
    }[experiment.controls.episode_order]
    return retrained.answer(experiment, arrays, words)


def _answer_reward_masked(experiment: config.Experiment, arrays: Arrays) -> dict:
    words = retrained.Words(
        "histories whose rewards were masked",
        "the rewards that it reads",
        "The imitator does as well without reading any reward: observations and actions tell it all that it uses.",
    )
    return retrained.answer(experiment, arrays, words)


SHUFFLED = Control(measure=_measure_shuffled, answer=_answer_shuffled, work=_work)
REWARD_MASKED = Control(measure=_measure_reward_masked, answer=_answer_reward_masked, work=_work)
