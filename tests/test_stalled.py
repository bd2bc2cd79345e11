"""A learner that stopped: hand-made imitators that stall, read a clock, or go on by themselves are told apart."""

import functools

import jax
import numpy as np
import pytest

from cl_imitate.evaluation.controls import stalled
from tests import hand_made, studies, synthetic

pytestmark = pytest.mark.unoptimised

ONE = studies.experiment(
    "simulation.num_held_out=24",
    "controls.stall_step=32",
    "evaluation.stage_steps=[0,32]",
    "evaluation.later_steps=128",
    "imitator.context_steps=64",
    "training.num_seeds=1",
)


@functools.cache
def found(kind: hand_made.Kind) -> dict:
    study = studies.study(ONE, hand_made.imitator(kind))
    return stalled.CONTROL.answer(ONE, stalled.CONTROL.measure(study))


def test_an_imitator_that_does_what_it_was_shown_passes():
    assert found("habit")["estimate"] < 0.35
    assert "It stalls with the learner" in found("habit")["meaning"]


def test_an_imitator_that_reads_a_clock_is_caught():
    assert found("clock")["estimate"] > 0.7
    assert found("clock")["at_once"]["estimate"] > 0.7
    assert "it reads a clock" in found("clock")["meaning"]


def test_an_imitator_that_goes_on_by_itself_is_no_clock():
    assert found("climber")["estimate"] > 0.7
    assert found("climber")["at_once"]["estimate"] < 0.6
    assert "It does not stall" in found("climber")["meaning"]


@pytest.mark.parametrize(
    ("at_once", "end", "meaning"),
    [
        (0.0, 0.0, "It stalls with the learner"),
        (1.0, 1.0, "it reads a clock"),
        (0.0, 1.0, "goes on by itself"),
        (0.0, 0.5, "Undecided"),
    ],
)
def test_what_stalling_means_depends_on_how_it_starts_and_how_it_ends(at_once, end, meaning):
    rng = np.random.default_rng(0)
    learning = np.r_[np.full(8, 7.0), np.full(32, 9.0)]
    shares = np.r_[np.full(8, at_once), np.full(32, end)]
    curves = {"learner_held": np.full(40, 5.0), "learner": learning, "learning": learning}
    curves["stalled"] = 5.0 + shares * (learning - 5.0)
    arrays = {name: curve + 0.3 * rng.standard_normal((3, 60, 40)) for name, curve in curves.items()}
    found = stalled.CONTROL.answer(synthetic.experiment(), arrays | {"task": np.arange(60)})
    assert meaning in found["meaning"]
    assert found["estimate"] == pytest.approx(end, abs=0.1)
    assert found["at_once"]["estimate"] == pytest.approx(at_once, abs=0.15)


def test_where_the_imitator_never_learns_there_is_nothing_to_stall():
    flat = {name: np.full((3, 20, 40), 5.0) for name in ("learner_held", "learner", "learning", "stalled")}
    found = stalled.CONTROL.answer(synthetic.experiment(), flat | {"task": np.arange(20)})
    assert np.isnan(found["estimate"])
    assert "nothing could stall" in found["meaning"]


def test_the_stalled_history_is_the_real_one_up_to_the_stall_and_then_the_held_learner_s():
    study = studies.study(ONE)
    _, held = stalled.going_on(study, num_steps=64, hold=True)
    ensemble, learning = stalled.going_on(study, num_steps=64, hold=False)
    real = study.history("held_out")
    for name in ("obs", "action", "reward"):
        np.testing.assert_array_equal(getattr(held, name)[:, :32], getattr(real, name)[:, :32])
        np.testing.assert_array_equal(getattr(learning, name), getattr(real, name)[:, :96])
    assert (held.action[:, 32:] != learning.action[:, 32:]).any()
    assert int(ensemble.clock.update) > int(study.snapshot(study.population("held_out"), 32).clock.update)
    greedy = jax.vmap(
        lambda state, rates, obs: jax.vmap(
            lambda o: study.population("held_out").dqn.policy(state, rates, o, np.int32(0)).argmax()
        )(obs)
    )(
        study.snapshot(study.population("held_out"), 32).learner,
        study.population("held_out").rates,
        held.obs[:, 32:],
    )
    kept = ~held.explored[:, 32:]
    np.testing.assert_array_equal(held.action[:, 32:][kept], np.asarray(greedy)[kept])


def test_a_step_at_which_no_learner_is_kept_is_refused():
    with pytest.raises(ValueError, match=r"controls\.stall_step = 48: .* \[32, 64, 128\]"):
        stalled.stall_step(studies.experiment("controls.stall_step=48"))
    assert stalled.stall_step(studies.experiment()) == 64
