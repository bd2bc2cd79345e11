"""Known pairs by hand, and the whole control on the floor's small Lock."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from cl_imitate import config, load_config
from cl_imitate.evaluation.controls import novelty
from tests.test_floor import SMOKE, experiment, make_study

pytestmark = pytest.mark.unoptimised


def test_a_pair_is_known_by_its_observation_and_its_action_and_by_nothing_else():
    obs = np.array([[1, 2], [2, 1], [1, 2]], np.uint8)
    found = novelty.pairs(obs, np.array([3, 3, 4], np.uint8))
    assert len(set(found.tolist())) == 3
    assert novelty.pairs(obs[:1], np.array([3], np.uint8)) == found[0]


def test_pairs_of_random_screens_do_not_meet():
    rng = np.random.default_rng(0)
    screens = np.unique(rng.integers(0, 256, (20_000, 13), dtype=np.uint8), axis=0)
    assert len(np.unique(novelty.pairs(screens, np.zeros(len(screens), np.uint8)))) == len(screens)


def test_shares_and_distinct_pairs_are_those_counted_by_hand():
    known = np.unique(novelty.pairs(np.array([0, 0, 1], np.uint8), np.array([0, 1, 0], np.uint8)))
    seen = novelty.Seen(known, block_steps=2, num_blocks=2)
    obs = np.array([[[0, 1, 1, 1, 9], [0, 0, 0, 0, 9]]], np.uint8)
    action = np.array([[[0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]], np.uint8)
    seen.add(obs[..., :3], action[..., :3])
    seen.add(obs[..., 3:], action[..., 3:])  # the fifth step lies past the last block
    np.testing.assert_array_equal(seen.shares, [[[0.5, 0.5], [0, 0]]])
    np.testing.assert_array_equal(seen.distinct, [[1, 0]])


@pytest.fixture(scope="module")
def study() -> Any:
    """The recorded history is the held-out one, of which symbol 0 was never acted at by action 0."""
    made = make_study(experiment())
    history = made.history("held_out")
    recorded = history.replace(action=np.where((history.obs == 0) & (history.action == 0), 1, history.action))
    return dataclasses.replace(made, history=lambda name: recorded if name == "recorded" else history)


def test_only_what_training_could_read_is_known(study):
    whole = novelty.known_pairs(study)
    one = study.experiment
    validated = dataclasses.replace(one, training=dataclasses.replace(one.training, num_validation=3))
    history = study.history("recorded")
    fewer = novelty.known_pairs(dataclasses.replace(study, experiment=validated))
    np.testing.assert_array_equal(fewer, np.unique(novelty.pairs(history.obs[:1], history.action[:1])))
    assert len(fewer) < len(whole)
    earlier = dataclasses.replace(one, evaluation=dataclasses.replace(one.evaluation, later_fork_step=8))
    before = novelty.known_pairs(dataclasses.replace(study, experiment=earlier))
    np.testing.assert_array_equal(before, np.unique(novelty.pairs(history.obs[:, :8], history.action[:, :8])))


def test_learner_and_imitator_are_measured_over_laters_horizon(study):
    told = []
    found = novelty.measure(dataclasses.replace(study, tick=told.append))
    assert found["learner_share"].shape == (1, 4, 4)
    assert found["imitator_share"].shape == (2, 4, 4)
    assert found["num_possible"] == 16 * 5
    forbidden = novelty.pairs(np.zeros(1, np.uint8), np.zeros(1, np.uint8))
    assert forbidden not in novelty.known_pairs(study)
    assert (found["learner_distinct"] > 0).any()
    assert sum(told) == novelty.work(study.experiment)
    answered = novelty.answer(study.experiment, found)
    assert answered["estimate"] == pytest.approx(found["imitator_share"].mean())
    assert answered["learner"]["estimate"] == pytest.approx(found["learner_share"].mean())
    assert not answered["void"]


def test_how_many_recorded_lives_had_come_to_where_learners_come_later_is_told(study):
    arrays = novelty.NOVELTY.measure(study)
    told = novelty.answer(study.experiment, arrays)
    assert 0.0 <= told["shown"]["estimate"] <= 1.0
    num = arrays["recorded_last"].shape[1]
    made = {
        **arrays,
        "learner_returns": np.full_like(arrays["learner_returns"], 10.0),
        "recorded_first": np.zeros((1, num)),
        "recorded_last": np.where(np.arange(num) < num // 4, 9.5, 8.0)[None],
    }
    told = novelty.answer(study.experiment, made)
    assert told["shown"]["estimate"] == pytest.approx((num // 4) / num)
    assert "had come by the fork to where learners come after it" in told["meaning"]
    nobody = novelty.answer(study.experiment, {**made, "recorded_last": np.full((1, num), 8.9)})
    assert nobody["shown"]["estimate"] == 0.0
    assert "No recorded life" in nobody["meaning"]
    unended = np.full_like(made["learner_returns"], np.nan)  # but one learner, which ended episodes
    unended[:, 0] = 10.0
    assert novelty.answer(study.experiment, {**made, "learner_returns": unended})["shown"] == told["shown"]
    for unknown in (
        {"learner_returns": np.full_like(unended, np.nan)},
        {"recorded_first": np.full((1, num), np.nan)},
        {"recorded_first": np.full((1, num), 11.0)},  # they fall
    ):
        unsaid = novelty.answer(study.experiment, {**made, **unknown})
        assert np.isnan(unsaid["shown"]["estimate"])
        assert "recorded li" not in unsaid["meaning"]


def test_the_recorded_levels_are_those_of_the_last_steps_before_the_fork(study):
    one, history = study.experiment, study.history("recorded")
    fork, steps = one.evaluation.later_fork_step, one.evaluation.now_steps
    found = novelty._recorded_levels(study)
    done = np.asarray(history.terminated | history.truncated)
    expected = [np.mean(episode_returns(history, i, fork - steps, fork)) for i in range(len(done))]
    np.testing.assert_allclose(found["recorded_last"][0], expected, rtol=1e-6)


def episode_returns(history, i: int, first: int, last: int) -> list[float]:
    """Of the episodes of life i that end in (first, last]."""
    done = np.flatnonzero(np.asarray(history.terminated | history.truncated)[i]) + 1
    begins = [0, *done[:-1]]
    rewards = np.asarray(history.reward, float)[i]
    return [rewards[begin:end].sum() for begin, end in zip(begins, done, strict=True) if first < end <= last]


def test_where_the_learner_does_nothing_new_the_control_says_that_there_is_nothing_to_compare(study):
    nothing = {"share": np.zeros((1, 4, 4)), "distinct": np.zeros((1, 4), int)}
    arrays = {f"{arm}_{name}": values for arm in ("learner", "imitator") for name, values in nothing.items()}
    arrays |= {"task": np.arange(4), "num_known": np.array(80), "num_possible": np.array(80)}
    arrays |= {"learner_returns": np.ones((1, 4, 4)), "recorded_task": np.arange(4)}
    arrays |= {f"recorded_{when}": np.ones((1, 4)) for when in ("first", "last")}
    found = novelty.answer(study.experiment, arrays)
    assert found["void"]
    assert "nothing new" in found["meaning"]


def test_novelty_cannot_be_asked_of_streamed_training():
    streamed = ("training.feed=stream", "training.stream_learners=16", 'controls.run=["novelty"]')
    with pytest.raises(ValueError, match=r"novelty.*feed"):
        load_config.load(SMOKE, streamed)
    assert "novelty" in config.Controls(run=("novelty",)).run
    jax.clear_caches()
