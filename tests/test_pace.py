"""Prompts of slow and fast learners at equal return: who follows their pace, and who has one of its own."""

import functools

import numpy as np
import pytest

from cl_imitate.evaluation.controls import pace
from cl_imitate.types import History
from tests import hand_made, studies, synthetic

pytestmark = pytest.mark.unoptimised

ONE = studies.experiment(
    "simulation.num_held_out=48",
    "controls.pace_lives=3",
    "controls.pace_steps=32",
    "training.num_seeds=1",
    "controls.pace_share=0.5",
)


@functools.cache
def found(kind: hand_made.Kind) -> dict:
    study = studies.study(ONE, hand_made.imitator(kind))
    return pace.CONTROL.answer(ONE, pace.CONTROL.measure(study))


def test_an_imitator_that_follows_is_told_from_one_with_a_pace_of_its_own():
    assert found("follower")["estimate"] > found("climber")["estimate"] + 0.2


def test_faster_learners_are_prompted_earlier_at_the_same_level():
    factors = found("climber")["factors"]
    at = [one["prompted_at_steps"] for one in factors]
    assert at[0] > at[1] > at[2]
    assert all(one["num_learners"] > 20 for one in factors)


def history(returns: list[list[float]]) -> History:
    """Episodes of 4 steps, all of the return in the last one."""
    reward = np.zeros((len(returns), 4 * len(returns[0])), np.int8)
    reward[:, 3::4] = returns
    done = reward * 0 == 1
    done[:, 3::4] = True
    return History(
        obs=reward.astype(np.uint8),
        action=reward.astype(np.uint8),
        reward=reward,
        terminated=done & False,
        truncated=done,
        explored=done,
    )


def test_a_prompt_ends_with_the_first_episode_at_which_the_last_ones_have_come_to_the_level():
    lives = history(
        [[9, 0, 0, 4, 6, 5, 9, 9, 9], [0, 0, 0, 0, 0, 0, 5, 5, 5], [0] * 9, [5, 5, 5, 5, 5, 5, 5, 5, 5]]
    )
    ends = pace.prompt_ends(lives, 5.0, window=8, horizon=8)
    assert ends.tolist() == [
        20,
        0,
        0,
        8,
    ]  # the first is good once, by chance; the second too late; the third never
    np.testing.assert_allclose(pace.returns_after(lives, ends, horizon=8), [7.0, np.nan, np.nan, 5.0])


def test_the_level_is_a_share_of_the_way_of_unchanged_learners():
    study = studies.study(ONE)
    returns = np.asarray(study.history("held_out").reward, float).reshape(48, -1, 8).sum(axis=-1)
    expected = returns[:, :4].mean(), returns[:, -4:].mean()
    assert pace.way(ONE, study.history("held_out")) == pytest.approx(expected, rel=1e-5)
    level = pace.CONTROL.measure(study)["level"]
    assert level == pytest.approx(0.5 * sum(expected), rel=1e-5)


def arrays(imitator: list[float], learner: list[float], noise: float = 0.3) -> dict:
    rng = np.random.default_rng(0)
    return {
        "task": np.arange(40),
        "level": np.array(5.0),
        "way": np.array(10.0),
        "ends": np.full((3, 40), 64),
        "learner": np.array(learner)[:, None, None] + noise * rng.standard_normal((3, 1, 40)),
        "imitator": np.array(imitator)[:, None, None] + noise * rng.standard_normal((3, 3, 40)),
    }


@pytest.mark.parametrize(
    ("imitator", "learner", "slope", "meaning"),
    [
        ([5.5, 7.0, 9.0], [5.5, 7.0, 9.0], 1.0, "its pace follows the learner's"),
        ([8.0, 8.0, 8.0], [5.5, 7.0, 9.0], 0.0, "at a pace of its own"),
        ([6.2, 7.0, 8.0], [5.5, 7.0, 9.0], 0.51, "its pace may follow"),
        ([6.55, 7.0, 7.6], [5.5, 7.0, 9.0], 0.3, "less than 0.5 of it"),
        ([5.0, 7.0, 9.0], [7.0, 7.0, 7.0], None, "nothing to follow"),
        ([5.0, 7.0, 9.0], [6.6, 7.0, 7.4], None, "nothing to follow"),  # surely, and by too little
    ],
)
def test_the_slope_says_whether_it_follows(imitator, learner, slope, meaning):
    found = pace.CONTROL.answer(synthetic.experiment(), arrays(imitator, learner))
    assert meaning in found["meaning"]
    still = pace.CONTROL.answer(synthetic.experiment(), arrays(imitator, learner) | {"way": np.array(-10.0)})
    assert "nothing to follow" in still["meaning"]
    if slope is None:
        assert np.isnan(found["estimate"])
    else:
        assert found["estimate"] == pytest.approx(slope, abs=0.12)
        assert found["ci95"][0] < slope < found["ci95"][1]
