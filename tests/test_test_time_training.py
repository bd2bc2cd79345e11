"""Weights unfrozen after the fork: on which stream, how far, and that the hash can tell."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import train
from cl_imitate.evaluation.controls import gains, scenes
from cl_imitate.evaluation.controls import test_time_training as unfrozen
from cl_imitate.histories import contexts
from tests import studies, synthetic

pytestmark = pytest.mark.unoptimised

TINY = studies.experiment(
    "imitator.num_layers=1",
    "imitator.context_steps=16",
    "training.start_of_history=0.0",
    "controls.test_time_rounds=4",
    "controls.test_time_updates=20",
    "controls.test_time_learning_rate=1e-2",
)  # 8 blocks of 8 steps after the fork at 64


@functools.cache
def measured():
    """The control, and what each call of `train.fit` was given: (steps lived, histories)."""
    given = []

    def fit(state, member_keys, fork_steps, feed, *rest, **static):
        history = jax.tree.map(np.array, feed(0)[0])
        given.append((int(fork_steps[0]), history))
        return original(state, member_keys, fork_steps, feed, *rest, **static)

    original, patch = train.fit, pytest.MonkeyPatch()
    patch.setattr(train, "fit", fit)
    try:
        return studies.study(TINY), unfrozen.CONTROL.measure(studies.study(TINY)), given
    finally:
        patch.undo()


def returns(arrays):
    return {
        cell.name.split(":")[0]: cell.returns["imitator"]
        for cell in gains.kept(arrays)
        if cell.protocol == "later"
    }


def test_the_hash_differs_after_training_on_either_stream():
    _, arrays, _ = measured()
    hashes = {
        str(arrays["sha256_before"]),
        *(str(arrays[f"sha256_after {name}"]) for name in unfrozen.STREAMS),
    }
    assert len(hashes) == 3
    found = unfrozen.CONTROL.answer(TINY, arrays)
    assert found["updates"] == 3 * 20  # between four rounds
    with pytest.raises(ValueError, match="control --again"):
        unfrozen.CONTROL.answer(TINY, {name: array for name, array in arrays.items() if name != "updates"})
    assert found["passed"] is True
    stuck = arrays | {"sha256_after own stream": arrays["sha256_before"]}
    assert unfrozen.CONTROL.answer(TINY, stuck)["passed"] is False


def test_until_the_first_round_is_over_it_acts_as_the_frozen_one_does():
    _, arrays, _ = measured()
    found = returns(arrays)
    for name in unfrozen.STREAMS:
        np.testing.assert_array_equal(found[name][..., :1], found["frozen"][..., :1])
        assert (found[name][..., 1:] != found["frozen"][..., 1:]).any()


def test_it_is_trained_on_no_step_that_was_not_lived():
    study, _, given = measured()
    assert [end for end, _ in given] == [
        80,
        80,
        96,
        96,
        112,
        112,
    ] * 2  # two seeds; learner's stream, then own
    past = study.history("held_out")
    for number, (end, history) in enumerate(given):
        np.testing.assert_array_equal(history.obs[:, :64], past.obs[:, :64])
        if number >= 6:  # its own: nothing is there yet
            assert (history.action[:, end:] == 0).all()
            assert (history.action[:, 64:end] != 0).any()


def test_the_learner_s_stream_goes_on_from_the_fork_and_the_own_one_is_what_the_imitator_did():
    study, arrays, given = measured()
    learners, own = [history for _, history in given[:6]], [history for _, history in given[6:]]
    for history in learners:
        np.testing.assert_array_equal(history.reward, learners[0].reward)
    cells = {cell.name.split(":")[0]: cell for cell in gains.kept(arrays) if cell.protocol == "later"}

    def block_returns(history, block):
        rewards = history.reward[:, 64 + 16 * block : 80 + 16 * block].astype(float)
        return rewards.reshape(4, 2, 8).sum(axis=-1).mean(axis=-1)

    for block in range(4):
        lived = cells["frozen"].returns["learner"][0, :, block]
        np.testing.assert_allclose(block_returns(learners[0], block), lived)
    for seed in range(2):
        for block in range(3):
            acted = cells["own stream"].returns["imitator"][seed, :, block]
            np.testing.assert_allclose(block_returns(own[4 + seed], block), acted)
    assert study.spec.can_truncate


def test_training_on_a_stream_makes_it_more_likely():
    study = studies.study(TINY)
    protocol = scenes.at_fork(TINY, 64)
    scene = scenes.scene_of(study, protocol)
    trainer = unfrozen.trainers(study, scene, study.frozen)["learner's stream"]
    histories, _ = trainer.stream(0)

    def loss(params):
        context = contexts.sample_windows(
            jax.random.key(1),
            jax.tree.map(jnp.asarray, histories),
            jnp.int32(128),
            training=TINY.training,
            context_steps=16,
            num_windows=64,
            num_actions=5,
        )
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), params)
        return float(train.next_action_loss(study.frozen.imitator.logits(one, context.tokens, None), context))

    before = loss(trainer.params)
    record = dataclasses.make_dataclass("Record", ["action"])(np.zeros((2, 4, 8)))
    params = trainer.params
    for _ in range(7):
        params = trainer.after_block(params, record)
    assert loss(params) < before - 0.15


def test_its_worth_is_the_difference_to_the_frozen_one():
    def arrays(on_learner, own):
        ends = {"frozen": 6.0, unfrozen.STREAMS[0]: on_learner, unfrozen.STREAMS[1]: own}
        cells = [
            dataclasses.replace(synthetic.later(end, seed=2), name=f"{name}: later")
            for name, end in ends.items()
        ]
        hashes = {f"sha256_after {name}": np.array("b") for name in unfrozen.STREAMS}
        hashes["updates"] = np.array(20)
        return gains.keep(cells) | hashes | {"sha256_before": np.array("a")}

    found = unfrozen.CONTROL.answer(synthetic.experiment(), arrays(10.0, 6.0))
    assert found["estimate"] == pytest.approx(0.8, abs=0.08)
    assert found["own_stream"]["estimate"] == pytest.approx(0.0, abs=0.08)
    assert "being shown more helps" in found["meaning"]

    def said(on_learner, own):
        return unfrozen.CONTROL.answer(synthetic.experiment(), arrays(on_learner, own))["meaning"]

    assert "goes on to live, it improves by not surely more or less" in said(6.0, 10.0)
    assert "that is learning on by itself" in said(6.0, 10.0)
    assert "do harm" in said(3.0, 3.0)
    assert "makes nobody better" in said(3.0, 3.0)


def test_a_horizon_of_a_single_block_leaves_no_time_to_train():
    one = studies.experiment(
        "imitator.refill_steps=31", "evaluation.later_steps=32", "evaluation.now_steps=16"
    )
    study = studies.study(
        dataclasses.replace(one, evaluation=dataclasses.replace(one.evaluation, later_steps=16))
    )
    with pytest.raises(ValueError, match=r"lower imitator\.refill_steps"):
        unfrozen.CONTROL.measure(study)
