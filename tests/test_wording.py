"""The sentences of the report's first screen, at every answer."""

import pytest
import synthetic
from synthetic import decide_past_the_gate as decide

from cl_imitate.config import Rules
from cl_imitate.evaluation import wording


def said(*cells) -> str:
    return decide(*cells)["summary"]


def figure(verdict: dict, name: str) -> str:
    one = verdict["questions"][name]
    return wording.number(one["estimate"], one["ci95"])


def test_the_summary_is_two_sentences_that_say_each_answer_with_its_interval():
    found = decide(*synthetic.cells())
    assert not found["void"]
    assert found["summary"].count(". ") == 1
    assert found["summary"].endswith(".")
    for name, words in {
        "now": "matches the learner as it is at the end of training",
        "process": "reproduces the process by which the learner became so",
        "later": "does not go on improving after the recording stopped, while the learner does",
        "elsewhere": "learns in none of the new tasks",
    }.items():
        assert f"{words} ({figure(found, name)} of " in found["summary"]


def test_the_summary_says_what_was_not_asked_and_what_is_exceeded():
    assert "was not asked about LATER" in said()
    assert "was not asked about LATER (" not in said()
    assert "is better than the learner is at the end of training (1." in said(synthetic.now(12.0))


def test_the_summary_does_not_claim_what_is_not_settled():
    narrow = decide(synthetic.process(4.0))
    wide = decide(synthetic.process(5.5, seed_noise=2.0))
    assert narrow["questions"]["process"]["answer"] == wide["questions"]["process"]["answer"] == "partial"
    assert (
        f"reproduces in part the process by which the learner became so ({figure(narrow, 'process')} of"
        in (narrow["summary"])
    )
    assert f"as a yes needs, 0.5; {figure(wide, 'process')} of the learner's improvement)" in wide["summary"]
    some = said(
        synthetic.elsewhere("2", 10.0),
        synthetic.elsewhere("3", synthetic.RANDOM),
        synthetic.elsewhere("4", synthetic.RANDOM),
    )
    assert "learns in 1 of 3 new tasks that count (0." in some


@pytest.mark.parametrize(
    ("ci95", "process", "later"),
    [
        ((0.2, 0.4), "reproduces in part the process by", "goes on improving in part after"),
        ((0.1, 0.4), "reproduces in part, at most, the", "goes on improving in part, at most, after"),
        ((0.2, 0.5), "reproduces in part, at least, the", "goes on improving in part, at least, after"),
        ((0.15, 1.02), "reproduces in part, at least, the", "goes on improving in part, at least, after"),
        ((0.1, 0.5), "may or may not reproduce the", "may or may not go on improving after"),
        (
            (-float("inf"), float("inf")),
            "may or may not reproduce the",
            "may or may not go on improving after",
        ),
    ],
)
def test_the_summary_leaves_open_only_what_the_interval_leaves_open(ci95, process, later):
    one = {"answer": "partial", "estimate": 0.3, "ci95": ci95}
    asked = {
        name: {"answer": "not run", "estimate": None, "ci95": (None, None)} for name in wording.QUESTIONS
    }
    found = wording.summary({**asked, "process": one, "later": one}, Rules())
    for words in (process, later):
        assert f" it {words} " in found
    assert ("not settled" in found) == (ci95 != (0.2, 0.4))
    assert ("as a yes needs, 0.5; 0.30 [" in found) == ("at least" in process)
    assert ("not settled whether at all; 0.30 [" in found) == ("at most" in process)


def test_the_summary_says_why_a_question_is_void_and_gives_it_no_figure():
    found = decide(synthetic.later(10.0, start=9.9))
    reason = found["questions"]["later"]["reason"]
    assert "of its range" in reason
    assert f"cannot be tested here on what comes after the recording stopped ({reason})" in found["summary"]
    assert figure(found, "later") not in found["summary"]


def test_the_summary_of_a_void_run_answers_nothing_says_why_and_what_was_measured():
    found = synthetic.decide([synthetic.now(), synthetic.process(1.0)])
    [reason] = found["void"]
    assert found["summary"].count(". ") == 1
    assert found["summary"].startswith(f"This run is void and answers nothing: {reason}. ")
    assert (
        f"(NOW yes {figure(found, 'now')}, PROCESS no {figure(found, 'process')}) stands for nothing"
        in (found["summary"])
    )
    assert "matches" not in found["summary"]
    assert "It measured nothing else until" in synthetic.decide([])["summary"]


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
def test_a_number_that_is_not_known_is_shown_as_such(missing):
    assert wording.number(missing, (0.0, 1.0)) == "–"
    assert wording.number(0.5, (missing, 0.75)) == "0.50 [?, 0.75]"
    assert wording.number(-0.001, (-0.004, 0.004)) == "0.00 [0.00, 0.00]"


def test_how_sure_counts_learners_seeds_and_positive_controls_and_names_the_gate():
    controls = {
        "learner_posterior": {"passed": True, "estimate": 1.0, "ci95": (1.0, 1.0)},
        "learner_posterior_without_truth": {"passed": None, "estimate": 0.5, "ci95": (0.4, 0.6)},
    }
    small = synthetic.elsewhere("2", 10.0, learners=8)
    words = wording.how_sure(decide(synthetic.now(), small, controls=controls))
    assert "95% intervals over 8 to 24 held-out learners and 3 imitator seeds" in words
    assert "the gate shows: 1.0" in words
    assert "Positive controls passed: 1 of 1." in words
    alone = wording.how_sure(decide(synthetic.now(seeds=1)))
    assert "over 24 held-out learners and 1 imitator seed, of which they say nothing." in alone


def test_how_sure_does_not_speak_of_a_gate_that_was_not_passed():
    assert "gate" not in wording.how_sure(synthetic.decide([synthetic.now()]))
