"""Each answer exactly when it should be, from cells whose truth is known."""

import dataclasses
import json

import numpy as np
import pytest
import synthetic

from cl_imitate.config import Gate, Imitator, Lock, Rules, Training
from cl_imitate.evaluation import entries, verdict

RULES = Rules()


def question(name: str, *cells, **changes) -> dict:
    return synthetic.decide(list(cells), **changes)["questions"][name]


# --- the rules, at their bounds


@pytest.mark.parametrize(
    ("interval", "answer"),
    [
        ((0.91, 0.99), "yes"),
        ((0.9, 0.99), "undecided"),  # the lower bound must be above
        ((0.5, 0.89), "no"),
        ((0.5, 0.9), "undecided"),  # the upper bound must be below
        ((0.1, 2.0), "undecided"),
        ((np.nan, np.nan), "undecided"),
    ],
)
def test_parity_by_its_interval(interval, answer):
    assert entries.parity_answer(interval, RULES) == answer


@pytest.mark.parametrize(
    ("interval", "answer"),
    [
        ((0.51, 0.9), "yes"),
        ((0.5, 0.9), "partial"),
        ((-0.5, 0.09), "no"),
        ((-3.0, -2.0), "no"),  # getting worse is also no
        ((-0.5, 0.1), "partial"),
        ((0.2, 0.4), "partial"),
        ((-np.inf, np.inf), "partial"),
        ((np.nan, np.nan), "void"),
    ],
)
def test_learning_by_its_interval(interval, answer):
    assert entries.learns_answer(interval, RULES) == answer


# --- NOW


@pytest.mark.parametrize(
    ("imitator", "answer", "exceeds"),
    [(10.0, "yes", False), (12.0, "yes", True), (6.0, "no", False), (9.1, "undecided", False)],
)
def test_now(imitator, answer, exceeds):
    found = question("now", synthetic.now(imitator, noise=0.4))
    assert (found["answer"], found["exceeds"]) == (answer, exceeds)
    assert found["predicted"] == "yes"
    assert found["estimate"] == pytest.approx((imitator - 1) / 9, abs=0.05)


def test_now_is_undecided_where_the_held_learner_is_no_better_than_random():
    found = question("now", synthetic.now(1.0, 1.0))
    assert found["answer"] == "undecided"
    assert "random" in found["reason"]


def test_nows_answer_is_that_of_the_configured_fork():
    found = question("now", synthetic.now(6.0, fork_step=320), synthetic.now(10.0, fork_step=640))
    assert found["answer"] == "yes"
    assert [fork["answer"] for fork in found["forks"]] == ["no", "yes"]


def test_one_imitator_seed_is_said():
    assert "one imitator seed" in question("now", synthetic.now(seeds=1))["reason"]


@pytest.mark.parametrize("imitator", [1.0, 5.0, 12.0])
def test_one_learner_answers_no_question_and_that_is_said(imitator):
    """However its seeds agree: a question is about learners."""
    alone = {"learners": 1, "noise": 0.0}
    cells = [
        synthetic.now(imitator, **alone),
        synthetic.now(imitator, 5.0, fork_step=320, **alone),
        synthetic.month(imitator, split="train", **alone),
        synthetic.process(imitator, **alone),
        synthetic.later(imitator, **alone),
        synthetic.elsewhere("2", imitator, **alone),
        synthetic.elsewhere("3", imitator, **alone),
    ]
    found = synthetic.decide(cells)["questions"]
    assert {name: one["answer"] for name, one in found.items()} == {
        "now": "undecided",
        "month": "undecided",
        "process": "void",
        "later": "void",
        "elsewhere": "void",
    }
    for name, one in found.items():
        if (name, imitator) != ("later", 1.0):  # where there is nothing at NOW to go on from
            assert "one held-out learner: the interval does not cover learners" in one["reason"]
        assert one["ci95"] == [None, None]
    assert all("does not cover learners" in one["reason"] for one in found["elsewhere"]["rungs"])
    assert found["later"]["exceeds_its_data"]["answer"] == "void"
    assert "does not cover learners" in found["later"]["exceeds_its_data"]["reason"]


