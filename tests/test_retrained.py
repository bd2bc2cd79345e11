"""Imitators of altered histories: trained as the real ones, played beside them, and told apart by what they gain."""

import dataclasses

import jax
import numpy as np
import pytest

from cl_imitate import keys, train
from cl_imitate.evaluation.controls import altered as altering
from cl_imitate.evaluation.controls import gains, retrained
from tests import studies, synthetic

pytestmark = pytest.mark.unoptimised

FEW = studies.experiment(
    "training.num_updates=4",
    "training.evaluate_every_updates=2",
    "evaluation.later_steps=32",
    "imitator.num_layers=1",
    "imitator.context_steps=16",
)
WORDS = retrained.Words("altered histories", "what they lost", "As good.")


def trained(histories, forks=(64, 128)):
    return retrained.retrain(studies.study(FEW), "altered", histories, forks=forks)


def same(one, other) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_on_unaltered_histories_the_imitators_are_those_of_training_itself():
    study = studies.study(FEW)
    histories = retrained.recorded_histories(study)
    member_keys = keys.members(keys.stream(keys.root(FEW.seed), keys.Stream.IMITATOR), 2)[
        np.array([0, 1, 0, 1])
    ]
    static = {"imitator": study.frozen.imitator, "training": FEW.training}
    state = train.init_train_state(member_keys, **static)
    for state, _ in train.fit(
        state,
        member_keys,
        np.array([64, 64, 128, 128], np.int32),
        lambda _: (histories, 4),
        study.history("held_out"),
        jax.random.key(0),
        context_steps=16,
        **static,
    ):
        pass
    at_last_fork = jax.tree.map(lambda x: x[2:], state.params)
    assert same(trained(histories)[128].params, at_last_fork)
    altered = trained(histories.replace(action=histories.action[:, ::-1]))
    assert not same(altered[128].params, at_last_fork)


def test_imitators_of_a_fork_read_nothing_after_it():
    histories = retrained.recorded_histories(studies.study(FEW))
    later = np.arange(128) >= 64
    changed = histories.replace(action=np.where(later, 4 - histories.action, histories.action))
    one, other = trained(histories), trained(changed)
    assert same(one[64].params, other[64].params)
    assert not same(one[128].params, other[128].params)


def test_real_and_altered_play_in_the_same_cells_as_the_run():
    told = []
    study = studies.study(FEW, tick=told.append)
    altered = trained(retrained.recorded_histories(study))
    cells = gains.kept(retrained.beside_real(study, "altered", altered))
    places = [(cell.protocol, cell.fork_step) for cell in cells if cell.name.startswith("real: ")]
    assert sorted(places) == [("later", 64), ("later", 128), ("now", 64), ("now", 128), ("process", 128)]
    by_name = {cell.name.split(": ")[1].replace("real", "altered"): [] for cell in cells}
    for cell in cells:
        by_name[cell.name.split(": ")[1].replace("real", "altered")].append(cell.returns)
    for real, other in by_name.values():
        np.testing.assert_array_equal(real["learner_held"], other["learner_held"])
        assert not np.array_equal(real["imitator"], other["imitator"])
    assert sum(told) + 2 * 2 * 4 * 8 * 16 == retrained.steps(FEW, forks=(64, 128))


def arrays(real: float, altered: float):
    cells = []
    for name, end in (("real", real), ("altered", altered)):
        made = [
            synthetic.process(end, seed=5),
            synthetic.now(end, seed=1),
            synthetic.later(end, fork_step=640, start_step=640, seed=9),
        ]
        cells += [dataclasses.replace(cell, name=f"{name}: {cell.name}") for cell in made]
    return gains.keep(cells)


