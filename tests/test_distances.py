"""What would have changed the answer: the distances of intervals to their rules' bounds."""

import numpy as np
import pytest
import synthetic
from synthetic import decide_past_the_gate as decide

from cl_imitate.config import Rules
from cl_imitate.evaluation.distances import would_change

RULES = Rules()


def question(name: str, answer: str, low: float | None, high: float | None, **more) -> str:
    """The sentence of one question, all others not having been asked."""
    verdict = decide()
    one = {"answer": answer, "estimate": 0.5, "ci95": [low, high], "reason": None, **more}
    verdict["questions"][name] |= one
    [sentence] = would_change(verdict, RULES)
    return sentence


@pytest.mark.parametrize(
    ("name", "answer", "low", "high", "distances"),
    [
        ("now", "yes", 0.96, 1.01, ["lower end of its interval, 0.96, were 0.06 lower (0.9)"]),
        ("now", "no", 0.1, 0.44, ["upper end of its interval, 0.44, were 0.46 higher (0.9)"]),
        (
            "now",
            "undecided",
            0.8,
            1.0,
            [
                "a yes if the lower end of its interval, 0.80, were above 0.9",
                "a no if the upper end, 1.00, were below 0.9",
            ],
        ),
        ("month", "no", 0.1, 0.44, ["MONTH", "0.44, were 0.46 higher (0.9)"]),
        ("process", "yes", 0.99, 1.03, ["0.99, were 0.49 lower (0.5)"]),
        ("process", "no", -0.2, 0.06, ["0.06, were 0.04 higher (0.1)"]),
        (
            "later",
            "partial",
            0.06,
            0.25,
            [
                "a yes if the lower end of its interval, 0.06, were above 0.5",
                "a no if the upper end, 0.25, were below 0.1",
            ],
        ),
    ],
)
def test_an_interval_is_so_far_from_the_bounds_of_its_own_rule(name, answer, low, high, distances):
    sentence = question(name, answer, low, high)
    assert sentence.startswith(name.upper())
    assert f" would stop being a {answer} if" in sentence or f" is {answer}. It would" in sentence
    for words in distances:
        assert words in sentence


def test_bounds_are_those_of_the_rules_given():
    verdict = decide(synthetic.now())
    low = verdict["questions"]["now"]["ci95"][0]
    [sentence] = would_change(verdict, Rules(parity=0.7))
    assert f"were {low - 0.7:.2f} lower (0.7)" in sentence


@pytest.mark.parametrize(
    ("answer", "low", "high", "reason"),
    [
        ("void", 0.6, 0.9, "the learner itself gains 12% of its range, under 20%"),
        ("undecided", 0.95, 1.0, "decided alone, but not after Holm's correction over stages"),
        ("void", None, None, "at NOW the imitator has 0.45 of the learner's gain, under 0.7"),
    ],
)
def test_an_answer_that_is_not_its_intervals_gives_its_reason_and_no_distance(answer, low, high, reason):
    sentence = question("later" if answer == "void" else "month", answer, low, high, reason=reason)
    assert sentence.endswith(f"is {answer} whatever its interval: {reason}.")


def test_a_reason_beside_an_open_interval_is_said_too():
    reason = "the held learner is not clearly better than random"
    assert question("now", "undecided", -2.0, 2.0, reason=reason).startswith(
        f"NOW is undecided; {reason}. It"
    )


def test_what_was_not_asked_has_no_sentence():
    assert would_change(decide(), RULES) == []
    assert len(would_change(decide(synthetic.now(), synthetic.process()), RULES)) == 2


def test_elsewhere_is_as_far_as_its_nearest_rung_and_if_partial_as_its_furthest():
    everywhere = [synthetic.elsewhere("2", 10.0), synthetic.elsewhere("3", 8.0, rung_name="harder")]
    found = decide(*everywhere)
    low = min(rung["ci95"][0] for rung in found["questions"]["elsewhere"]["rungs"])
    [sentence] = would_change(found, RULES)
    assert "nearest rung, harder, would stop being a yes" in sentence
    assert f"{low:.2f}, were {low - 0.5:.2f} lower (0.5)" in sentence
    found = decide(*everywhere, synthetic.elsewhere("4", synthetic.RANDOM, rung_name="dark room"))
    ends = {rung["name"]: rung["ci95"] for rung in found["questions"]["elsewhere"]["rungs"]}
    [sentence] = would_change(found, RULES)
    assert "all 3 rungs that count must agree" in sentence
    assert f"above 0.5 (the lowest is {ends['dark room'][0]:.2f}, of dark room)" in sentence
    assert f"below 0.1 (the highest is {ends['rung 2'][1]:.2f}, of rung 2)" in sentence


def test_elsewhere_without_a_counted_rung_says_so():
    [sentence] = would_change(decide(synthetic.elsewhere("2", 1.0, learner_end=2.0)), RULES)
    assert sentence == "ELSEWHERE (new tasks) is void: no rung from 2 up counts."


def test_a_void_run_says_by_how_much_its_gate_failed_and_nothing_of_its_questions():
    verdict = synthetic.decide([synthetic.now(), synthetic.process(1.0)])
    [sentence] = would_change(verdict, RULES)
    gain = verdict["gate"]["imitator_gain"]
    assert f"recovers {gain:.2f} of the learner's gain, {0.85 - gain:.2f} short of 0.85" in sentence
    assert "above half on 0% of tasks, 80% short of 80%" in sentence
    assert "wiped" not in sentence  # that bound was met


def test_a_gate_that_fails_by_its_wiped_arm_and_other_reasons_are_said():
    leaks = synthetic.cell(
        "gate", dict.fromkeys(synthetic.passed_gate().returns, synthetic.rising(1, 10)), start_step=0
    )
    altered = {"sha256_before": ["a"], "sha256_after": ["b"]}
    verdict = synthetic.decide(
        [synthetic.now()], synthetic.with_own_gate(), gate_cells=[leaks], frozen=altered
    )
    first, second = would_change(verdict, RULES)
    assert "with a wiped context 1.0" in first
    assert "above 0.1." in first
    assert "recovers" not in first
    assert "SHA-256 before and after differ" in second


def test_a_gate_that_was_not_run_is_the_reason():
    [sentence] = would_change(synthetic.decide([synthetic.now()]), RULES)
    assert "if not for this: the gate was not run" in sentence


def test_every_sentence_of_a_whole_run_is_one_line_without_nan():
    for cells in (synthetic.cells(), synthetic.cells(process_end=1.0), [synthetic.later(np.nan)]):
        for sentence in would_change(decide(*cells), RULES):
            assert "\n" not in sentence
            assert "nan" not in sentence
            assert sentence.endswith(".")
