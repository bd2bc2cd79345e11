"""The sentences of the report's first screen, at every answer."""

import pytest
import synthetic
from synthetic import decide_past_the_gate as decide

from cl_imitate.config import Rules
from cl_imitate.evaluation import lead, wording


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
        f"became so: it improves by less than half of what the learner did ({figure(narrow, 'process')} of the"
        in narrow["summary"]
    )
    assert (
        f"perhaps by half of what the learner did or more ({figure(wide, 'process')} of the"
        in wide["summary"]
    )
    some = said(
        synthetic.elsewhere("2", 10.0),
        synthetic.elsewhere("3", synthetic.RANDOM),
        synthetic.elsewhere("4", synthetic.RANDOM),
    )
    assert "learns in 1 of 3 new tasks that count (0." in some


INFINITE = (-float("inf"), float("inf"))
LESS, MORE = (
    "by less than half of what the learner",
    "by more than next to nothing, perhaps by half of what the learner",
)


def entry(answer: str, ci95=(None, None), **more) -> dict:
    return {"answer": answer, "estimate": None if ci95[0] is None else 0.3, "ci95": ci95, **more}


def asked(**entries) -> dict:
    return {name: entry("not run") for name in wording.QUESTIONS} | entries


@pytest.mark.parametrize(
    ("ci95", "words", "open_end"),
    [
        ((0.2, 0.4), LESS, ""),
        ((0.1, 0.4), LESS, ", perhaps by next to nothing"),
        ((0.2, 0.5), MORE, " or more"),
        ((0.15, 1.02), MORE, " or more"),
    ],
)
def test_the_summary_leaves_open_only_what_the_interval_leaves_open(ci95, words, open_end):
    one = entry("partial", ci95)
    found = lead.summary(asked(process=one, later=one), Rules())
    assert f"{words} did{open_end} (0.30 [" in found
    assert f"{words} does{open_end} (0.30 [" in found
    assert ("perhaps" in found) == bool(open_end)
    assert "not settled" not in found


@pytest.mark.parametrize("ci95", [(0.1, 0.5), INFINITE])
def test_the_summary_of_an_interval_that_holds_both_bounds_settles_nothing(ci95):
    one = entry("partial", ci95)
    found = lead.summary(asked(process=one, later=one), Rules())
    assert (
        "it may or may not reproduce the process by which the learner became so (not settled; 0.30" in found
    )
    assert "it may or may not go on improving after the recording stopped (not settled; 0.30" in found


def test_the_summary_names_the_share_that_the_rules_ask_for():
    found = lead.summary(asked(later=entry("partial", (0.0, 0.3))), Rules(learns_yes=0.6))
    assert "by less than 0.6 of what the learner does" in found
    assert "half" not in found


@pytest.mark.parametrize(
    ("answer", "ci95", "words"),
    [
        (
            "yes",
            (0.6, 1.1),
            "keeps up as the task grows after the recording stopped, as the learner does (0.30",
        ),
        ("no", (-0.3, 0.0), "does not keep up as the task grows"),
        (
            "partial",
            (0.0, 0.3),
            "less than half of the learner's lead over one that stopped learning, perhaps next",
        ),
    ],
)
def test_in_a_task_that_grows_the_summary_says_whether_it_keeps_up_not_that_it_improves(answer, ci95, words):
    found = lead.summary(asked(later=entry(answer, ci95, task_grows=True)), Rules())
    assert words in found
    assert "improv" not in found


UNCLEAR = {
    "estimate": 0.14,
    "ci95": (-0.09, 0.37),
    "altered": {"estimate": 0.87, "ci95": (0.64, 1.1)},
}


def doubted(sham: dict | None, answer: str = "yes") -> str:
    controls = {} if sham is None else {"sham": sham}
    return lead.summary(asked(process=entry(answer, (0.9, 1.1))), Rules(), controls=controls)


def test_a_process_that_the_sham_learner_leaves_in_doubt_is_not_claimed_without_it():
    reach = "; imitators of lives in which nobody learns reach 0.87 [0.64, 1.10], so "
    open_words = f"of the learner's improvement{reach}whether learning had to be seen is undecided)"
    assert open_words in doubted(UNCLEAR)
    assert doubted(UNCLEAR).count(". ") == 1
    as_good = UNCLEAR | {"ci95": (-0.05, 0.08)}
    assert f"{reach}learning need not have been seen)" in doubted(as_good)
    assert f"{reach}learning need not have been seen)" in doubted(UNCLEAR | {"ci95": (-0.3, -0.02)})


def test_a_sham_learner_that_gets_there_later_is_said_to():
    whole = {"whole_span_difference": 0.2, "whole_span_difference_ci95": (0.11, 0.29)}
    found = doubted(UNCLEAR | whole)
    assert "nobody learns get there later: 0.20 [0.11, 0.29] less of the gain over the whole span)" in found
    assert "undecided" not in found
    unclear = {"whole_span_difference": 0.2, "whole_span_difference_ci95": (-0.11, 0.29)}
    assert doubted(UNCLEAR | unclear) == doubted(UNCLEAR)
    assert doubted(UNCLEAR | {"whole_span_difference": None}) == doubted(UNCLEAR)


@pytest.mark.parametrize(
    "sham",
    [
        {},
        UNCLEAR | {"ci95": (0.02, 0.37)},  # it had to be seen
        UNCLEAR | {"ci95": (None, None)},
        UNCLEAR | {"altered": {"estimate": None, "ci95": (None, None)}},
    ],
)
def test_a_sham_learner_that_leaves_no_doubt_or_says_nothing_is_not_spoken_of(sham):
    assert doubted(sham) == doubted(None)
    assert doubted(UNCLEAR, answer="no") == doubted(None, answer="no")


def test_the_verdict_gives_the_summary_what_its_controls_say():
    sham = {"sham": UNCLEAR | {"unit": "", "meaning": ""}}
    assert "nobody learns reach 0.87" in decide(synthetic.process(), controls=sham)["summary"]


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


def test_how_sure_counts_learners_seeds_and_positive_controls_and_names_the_gate():
    controls = {
        "learner_posterior": {"passed": True, "estimate": 1.0, "ci95": (1.0, 1.0)},
        "learner_posterior_without_truth": {"passed": None, "estimate": 0.5, "ci95": (0.4, 0.6)},
    }
    small = synthetic.elsewhere("2", 10.0, learners=8)
    words = lead.how_sure(decide(synthetic.now(), small, controls=controls))
    assert "95% intervals over 8 to 24 held-out learners and 3 imitator seeds" in words
    assert "the gate shows: 1.0" in words
    assert "Positive controls passed: 1 of 1." in words
    alone = lead.how_sure(decide(synthetic.now(seeds=1)))
    assert "over 24 held-out learners and 1 imitator seed, of which they say nothing." in alone


def test_how_sure_does_not_speak_of_a_gate_that_was_not_passed():
    assert "gate" not in lead.how_sure(synthetic.decide([synthetic.now()]))