@pytest.mark.parametrize(
    ("real", "altered", "difference", "meaning"),
    [
        (10.0, 10.0, 0.0, "As good."),
        (10.0, 1.0, 1.0, "All that the imitator gains, it owes to what they lost"),
        (10.0, 5.5, 0.5, "Part of what the imitator gains, it owes to what they lost"),
        (5.5, 10.0, -0.5, "an imitator gains even more"),
        (1.0, 1.0, 0.0, "nothing to compare with"),
    ],
)
def test_what_an_altered_history_costs_is_found_and_said(real, altered, difference, meaning):
    found = retrained.answer(synthetic.experiment(), arrays(real, altered), WORDS)
    low, high = found["ci95"]
    assert low <= found["estimate"] <= high
    assert found["estimate"] == pytest.approx(difference, abs=0.06)
    assert meaning in found["meaning"]
    assert found["real"]["estimate"] == pytest.approx((real - 1) / 9, abs=0.06)
    assert [one["protocol"] for one in found["protocols"]] == ["process", "now", "later"]
    for one in found["protocols"]:
        expected = (real - altered) / (5 if one["protocol"] == "later" else 9)
        assert one["difference"]["estimate"] == pytest.approx(expected, abs=0.1)


def slower(cell):
    """It ends as high, and makes the first half of the span's steps at its start."""
    returns = cell.returns["imitator"].copy()
    half = returns.shape[-1] // 2
    returns[..., :half] = returns[..., :1]
    return dataclasses.replace(cell, returns={**cell.returns, "imitator": returns})


def test_who_ends_as_high_and_comes_there_later_is_told_from_who_does_as_well():
    made = gains.kept(arrays(10.0, 10.0))
    cells = [
        slower(cell) if cell.protocol == "process" and cell.name.startswith("altered") else cell
        for cell in made
    ]
    as_good, found = (
        retrained.answer(synthetic.experiment(), gains.keep(one), WORDS) for one in (made, cells)
    )
    assert found["estimate"] == pytest.approx(as_good["estimate"], abs=0.03)
    assert as_good["whole_span_difference"] == pytest.approx(0.0, abs=0.03)
    assert found["whole_span_difference_ci95"][0] > 0.1
    assert "comes there later" in found["meaning"]
    steps = found["steps_to_half_of_the_learner_s_gain"]
    assert steps["altered"] > 1.5 * steps["real"]
    assert steps["real"] == pytest.approx(steps["learner"], rel=0.2)


def test_who_falls_as_short_as_its_data_do_is_not_said_to_lack_anything_else():
    data = {
        "data real": np.full((1, 40), 10.0),
        "data altered": np.full((1, 40), 5.5),
        "data task": np.arange(40),
    }
    found = retrained.answer(synthetic.experiment(), arrays(10.0, 5.5) | data, WORDS)
    assert found["data"]["estimate"] == pytest.approx(0.5, abs=0.06)
    assert "nothing is said of anything else" in found["meaning"]


def test_shuffled_histories_end_as_high_as_a_life_is_on_average():
    study = studies.study(FEW)
    real = retrained.recorded_histories(study)
    found = retrained.data_levels(study, altering.shuffle_episodes(real, "random", 0), real)
    rewards = np.asarray(real.reward, float)
    whole = rewards.reshape(len(rewards), -1, 8).sum(axis=-1)  # by episode
    assert found["data real"].mean() > found["data altered"].mean() > whole[:, :3].mean()
    np.testing.assert_allclose(found["data real"][0], whole[:, -2:].mean(axis=1))


def test_where_the_learner_has_nothing_left_to_learn_no_share_is_taken():
    made = gains.kept(arrays(10.0, 5.5))
    flat = [
        synthetic.later(end, learner_end=9.5, start=9.4, fork_step=640, start_step=640, seed=9)
        for end in (9.5, 5.5)
    ]
    named = [
        dataclasses.replace(cell, name=f"{name}: {cell.name}")
        for name, cell in zip(("real", "altered"), flat, strict=True)
    ]
    cells = [cell for cell in made if cell.protocol != "later"] + named
    found = retrained.answer(synthetic.experiment(), gains.keep(cells), WORDS)
    last = found["protocols"][-1]
    assert last["protocol"] == "later"
    assert np.isnan(last["difference"]["estimate"])
    assert np.isfinite(found["estimate"])


def test_streamed_histories_cannot_be_altered():
    streamed = studies.experiment("training.feed=stream", "training.stream_learners=16")
    with pytest.raises(ValueError, match=r'training\.feed = "stream" keeps none'):
        retrained.recorded_histories(studies.study(streamed))