def test_a_wide_spread_of_imitator_seeds_leaves_now_undecided():
    assert question("now", synthetic.now(10.0, seed_noise=3.0))["answer"] == "undecided"


def test_action_divergence_is_reported_apart():
    scalars = {
        "imitator_cross_entropy": np.full((3, 24), 0.7),
        "learner_cross_entropy": np.full((1, 24), 0.5),
    }
    found = question("now", dataclasses.replace(synthetic.now(), scalars=scalars))
    assert found["action_divergence_nats"]["estimate"] == pytest.approx(0.2)


# --- MONTH


def months(*levels: float, split: str = "train", noise: float = 0.2) -> list:
    return [
        synthetic.month(level, split=split, start_step=100 + number, seed=number, noise=noise)
        for number, level in enumerate(levels)
    ]


def test_months_answer_is_that_of_its_worst_stage_on_training_tasks():
    assert question("month", *months(10.0, 10.0))["answer"] == "yes"
    found = question("month", *months(10.0, 6.0, 10.0))
    assert found["answer"] == "no"
    assert found["worst_stage_step"] == 101
    assert found["estimate"] == pytest.approx(5 / 9, abs=0.05)


def test_a_no_to_month_says_so_where_nothing_taught_the_imitator_to_heed_a_told_age():
    taught = synthetic.experiment(training=Training(skip_ahead=0.5))
    no, yes = months(6.0), months(10.0)
    assert "training.skip_ahead = 0" in question("month", *no)["meaning"]
    assert "skip_ahead" not in question("month", *no, of=taught)["meaning"]
    assert "skip_ahead" not in question("month", *yes)["meaning"]
    assert [question("month", *no, **one)["skips_shown"] for one in ({}, {"of": taught})] == [False, True]


def test_unseen_tasks_stand_beside_month_and_do_not_decide_it():
    found = question("month", *months(10.0), *months(6.0, split="held_out"))
    assert found["answer"] == "yes"
    assert [stage["answer"] for stage in found["unseen"]] == ["no"]
    assert question("month", *months(10.0, split="held_out"))["answer"] == "not run"


def test_month_is_holm_corrected_over_stages():
    # A level whose 95% interval just clears parity, and whose 97.5% interval does not.
    for level in np.arange(9.2, 9.5, 0.01):
        alone = months(level, noise=0.5)
        cell = dataclasses.replace(alone[0], name="marginal")
        pair = [cell, dataclasses.replace(cell, name="marginal too", start_step=200)]
        one, both = question("month", cell), question("month", *pair)
        if one["answer"] == "yes" and both["answer"] == "undecided":
            assert "Holm" in both["reason"]
            return
    pytest.fail("no level at which the correction matters")


def test_a_stage_that_holm_leaves_undecided_exceeds_nothing():
    rules = Rules(
        bootstrap_samples=200, exceeds=Rules().parity
    )  # so that whatever is a yes alone exceeds, too
    for level in np.arange(9.2, 9.5, 0.01):
        cell = months(level, noise=0.5)[0]
        pair = [cell, dataclasses.replace(cell, name="another", start_step=200)]
        one, both = (
            question("month", *some, of=synthetic.experiment(rules=rules)) for some in ([cell], pair)
        )
        if one["exceeds"] and both["answer"] == "undecided":
            assert not both["exceeds"]
            assert not any(stage["exceeds"] for stage in both["stages"])
            return
    pytest.fail("no level at which the correction matters")


# --- PROCESS


@pytest.mark.parametrize(("end", "answer"), [(10.0, "yes"), (4.0, "partial"), (1.0, "no"), (0.0, "no")])
def test_process(end, answer):
    found = question("process", synthetic.process(end))
    assert found["answer"] == answer
    assert found["predicted"] == "no"
    assert found["estimate"] == pytest.approx((end - 1) / 9, abs=0.05)


