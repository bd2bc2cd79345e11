"""What answers mean and how figures are written, in words."""

import dataclasses

import pytest
import synthetic
from synthetic import decide_past_the_gate as decide

from cl_imitate.config import Lock, Rules
from cl_imitate.evaluation import wording


@pytest.mark.parametrize("question", ["process", "later"])
@pytest.mark.parametrize(
    ("ci95", "words"),
    [
        ((0.2, 0.4), {"gains something", "less than half"}),
        ((0.06, 0.25), {"gains less than half", "more than next to nothing is open"}),
        ((0.26, 1.15), {"more than next to nothing", "reaches half of what the learner", "is open"}),
        ((-0.2, 1.15), {"leaves open both", "reaches half", "gains anything"}),
    ],
)
def test_a_partial_answer_means_what_its_interval_settles_and_no_more(question, ci95, words):
    meant = wording.meaning(question, {"answer": "partial", "ci95": ci95}, Rules())
    for one in words:
        assert one in meant
    assert ("open" in meant) == (ci95 != (0.2, 0.4))


BY_INTERVAL = "The interval contains the bound: more learners or imitator seeds would decide."


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (synthetic.now(9.1, noise=0.4), BY_INTERVAL),
        (
            synthetic.now(9.1, noise=0.4, seeds=1),
            f"One imitator seed: the interval does not cover seeds. {BY_INTERVAL}",
        ),
        (synthetic.now(1.0, 1.0), "The held learner is not clearly better than random."),
        (synthetic.now(learners=1), "One held-out learner: the interval does not cover learners."),
    ],
)
def test_an_undecided_now_means_what_left_it_so(cell, words):
    one = decide(cell)["questions"]["now"]
    assert (one["answer"], one["meaning"]) == ("undecided", words)


def test_the_share_in_a_meaning_is_that_of_the_rules():
    meant = wording.meaning("later", {"answer": "partial", "ci95": (0.0, 0.3)}, Rules(learns_yes=0.6))
    assert meant.startswith("It gains less than 0.6 of what the learner goes on to gain")
    assert "half" not in meant


def test_a_declining_imitator_in_a_growing_task_keeps_up_and_is_not_said_to_improve():
    """It ends below its own NOW, but above the learner that stopped learning."""
    of = synthetic.with_own_gate()
    grown = dataclasses.replace(
        of, environment=Lock(initial_positions=4, grow_every_steps=64, grow_from_step=320)
    )
    cell = synthetic.later(8.5, learner_end=9.0, start=9.0)
    cell.returns["learner_held"] = synthetic.cell(
        "later", {"held": synthetic.rising(9, 2, blocks=40)}
    ).returns["held"]
    found = synthetic.decide([cell], grown, gate_cells=[synthetic.passed_gate()])
    one = found["questions"]["later"]
    assert (one["answer"], one["task_grows"]) == ("yes", True)
    assert "keeps up as the task grows" in one["meaning"]
    assert "keep up as the task grows" in one["question"]
    assert "it keeps up as the task grows after the recording stopped" in found["summary"]
    for words in (one["meaning"], one["question"], found["summary"]):
        assert "improv" not in words
    assert decide(synthetic.later(9.0))["questions"]["later"]["task_grows"] is False


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_number_that_is_not_known_is_shown_as_such(missing):
    assert wording.number(missing, (0.0, 1.0)) == "–"
    assert wording.number(0.5, (missing, 0.75)) == "0.50 [?, 0.75]"
    assert wording.number(-0.001, (-0.004, 0.004)) == "0.00 [0.00, 0.00]"
