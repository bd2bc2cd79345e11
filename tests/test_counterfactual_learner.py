"""A learner fed another's stream: exactly itself on its own, and near to who moves as learning moves."""

import functools

import jax
import numpy as np
import pytest

from cl_imitate.evaluation.controls import counterfactual_learner as counterfactual
from cl_imitate.evaluation.controls import scenes
from cl_imitate.evaluation.learner_arms import learner_arm
from cl_imitate.evaluation.scene import Count
from tests import hand_made, studies

pytestmark = pytest.mark.unoptimised

HERE = (
    "simulation.num_held_out=24",
    "evaluation.fork_steps=[32,128]",
    "evaluation.later_fork_step=32",
    "evaluation.later_steps=128",
)
ONE, TWO = (studies.experiment(*HERE, f"training.num_seeds={num}") for num in (1, 2))


def scene():
    return scenes.scene_of(studies.study(ONE), scenes.at_fork(ONE, 32))


@functools.cache
def found(kind: hand_made.Kind) -> dict:
    study = studies.study(ONE, hand_made.imitator(kind))
    return counterfactual.CONTROL.answer(ONE, counterfactual.CONTROL.measure(study))


@functools.cache
def followed_itself():
    """A learner that goes on, and the same one fed its actions, learning and held."""
    one, spent = scene(), {"count": Count(), "tick": studies.nothing}
    own = learner_arm(one, "learner", num_steps=64, keeps_history=True, **spent).history
    assert own is not None
    fed = [counterfactual.follow(one, own.action, hold=hold, tick=studies.nothing) for hold in (False, True)]
    return own, *fed


def test_fed_its_own_actions_a_learner_lives_and_learns_what_it_would_have():
    own, learning, held = followed_itself()
    for name in ("obs", "reward", "truncated"):
        np.testing.assert_array_equal(getattr(learning.history, name), getattr(own, name))
        np.testing.assert_array_equal(getattr(held.history, name), getattr(own, name))
    greedy = ~own.explored
    np.testing.assert_array_equal(learning.policy.argmax(axis=-1)[greedy], own.action[greedy])
    assert (held.policy.argmax(axis=-1)[greedy] != own.action[greedy]).mean() > 0.02  # it did change since


def test_a_held_one_has_one_policy_for_each_observation():
    own, learning, held = followed_itself()

    def changes(followed):
        best = followed.policy.argmax(axis=-1)
        return sum(
            len(np.unique(best[i][own.obs[i] == symbol])) > 1 for i in range(24) for symbol in range(4)
        )

    assert changes(held) == 0
    assert changes(learning) > 4


def test_the_stream_that_is_fed_is_the_one_that_the_imitator_lived():
    one, frozen = scene(), studies.study(TWO, hand_made.imitator("climber")).frozen
    actions, rewards, log_probs = counterfactual.imitators_stream(
        one, frozen, num_steps=64, tick=studies.nothing
    )
    assert log_probs.shape == (2, 24, 64, 5)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, rtol=1e-5)
    for action, reward in zip(actions, rewards, strict=True):
        fed = counterfactual.follow(one, action, hold=True, tick=studies.nothing)
        np.testing.assert_array_equal(fed.history.reward, reward)
        np.testing.assert_array_equal(fed.history.action, action)
    assert (actions[0] != actions[1]).any()


def test_an_imitator_that_moves_as_learning_moves_ends_near_the_learner_that_learns():
    assert found("climber")["over_held"]["ci95"][1] < 0
    assert "it has moved as learning moves" in found("climber")["meaning"]
    assert found("climber")["estimate"] < 0


def test_an_imitator_that_stays_what_its_learner_was_is_left_behind():
    assert found("habit")["ci95"][0] > 0
    assert "grows" in found("habit")["meaning"]
    assert found("habit")["over_held"]["estimate"] > 0.3
    assert abs(found("habit")["growth_of_held"]["estimate"]) < 0.1


def test_the_divergence_is_the_one_of_kullback_and_leibler():
    policy = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    log_probs = np.log(np.array([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]]))
    expected = [0.5 * np.log(2), np.log(4)]
    np.testing.assert_allclose(counterfactual.divergence(policy, log_probs), expected)
    assert counterfactual.divergence(policy, np.log(np.maximum(policy, 1e-9)))[0] == pytest.approx(0.0)
    assert jax.tree.structure(followed_itself()[1]) == jax.tree.structure(followed_itself()[2])