def test_imitator_seeds_that_part_are_told_each_and_a_spread_on_one_side_of_the_bounds_is_not():
    both = synthetic.process(5.5, seed_noise=0.0, seeds=2)
    both.returns["imitator"][0] += 4.5
    both.returns["imitator"][1] -= 4.5
    found = question("process", both)
    assert found["answer"] == "partial"
    assert found["stages"][0]["by_imitator_seed"] == pytest.approx([1.0, 0.0], abs=0.05)
    low, high = sorted(found["stages"][0]["by_imitator_seed"])
    assert f"imitator seeds part: {low:.2f}, {high:.2f}" in found["reason"]
    both.returns["imitator"][1] += 3.0
    assert "part:" not in (question("process", both)["reason"] or "")


def test_processs_answer_is_that_of_an_empty_context_and_the_others_are_listed():
    found = question(
        "process",
        synthetic.process(1.0),
        synthetic.process(10.0, start=5.0, start_step=160),
        synthetic.process(9.0, learner_end=9.0, start=8.9, start_step=320),
    )
    assert found["answer"] == "no"
    assert [(one["stage_step"], one["answer"]) for one in found["stages"]] == [
        (0, "no"),
        (160, "yes"),
        (320, "void"),
    ]
    assert question("process", synthetic.process(start_step=160, start=5.0))["answer"] == "not run"


def test_process_is_void_where_the_learner_gains_under_a_fifth_of_its_range():
    assert question("process", synthetic.process(10.0, start=7.9))["answer"] == "yes"
    found = question("process", synthetic.process(10.0, start=8.5))
    assert found["answer"] == "void"
    assert "under 20%" in found["reason"]


def test_process_is_taken_at_the_last_fork():
    found = question("process", synthetic.process(1.0, fork_step=320), synthetic.process(10.0, fork_step=640))
    assert found["answer"] == "yes"
    assert len(found["stages"]) == 1


# --- LATER


@pytest.mark.parametrize(("end", "answer"), [(10.0, "yes"), (6.5, "partial"), (5.0, "no"), (3.0, "no")])
def test_later(end, answer):
    found = question("later", synthetic.now(5.0, 5.0, fork_step=320), synthetic.later(end))
    assert found["answer"] == answer
    assert found["estimate"] == pytest.approx((end - 5) / 5, abs=0.08)


@pytest.mark.parametrize(("now_level", "answer"), [(3.75, "void"), (3.85, "no")])
def test_later_is_void_below_seven_tenths_at_now(now_level, answer):
    found = question("later", synthetic.now(now_level, 5.0, fork_step=320, noise=0.02), synthetic.later(5.0))
    assert found["answer"] == answer
    assert found["forks"][0]["now_ratio"] == pytest.approx((now_level - 1) / 4, abs=0.01)


@pytest.mark.parametrize(("start", "answer"), [(8.5, "void"), (8.1, "yes")])
def test_later_is_void_where_the_learner_has_no_headroom(start, answer):
    cell = synthetic.later(10.0, start=start, noise=0.05)
    assert question("later", cell)["answer"] == answer


def test_without_a_now_cell_laters_own_first_steps_give_its_ratio():
    found = question("later", synthetic.later(5.0))
    assert found["answer"] == "no"
    assert found["forks"][0]["now_ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("start", "now_level", "void_because"),
    [(1.0, 1.0, "learner"), (8.5, 8.5, "learner"), (5.0, 3.0, "imitator"), (5.0, 5.0, None)],
)
def test_a_void_later_says_whose_weakness_it_is(start, now_level, void_because):
    now = synthetic.now(now_level, start, fork_step=320, noise=0.02)
    found = question("later", now, synthetic.later(10.0, start=start, noise=0.05))
    assert (found["void_because"], found["answer"] == "void") == (void_because, void_because is not None)


