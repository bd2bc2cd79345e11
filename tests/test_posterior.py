"""The learner posterior as a control: it passes where it should, fails where it should, and says what is lost."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import synthetic

from cl_imitate import config, cost, load_config
from cl_imitate.envs import tasks
from cl_imitate.evaluation import results
from cl_imitate.evaluation.controls import posterior, posterior_answer
from cl_imitate.evaluation.controls.posterior_places import hypotheses, places
from cl_imitate.evaluation.controls.study import Study
from cl_imitate.figures.posterior_cost import posterior_cost
from cl_imitate.imitators.learner_posterior import NEVER
from cl_imitate.keeper import Keeper, Schedule

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
EXPERIMENT = synthetic.experiment()
NUM, CHUNKS, HYPOTHESES = 24, 10, 4


def measured(
    *, on_truth: float = 1.0, log_loss: float = 0.3, late: int = 3, **cells
) -> dict[str, np.ndarray]:
    """What one condition measured: the truth found after `late` chunks, the protocols as given."""
    weights = np.full((NUM, CHUNKS, HYPOTHESES), 1 / HYPOTHESES, np.float32)
    weights[:, late:] = (1 - on_truth) / (HYPOTHESES - 1)
    weights[:, late:, 0] = on_truth
    same = np.zeros((NUM, HYPOTHESES), bool)
    same[:, 0] = True
    made = [
        cells.get("now", synthetic.now(10.0, 10.0)),
        cells.get("process", synthetic.process(10.0)),
        cells.get("later", synthetic.later(10.0)),
    ]
    arrays, index = results.pack(made)
    return {
        "weights": weights,
        "same": same,
        "log_loss": np.full((NUM, CHUNKS), log_loss) + 0.01 * np.arange(NUM)[:, None],
        "distance": np.linspace(0.5, 0.0, CHUNKS) * np.ones((NUM, 1)),
        "greedy_steps": np.full((NUM, CHUNKS), 10),
        "expected": np.full((NUM, HYPOTHESES), 0.25),
        "task": np.arange(NUM),
        "index": np.array(json.dumps(index)),
        **{f"cells|{key}": values for key, values in arrays.items()},
    }


def condition(name: str, **options) -> dict[str, np.ndarray]:
    (place,) = places(EXPERIMENT)
    return {f"{place.name}|{name}|{key}": values for key, values in measured(**options).items()}


def test_a_posterior_that_finds_the_truth_and_says_yes_throughout_passes():
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth"))
    assert found["passed"] is True
    assert found["posterior_on_truth"] == pytest.approx(1.0)
    assert found["estimate"] == pytest.approx(1.0, abs=0.1)
    assert found["ci95"][0] > 0.5
    (place,) = found["places"].values()
    assert {name: one["answer"] for name, one in place["protocols"].items()} == dict.fromkeys(
        ("now", "process", "later"), "yes"
    )
    # found within chunk 3 of 10; from the next one on
    assert place["found_after_steps"] == 4 * places(EXPERIMENT)[0].chunk_steps
    assert place["distance_once_found"] == pytest.approx(np.linspace(0.5, 0, CHUNKS)[4:].mean() / 10)


@pytest.mark.parametrize(
    "options",
    [
        {"on_truth": 0.98},
        {"now": synthetic.now(7.0, 10.0)},
        {"process": synthetic.process(4.0)},
        {"later": synthetic.later(6.0)},
    ],
)
def test_a_posterior_that_misses_anything_fails(options):
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth", **options))
    assert found["passed"] is False
    assert "cannot be believed" in found["meaning"]


@pytest.mark.parametrize(("num_open", "passed"), [(2, True), (3, False)])
def test_few_learners_whose_stream_cannot_tell_the_truth_do_not_fail_it(num_open, passed):
    arrays = condition("with_truth")
    weights = arrays[next(key for key in arrays if key.endswith("|weights"))]
    weights[:num_open, :, :2] = 0.5
    found = posterior_answer.with_truth(EXPERIMENT, arrays)
    assert found["passed"] is passed
    (place,) = found["places"].values()
    assert place["share_found"] == pytest.approx(1 - num_open / NUM)
    assert f"found it in {NUM - num_open} of {NUM}" in found["meaning"]


def test_to_which_questions_a_yes_was_seen_is_said():
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth"))
    assert "can see a yes to NOW, PROCESS, LATER." in found["meaning"]
    settled = condition("with_truth", later=synthetic.later(10.0, start=9.9))
    found = posterior_answer.with_truth(EXPERIMENT, settled)
    assert "can see a yes to NOW, PROCESS. To LATER this is not shown." in found["meaning"]


def test_a_protocol_that_is_void_for_the_learner_s_own_sake_does_not_count():
    settled = synthetic.later(10.0, start=9.9)
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth", later=settled))
    (place,) = found["places"].values()
    assert (place["protocols"]["later"]["answer"], place["protocols"]["later"]["counts"]) == ("void", False)
    assert found["passed"] is True


def test_later_that_is_void_because_the_posterior_fails_now_counts():
    weak = {"now": synthetic.now(5.0, 10.0, fork_step=320), "later": synthetic.later(10.0)}
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth", **weak))
    (place,) = found["places"].values()
    assert (place["protocols"]["later"]["answer"], place["protocols"]["later"]["counts"]) == ("void", True)


def test_later_is_void_for_the_learner_s_own_sake_where_the_held_learner_is_not_above_random():
    """A ratio of two noises, here under its bound, says nothing of the posterior."""
    noise = {"now": synthetic.now(0.5, 1.0, fork_step=320), "later": synthetic.later(10.0, start=1.0)}
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth", **noise))
    (place,) = found["places"].values()
    later = place["protocols"]["later"]
    assert (later["answer"], later["counts"]) == ("void", False)
    assert "at NOW the held learner is not clearly better than random" in later["reason"]


def test_later_is_void_for_the_learner_s_own_sake_where_both_it_and_the_posterior_fall_short():
    weak = {"now": synthetic.now(5.0, 9.9, fork_step=320), "later": synthetic.later(10.0, start=9.9)}
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth", **weak))
    (place,) = found["places"].values()
    later = place["protocols"]["later"]
    assert (later["answer"], later["counts"]) == ("void", False)
    assert "the learner itself gains" in later["reason"]


def test_hypotheses_that_never_differ_from_the_truth_count_as_one_with_it():
    arrays = condition("with_truth", on_truth=0.6)
    key = next(key for key in arrays if key.endswith("|same"))
    assert not posterior_answer.with_truth(EXPERIMENT, arrays)["passed"]
    arrays[key] = np.ones((NUM, HYPOTHESES), bool)
    assert posterior_answer.with_truth(EXPERIMENT, arrays)["posterior_on_truth"] == pytest.approx(1.0)


def test_the_shortfall_is_the_log_loss_over_that_with_the_truth():
    arrays = condition("with_truth") | condition(
        "truth_removed", log_loss=0.42, process=synthetic.process(4.0)
    )
    arrays |= condition("own_causes", log_loss=0.35)
    found = posterior_answer.without_truth(EXPERIMENT, arrays)
    assert "passed" not in found
    assert found["estimate"] == pytest.approx(0.12)
    assert found["ci95"] == pytest.approx((0.12, 0.12))
    (place,) = found["places"].values()
    assert place["own_causes"]["log_loss_shortfall"] == pytest.approx(0.05)
    assert place["truth_removed"]["protocols"]["process"]["ratio"] == pytest.approx(0.33, abs=0.1)


# --- whom it takes the learner to be


def test_the_truth_comes_first_and_no_hypothesis_twice():
    learner = config.Learner(
        learning_rate=3e-3, discount=0.5, epsilon_start=1.0, epsilon_end=0.05, epsilon_decay_steps=300
    )
    found = hypotheses(learner, config.Posterior())
    assert (found[0].learner, found[0].stops_at_step) == (learner, NEVER)
    assert (
        len({(one.learner, one.stops_at_step) for one in found})
        == len({one.name for one in found})
        == len(found)
    )
    assert len(found) == 4 * 2 * 3 + 4 + 1


@pytest.mark.parametrize(("known", "expected"), [(False, 2 * 2 * 3 + 1), (True, 2 * 2 + 1)])
def test_a_known_epsilon_is_every_hypothesis_s(known, expected):
    asked = config.Posterior(learning_rates=(1e-2,), epsilons=(0.05, 0.2), variants=(), known_epsilon=known)
    found = hypotheses(config.Learner(discount=0.5), asked)
    assert len(found) == expected
    assert ({one.learner.epsilon_end for one in found} == {0.1}) == known


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("double_q", {"double_q": True}),
        ("latest_replay", {"replay": "latest"}),
        ("no_replay", {"replay": "latest", "batch_size": 1}),
        ("target", {"target_tau": 1.0}),
    ],
)
def test_a_variant_changes_one_part(variant, changes):
    asked = config.Posterior(learning_rates=(), discounts=(), variants=(variant,), frozen_from_steps=())
    _, found = hypotheses(config.Learner(), asked)
    assert found.learner == dataclasses.replace(config.Learner(), **changes)


# --- what it costs


def test_the_posterior_s_cost_is_its_learners_with_one_replay():
    spec = tasks.make(config.Lock(), shapes=config.Shapes()).env.spec
    learner = config.Learner()
    one, three = cost.learning(learner, spec), cost.posterior([learner] * 3, spec)
    rows = learner.replay_capacity * (1 + 1 + 3)  # what was seen, before a reset, and what came of it
    assert three.flops_per_step == pytest.approx(3 * one.flops_per_step)
    assert three.bytes == 3 * one.bytes - 2 * rows


def test_the_figure_of_costs_is_drawn_where_there_is_something_to_draw():
    found = posterior_answer.with_truth(EXPERIMENT, condition("with_truth"))
    figure = posterior_cost(found)
    assert figure is not None
    assert figure.png.startswith(b"\x89PNG")
    (place,) = found["places"].values()
    assert f"{place['hypotheses_at_transformer_flops']:.3g}" in figure.caption
    assert posterior_cost({}) is None


# --- whole, at the smallest size

SMALL = (
    "evaluation.rungs=[]",
    "evaluation.months=[]",
    "simulation.num_held_out=3",
    "simulation.block_size=2",
    "simulation.num_recorded=3",
    "evaluation.elsewhere_learners=2",
    "learner.hidden=[8]",
    "rules.bootstrap_samples=50",
    "controls.posterior={learning_rates=[1e-4],discounts=[],variants=[],frozen_from_steps=[]}",
)


class Ticks(list):
    def __call__(self, steps: int) -> None:
        self.append(steps)


def study(keeper: Keeper | None = None) -> Study:
    nothing = {"snapshot": None, "history": None, "population": None, "imitators": {}, "spec": None}
    experiment = load_config.load(SMOKE, SMALL)
    return Study(experiment=experiment, chunk_steps=16, tick=Ticks(), keeper=keeper, **nothing)  # pyright: ignore


@pytest.mark.slow
def test_both_controls_measure_what_they_say_and_a_finished_one_is_not_made_again(tmp_path):
    keeper = Keeper(tmp_path, Schedule(every_seconds=0.0))
    for control in (posterior.WITH_TRUTH, posterior.WITHOUT_TRUTH):
        one = study(keeper)
        arrays = control.measure(one)
        assert sum(one.tick) == control.work(one.experiment)  # pyright: ignore
        again = study(keeper)
        found = control.measure(again)
        assert len(again.tick) == 1  # pyright: ignore
        assert sum(again.tick) == control.work(one.experiment)  # pyright: ignore
        assert found.keys() == arrays.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[name], values)
        answer = control.answer(one.experiment, arrays)
        assert np.isfinite(answer["estimate"])
    removed = next(values for name, values in arrays.items() if name.endswith("truth_removed|weights"))
    assert removed[:, :, 0].max() == 0.0
    for name in ("truth_removed", "own_causes"):
        own, whole = (
            next(values for key, values in arrays.items() if key.endswith(f"{which}|log_loss"))
            for which in (name, "with_truth")
        )
        assert own.mean() > whole.mean()