def test_laters_answer_is_that_of_the_configured_fork():
    found = question("later", synthetic.later(5.0), synthetic.later(10.0, fork_step=640, start_step=640))
    assert found["answer"] == "no"
    assert [fork["answer"] for fork in found["forks"]] == ["no", "yes"]


def test_later_is_stated_in_learner_time_constants_too():
    found = question("later", synthetic.later(5.0), synthetic.process())
    assert found["horizon_time_constants"] == pytest.approx(40 / 3, rel=0.05)


@pytest.mark.parametrize(("end", "answer"), [(10.0, "yes"), (2.2, "no"), (5.0, "partial")])
def test_in_a_ring_that_grows_after_the_fork_who_keeps_up_has_learned(end, answer):
    """And in one that does not grow, the same learner would have had nothing left to learn."""
    fallen, followed = (np.r_[np.full(4, 10.0), np.full(36, level)] for level in (2.0, end))
    levels = {"learner": 10.0, "learner_held": fallen, "imitator": followed}
    cell = synthetic.cell("later", levels, blocks=40, fork_step=320, start_step=320)
    grows = synthetic.experiment(environment=Lock(num_positions=8, initial_positions=2, grow_every_steps=64))
    now = synthetic.now(10.0, 10.0, fork_step=320)
    assert synthetic.decide([now, cell], grows)["questions"]["later"]["answer"] == answer
    assert question("later", now, cell)["answer"] == "void"
    full = synthetic.experiment(environment=Lock(num_positions=8, initial_positions=6, grow_every_steps=64))
    assert synthetic.decide([now, cell], full)["questions"]["later"]["answer"] == "void"


def test_later_says_whether_the_imitator_exceeds_its_data():
    assert question("later", synthetic.later(10.0))["exceeds_its_data"]["answer"] == "yes"
    assert question("later", synthetic.later(5.0))["exceeds_its_data"]["answer"] == "no"
    scalars = {"best_history_return": np.array([[9.8]])}
    told = dataclasses.replace(synthetic.later(9.0), scalars=scalars)
    assert question("later", told)["exceeds_its_data"]["answer"] == "no"
    told = dataclasses.replace(told, scalars={"best_history_return": np.array([[12.0]])})
    assert question("later", told)["exceeds_its_data"]["answer"] == "void"


# --- ELSEWHERE


def rungs(**ends: float) -> list:
    return [
        synthetic.elsewhere(name.lstrip("r"), end, seed=number)
        for number, (name, end) in enumerate(ends.items())
    ]


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        ({"r0": 1.0, "r2": 10.0, "r2b": 10.0, "r4": 10.0}, "yes"),  # rungs under 2 do not decide
        ({"r0": 10.0, "r1": 10.0, "r2": 1.0, "r5": 1.0}, "no"),
        ({"r2b": 10.0, "r3": 1.0}, "partial"),
        ({"r2": 4.0, "r3": 4.0}, "partial"),
        ({"r0": 10.0, "r1": 10.0}, "not run"),
    ],
)
def test_elsewhere_is_decided_by_unanimity_from_rung_two_up(ends, answer):
    found = question("elsewhere", *rungs(**ends))
    assert found["answer"] == answer
    assert [one["rung"] for one in found["rungs"]] == [name.lstrip("r") for name in ends]


@pytest.mark.parametrize(("learner_end", "counted"), [(8.1, False), (8.4, True)])
def test_a_rung_counts_only_where_the_learner_reaches_eight_tenths_of_its_range(learner_end, counted):
    found = question(
        "elsewhere", synthetic.elsewhere("2", 1.0, learner_end, noise=0.02), synthetic.elsewhere("3", 10.0)
    )
    assert found["rungs"][0]["counted"] is counted
    assert found["rungs"][0]["answer"] == ("no" if counted else "not counted")
    assert found["answer"] == ("partial" if counted else "yes")


def rungs_that_differ(*, in_noise: bool) -> dict:
    """ELSEWHERE of three rungs whose learners differ by their tasks alone: by the same ones, or by others on each."""
    made = [
        synthetic.elsewhere(rung, 6.0, noise=0.0, lasting_noise=1.0, seed=number if in_noise else 0)
        for number, rung in enumerate("234")
    ]
    of = synthetic.experiment(rules=Rules(bootstrap_samples=2000))
    return question("elsewhere", *made, of=of)


def test_the_mean_over_rungs_of_the_same_tasks_is_no_surer_than_one_of_them():
    def width(one: dict) -> float:
        return one["ci95"][1] - one["ci95"][0]

    same, other = rungs_that_differ(in_noise=False), rungs_that_differ(in_noise=True)
    for found in (same, other):
        assert found["num_counted"] == 3
        assert found["estimate"] == pytest.approx(np.mean([one["recovered"] for one in found["rungs"]]))
    one_rung, three = (np.mean([width(one) for one in found["rungs"]]) for found in (same, other))
    assert width(same) == pytest.approx(one_rung, rel=0.05)
    assert width(other) == pytest.approx(three / 3**0.5, rel=0.3)  # learners are paired, and yet independent


def test_the_mean_over_rungs_counts_each_rung_once_whatever_tasks_they_share():
    few = dataclasses.replace(synthetic.elsewhere("4", 4.0, seed=3), task=np.arange(24) // 4)
    found = question("elsewhere", synthetic.elsewhere("2", 9.0), synthetic.elsewhere("3", 9.0, seed=1), few)
    assert found["estimate"] == pytest.approx(np.mean([one["recovered"] for one in found["rungs"]]))
    assert np.isfinite(found["ci95"]).all()


def test_a_rung_whose_range_is_unknown_is_not_counted_and_says_so():
    nowhere = np.full(24, np.nan)
    cell = dataclasses.replace(synthetic.elsewhere("5", 1.0), ceiling_return=nowhere, optimal_return=nowhere)
    found = question("elsewhere", cell)
    assert found["answer"] == "void"
    assert "neither ceiling nor optimum" in found["rungs"][0]["reason"]
    assert found["rungs"][0]["recovered"] == pytest.approx(0, abs=0.05)


# --- the gate, and what makes a run void


def test_a_run_without_fault_is_not_void():
    found = synthetic.decide(synthetic.cells())
    assert found["void"] == []
    assert found["gate"]["passed"] is True
    assert found["gate"]["imitator_gain"] == pytest.approx(1, abs=0.02)
    assert found["gate"]["wiped_gain"] == pytest.approx(0, abs=0.03)
    assert found["gate"]["fraction_of_tasks_above_half"] == 1


def gate_cell(imitator: float, wiped: float, **labels):
    arms = {"learner": 10.0, "imitator": imitator, "imitator_wiped": wiped}
    return synthetic.cell("gate", arms, start_step=0, noise=0.02, **labels)


@pytest.mark.parametrize(
    ("imitator", "wiped", "passed"),
    [(8.75, 1.8, True), (8.55, 1.8, False), (8.75, 2.0, False)],
)
def test_the_gate_needs_the_gain_and_a_wiped_imitator_without_it(imitator, wiped, passed):
    beside = synthetic.experiment(gate=Gate(experiment="gate.toml"))
    found = synthetic.decide([synthetic.now()], beside, gate_cells=[gate_cell(imitator, wiped)])
    assert found["gate"]["passed"] is passed
    assert bool(found["void"]) is not passed


def test_the_gate_needs_most_tasks_above_half():
    cell = gate_cell(10.0, 1.0)
    cell.returns["imitator"][:, :5] = 4.0  # 19 of 24 tasks are left: 0.79
    beside = synthetic.experiment(gate=Gate(experiment="gate.toml"))
    found = synthetic.decide([], beside, gate_cells=[cell])["gate"]
    assert found["imitator_gain"] > 0.85
    assert found["fraction_of_tasks_above_half"] == pytest.approx(19 / 24)
    assert found["passed"] is False


def test_a_failing_gate_voids_the_run():
    found = synthetic.decide(synthetic.cells(process_end=5.0))
    assert [reason.split(":")[0] for reason in found["void"]] == ["the gate failed"]


def test_a_gate_beside_the_run_is_not_replaced_by_the_runs_own_process():
    beside = synthetic.experiment(gate=Gate(experiment="gate.toml"))
    found = synthetic.decide(synthetic.cells(), beside)
    assert found["gate"]["passed"] is None
    assert "not run" in found["void"][0]


def test_the_gate_is_seen_at_the_longest_context():
    cells = [*synthetic.cells(128, process_end=1.0), *synthetic.cells(512)]
    found = synthetic.decide(cells)
    assert found["gate"]["context_steps"] == 512
    assert found["void"] == []


@pytest.mark.parametrize(
    "frozen",
    [
        {"sha256_before": ["a" * 64], "sha256_after": ["b" * 64]},
        {"sha256_before": ["a" * 64, "b" * 64], "sha256_after": ["a" * 64]},
        {"sha256_before": "a" * 64, "sha256_after": "b" * 64},
        {"sha256_before": {"context 8": "a" * 64}, "sha256_after": {"context 8": "b" * 64}},
        {"sha256_before": [], "sha256_after": []},
        {},
    ],
)
def test_changed_or_unrecorded_parameters_void_the_run(frozen):
    found = synthetic.decide(synthetic.cells(), frozen=frozen)
    assert len(found["void"]) == 1
    assert "parameters" in found["void"][0]


def test_equal_hashes_as_strings_do_not_void():
    assert not synthetic.decide(synthetic.cells(), frozen={"sha256_before": "a", "sha256_after": "a"})["void"]


def test_a_positive_control_that_fails_voids_the_run():
    found = synthetic.decide(synthetic.cells(), controls={"learner_posterior": {"passed": False}, "sham": {}})
    assert found["void"] == ["a positive control failed: learner posterior"]
    assert not any("posterior (a" in words or "sham" in words for words in found["not_run"])


# --- whatever is missing


@pytest.mark.parametrize("arm", ["imitator", "learner", "learner_held", "imitator_argmax", "imitator_wiped"])
def test_a_missing_arm_is_named_and_nothing_crashes(arm):
    cells = [synthetic.without(cell, arm) for cell in synthetic.cells()]
    found = synthetic.decide(cells)
    json.dumps(found, allow_nan=False)
    asked = found["questions"]
    unasked = {name for name in asked if asked[name]["answer"] == "not run"}
    expected = {
        "imitator": {"now", "month", "process", "later"},
        "learner": {"process", "later"},
        "learner_held": {"now", "month", "later"},
    }.get(arm, set())
    assert unasked == expected
    assert all(arm in asked[name]["reason"] for name in unasked)


def test_without_cells_every_question_is_not_run_and_the_run_void():
    found = synthetic.decide([])
    assert {one["answer"] for one in found["questions"].values()} == {"not run"}
    assert found["void"]
    assert len(verdict.rows(found)) == 5


def test_cells_of_nan_answer_nothing_and_do_not_crash():
    cells = [
        dataclasses.replace(one, returns={arm: np.full_like(v, np.nan) for arm, v in one.returns.items()})
        for one in synthetic.cells()
    ]
    found = synthetic.decide(cells)
    assert {one["answer"] for one in found["questions"].values()} == {"not run", "void"}


def test_each_protocol_alone_gives_a_verdict():
    for protocol in ("now", "month", "process", "later", "elsewhere"):
        found = synthetic.decide([cell for cell in synthetic.cells() if cell.protocol == protocol])
        asked = {name for name, one in found["questions"].items() if one["answer"] != "not run"}
        assert asked == {protocol}


# --- the verdict as a document


def test_the_verdict_has_the_keys_that_were_promised():
    found = synthetic.decide(synthetic.cells())
    keys = {
        "schema",
        "fingerprint",
        "void",
        "not_run",
        "gate",
        "frozen",
        "training",
        "questions",
        "seconds",
        "td_steps",
    }
    assert keys | {"imitator_steps", "rules"} <= set(found)
    assert found["schema"] == 1
    assert {"passed", "imitator_gain", "wiped_gain", "fraction_of_tasks_above_half"} <= set(found["gate"])
    for one in found["questions"].values():
        assert {"answer", "predicted", "estimate", "ci95", "rule"} <= set(one)
    lists = {
        ("process", "stages"): {"stage_step", "learner_gain", "ratio", "pace", "ci95", "answer"},
        ("later", "forks"): {"fork_step", "now_ratio", "learner_gain", "ratio", "ci95", "answer"},
        ("elsewhere", "rungs"): {"rung", "name", "learner_gain", "recovered", "ci95", "answer"},
    }
    for (name, kind), wanted in lists.items():
        assert found["questions"][name][kind]
        for entry in found["questions"][name][kind]:
            assert wanted <= set(entry)
    assert found["rules"] == dataclasses.asdict(synthetic.experiment().rules)
    assert found["not_run"]


def test_the_verdict_survives_json_and_nan_is_null():
    found = synthetic.decide(synthetic.cells())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["questions"]["later"]["pace"] is None


def test_the_same_cells_give_the_same_verdict_in_any_order():
    assert synthetic.decide(synthetic.cells()) == synthetic.decide(synthetic.cells()[::-1])


def test_a_cell_more_changes_no_other_number():
    cells = synthetic.cells()
    without = synthetic.decide([cell for cell in cells if cell.protocol != "process"])
    assert without["questions"]["now"] == synthetic.decide(cells)["questions"]["now"]
    assert without["questions"]["elsewhere"] == synthetic.decide(cells)["questions"]["elsewhere"]


def test_another_seed_gives_other_intervals():
    cells = [synthetic.now(seeds=1)]
    other = synthetic.decide(cells, synthetic.experiment(seed=1))
    assert other["questions"]["now"]["ci95"] != synthetic.decide(cells)["questions"]["now"]["ci95"]


def test_questions_are_those_of_the_configured_context_and_all_contexts_are_listed():
    cells = [*synthetic.cells(128, process_end=1.0), *synthetic.cells(512)]
    long = synthetic.experiment(imitator=Imitator(context_steps=512))
    short = synthetic.decide(cells)
    assert short["questions"]["process"]["answer"] == "no"
    assert synthetic.decide(cells, long)["questions"]["process"]["answer"] == "yes"
    assert {name: one["process"]["answer"] for name, one in short["contexts"].items()} == {
        "128": "no",
        "512": "yes",
    }


def test_the_rules_in_words_name_the_configured_bounds():
    of = synthetic.experiment(rules=Rules(parity=0.8, learns_yes=0.6, bootstrap_samples=50))
    found = synthetic.decide([synthetic.now(9.0)], of)["questions"]
    assert "above 0.8" in found["now"]["rule"]
    assert "below 0.8" in found["now"]["rule"]
    assert "above 0.6" in found["process"]["rule"]
    assert found["now"]["answer"] == "yes"  # 0.89, which the default rules would not let pass


def test_a_learner_that_ends_no_higher_than_random_has_no_range_to_gain_a_share_of():
    one = synthetic.decide([synthetic.process(0.0, learner_end=0.0)])["questions"]["process"]
    assert (one["answer"], one["learner_gain"]) == ("void", None)
    assert one["reason"] == "the learner itself ends no higher than random: it has no range"


def test_the_table_has_a_row_a_question():
    table = verdict.rows(synthetic.decide(synthetic.cells()))
    assert [row[1::2][:2] for row in table] == [  # measured, and what the essay predicts
        ("yes", "yes"),
        ("yes", "yes"),
        ("yes", "no"),
        ("no", "no"),
        ("no", "no"),
    ]
    assert all(len(row) == len(verdict.COLUMNS) for row in table)
    assert table[0][2].startswith("1.00 [0.9")
