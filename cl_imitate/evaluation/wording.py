"""The questions, rules and answers in plain words, for the verdict, the terminal and the report."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeGuard

from cl_imitate.config import Experiment, Rules

QUESTIONS = {
    "now": "NOW: at the end of training, does it act as the learner does, and as well? (Joe today)",
    "month": "MONTH: can it be Joe plus a month of a field that is in its training data?",
    "process": "PROCESS: does it reproduce the process by which Joe grows?",
    "later": "LATER: does it go on improving after the recording stopped, as the learner does?",
    "elsewhere": "ELSEWHERE: in a task never seen, is it terrible at first and an expert later?",
}

PREDICTED = {"now": "yes", "month": "yes", "process": "no", "later": "no", "elsewhere": "no"}
"""What the post predicts."""

_CONTROLS = (
    (
        ("learner_posterior",),
        "positive control: the learner posterior (a Bayesian mixture over learners actually run)",
    ),
    (("learner_posterior_without_truth",), "the learner posterior with the true learner left out"),
    (("floor",), "floor: clones of the learner that differ only in hidden randomness"),
    (
        ("novelty",),
        "behavioural novelty: the share of what is done after the fork that no training history holds",
    ),
    (("sham",), "sham learner (the same return curve, made by mixing snapshots)"),
    (("shuffled", "reward_masked"), "episodes shuffled; rewards masked"),
    (("counterfactual_learner",), "counterfactual learner (an off-policy DQN fed the imitator's own stream)"),
    (("stalled",), "stalled learner's history"),
    (("pace",), "prompts from faster and slower learners at equal return"),
    (("test_time_training",), "test-time training (the imitator's weights unfrozen)"),
)
_BESIDE = (
    "the other rungs of imitator.sees (epsilon coin, replay indices, initialisation shown to the imitator, or not)",
    "sweep of model size, data and training steps until held-out cross-entropy stops falling",
)


def not_run(experiment: Experiment, controls: Collection[str]) -> list[str]:
    """In words, what would make the answers more worth believing and was not run."""
    missing = [words for names, words in _CONTROLS if not set(names) <= set(controls)]
    recurrent = (
        ["recurrent imitator with unbounded state"] if experiment.imitator.kind == "transformer" else []
    )
    replay_free = [] if experiment.learner.replay == "latest" else ["deterministic, replay-free learner"]
    return [*missing, *recurrent, *replay_free, *_BESIDE]


_MEANING = {
    ("now", "yes"): "The frozen imitator is as good as the learner it watched, as the learner is now.",
    ("now", "no"): "Even the learner's present skill is not reproduced.",
    ("now", "undecided"): "The interval contains the bound: more learners or imitator seeds would decide.",
    ("month", "yes"): "Asked for an older learner, it acts as one, on tasks that were in its training data.",
    ("month", "no"): "Asked for an older learner, it falls short even on training tasks.",
    ("month", "undecided"): "At its worst stage, the interval contains the bound.",
    ("process", "yes"): "Weights frozen, it improves as the learner did over the recorded span.",
    (
        "process",
        "partial",
    ): "It is settled neither that it reaches half of what the learner gains over the span, nor "
    "that it gains next to nothing.",
    ("process", "no"): "It does not improve as the learner did, though every stage was in its training data.",
    ("process", "void"): "Cannot be asked here: see the reason.",
    ("later", "yes"): "Weights frozen, it goes on improving after its own NOW.",
    (
        "later",
        "partial",
    ): "It is settled neither that it reaches half of what the learner goes on to gain, nor that it "
    "gains next to nothing.",
    ("later", "no"): "It stays where the recording stopped, or falls back, while the learner goes on.",
    ("later", "void"): "Cannot be asked at this fork: see the reason.",
    (
        "elsewhere",
        "yes",
    ): "It learns from nothing wherever the learner does, in every counted rung from 2 up.",
    ("elsewhere", "partial"): "It learns in some of the new tasks, or only in part.",
    ("elsewhere", "no"): "It does not learn in any task that is new in more than its hidden goal.",
    ("elsewhere", "void"): "No rung from 2 up counts: see the reasons.",
}


def meaning(question: str, answer: str) -> str:
    """What an answer means."""
    return _MEANING.get((question, answer), "Not measured in this run.")


def rules_in_words(rules: Rules) -> dict[str, str]:
    """Each question's rule, as it is applied."""
    percent = f"{100 * rules.confidence:.4g}%"
    bounds = (
        f"yes if the lower bound of the {percent} interval is above {rules.learns_yes:g}; no if the upper bound "
        f"is below {rules.learns_no:g} (getting worse is also no); else partial"
    )
    even = (
        f"yes if the lower bound of the {percent} interval is above {rules.parity:g} (exceeds if above "
        f"{rules.exceeds:g}); no if the upper bound is below {rules.parity:g}; else undecided"
    )
    end = f"the last {rules.reference_fraction:.0%} of the horizon"
    return {
        "now": "rho = the frozen imitator's gain over random / the held learner's gain over random, both "
        f"right after the fork; {even}.",
        "month": "rho as in NOW, against the learner held at the age asked for; the answer is that of the worst "
        f"stage on training tasks, Holm-corrected over stages; {even}.",
        "process": f"r = the imitator's gain over the span / the learner's. A gain is the level in {end} less "
        "the level both start from: the learner held at the start of the span (an untrained one at 0), or "
        "random where that was not run. The answer is that of an empty context (stage 0); "
        f"{bounds}. Void where the learner gains under {rules.min_learner_gain:.0%} of its range.",
        "later": f"r = the imitator's gain after its own NOW / the learner's gain after the fork: levels in {end}, "
        f"less the imitator's and the held learner's levels right after the fork; {bounds}. In a task that grows "
        "after the fork, both are less the held learner's level in the end, where it has fallen. Void at a fork where "
        f"the learner gains under {rules.min_learner_gain:.0%} of its range, the held learner is not clearly better "
        f"than random, or rho at NOW is under {rules.later_min_now_ratio:g}.",
        "elsewhere": f"recovered = the imitator's gain over random in {end}, from an empty context / a fresh "
        f"learner's; per rung {bounds}. A rung counts only where the learner itself reaches "
        f"{rules.elsewhere_min_learner_gain:g} of its range up to the ceiling. Overall: yes or no if "
        "unanimous over counted rungs from 2 up, else partial; void if none counts.",
    }


_SENTENCES = {
    "now": {
        "yes": "matches the learner as it is at the end of training",
        "no": "does not match even the learner as it is at the end of training",
        "undecided": "may or may not match the learner as it is at the end of training (undecided)",
    },
    "process": {
        "yes": "reproduces the process by which the learner became so",
        "partial": "reproduces in part the process by which the learner became so",
        "at most": "reproduces in part, at most, the process by which the learner became so (not settled whether at "
        "all)",
        "at least": "reproduces in part, at least, the process by which the learner became so (not settled whether as "
        "much of it as a yes needs, {learns_yes:g})",
        "unsettled": "may or may not reproduce the process by which the learner became so (not settled)",
        "no": "does not reproduce the process by which the learner became so",
        "void": "cannot be tested here on the process by which the learner became so",
    },
    "later": {
        "yes": "goes on improving after the recording stopped, as the learner does",
        "partial": "goes on improving in part after the recording stopped",
        "at most": "goes on improving in part, at most, after the recording stopped (not settled whether at all)",
        "at least": "goes on improving in part, at least, after the recording stopped (not settled whether by as much "
        "as a yes needs, {learns_yes:g})",
        "unsettled": "may or may not go on improving after the recording stopped (not settled)",
        "no": "does not go on improving after the recording stopped, while the learner does",
        "void": "cannot be tested here on what comes after the recording stopped",
    },
    "elsewhere": {
        "yes": "learns in every kind of new task that counts",
        "no": "learns in none of the new tasks",
        "void": "cannot be tested here on new tasks",
    },
}


_OF_WHAT = {
    "now": "of the learner's gain over random",
    "process": "of the learner's improvement",
    "later": "of the learner's further improvement",
    "elsewhere": "of a fresh learner's gain, over all that count",
}


def summary(questions: Mapping[str, Mapping], rules: Rules, void: Sequence[str] = ()) -> str:
    """Two sentences for the reader who reads nothing else: what was found, and how sure it is.

    Of a void run: why it answers nothing, and what it measured all the same.
    """
    if void:
        asked = {name: one for name, one in questions.items() if one["answer"] != "not run"}
        found = ", ".join(f"{name.upper()} {one['answer']}{_figure(one)}" for name, one in asked.items())
        measured = f"What it measured ({found}) stands for nothing" if found else "It measured nothing else"
        return f"This run is void and answers nothing: {'; '.join(void)}. {measured} until that is mended."
    answers = {name: one["answer"] for name, one in questions.items()}
    clauses = {
        name: texts.get(answers[name], f"was not asked about {name.upper()}")
        for name, texts in _SENTENCES.items()
    }
    for name in ("process", "later"):
        if answers[name] == "partial":
            found = _SENTENCES[name][_settled(questions[name]["ci95"], rules)]
            clauses[name] = found.format(learns_yes=rules.learns_yes)
    if questions["now"].get("exceeds"):
        clauses["now"] = "is better than the learner is at the end of training"
    if answers["elsewhere"] == "partial":
        clauses["elsewhere"] = _counted(questions["elsewhere"]["rungs"])
    clauses = {name: _with_figure(clause, name, questions[name]) for name, clause in clauses.items()}
    first, second = (_join(pair, answers, clauses) for pair in (("now", "process"), ("later", "elsewhere")))
    return f"With its weights frozen, the imitator {first}. Beyond its training data, it {second}."


def number(estimate: float | None, ci95: Sequence[float | None]) -> str:
    """`0.98 [0.95, 1.01]`; a dash for what was not measured."""
    if not is_known(estimate):
        return "–"
    shown = [f"{round(one, 2) + 0.0:.2f}" if is_known(one) else "?" for one in (estimate, *ci95)]
    return f"{shown[0]} [{', '.join(shown[1:])}]"


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether it was measured: neither null, as in a verdict's file, nor NaN or infinite."""
    return value is not None and math.isfinite(value)


def ends_of(one: Mapping) -> tuple[float, float] | None:
    """Of an entry's interval; None where it has none, or where one end is not known."""
    low, high = one["ci95"]
    return (low, high) if is_known(low) and is_known(high) else None


def _figure(one: Mapping) -> str:
    return f" {number(one['estimate'], one['ci95'])}" if is_known(one["estimate"]) else ""


def _with_figure(clause: str, name: str, one: Mapping) -> str:
    """A clause with the figure that it rests on, or why there is none."""
    said = f"{_figure(one)[1:]} {_OF_WHAT[name]}" if _figure(one) else ""
    if one["answer"] == "void":
        said = one.get("reason") or ""
    if one["answer"] == "not run" or not said:
        return clause
    return f"{clause[:-1]}; {said})" if clause.endswith(")") else f"{clause} ({said})"


def how_sure(verdict: Mapping) -> str:
    """What the intervals are over, and whether the instrument was seen to see a yes."""
    sizes = [one for one in verdict["questions"].values() if one.get("num_learners")]
    sizes += [one for one in verdict["questions"]["elsewhere"].get("rungs", []) if one.get("num_learners")]
    said = []
    if sizes:
        learners = _from_to([one["num_learners"] for one in sizes], "held-out learner")
        seeds = _from_to([one["num_imitator_seeds"] for one in sizes], "imitator seed")
        percent = f"{100 * verdict['rules']['confidence']:.4g}%"
        alone = ", of which they say nothing" if seeds == "1 imitator seed" else ""
        said.append(f"Brackets are {percent} intervals over {learners} and {seeds}{alone}.")
    gate = verdict["gate"]
    if gate["passed"]:
        said.append(
            "That a yes can be seen at all, the gate shows: "
            f"{number(gate['imitator_gain'], gate['imitator_gain_ci95'])} of the learner's gain, "
            f"{gate['required']['min_gain']:g} needed."
        )
    tried = [found["passed"] for found in verdict["controls"].values() if found.get("passed") is not None]
    if tried:
        said.append(f"Positive controls passed: {sum(tried)} of {len(tried)}.")
    return " ".join(said)


def _from_to(counts: Sequence[int], what: str) -> str:
    few, many = min(counts), max(counts)
    return f"{few if few == many else f'{few} to {many}'} {what}{'' if many == 1 else 's'}"


def _settled(ci95: Sequence[float], rules: Rules) -> str:
    """Of an interval that gives neither a yes nor a no: which of the two it leaves out, as `_SENTENCES` calls it."""
    is_no_no, is_no_yes = ci95[0] > rules.learns_no, ci95[1] < rules.learns_yes
    return {
        (True, True): "partial",
        (False, True): "at most",
        (True, False): "at least",
        (False, False): "unsettled",
    }[is_no_no, is_no_yes]


def _counted(rungs: Sequence[Mapping]) -> str:
    """How many of the counted rungs from 2 up say what."""
    found = [one["answer"] for one in rungs if one["counted"] and one["rung"] not in ("0", "1")]
    part = f" (and in part, or not settled, in {found.count('partial')})" if "partial" in found else ""
    return f"learns in {found.count('yes')} of {len(found)} new tasks that count{part}"


def _join(pair: tuple[str, str], answers: Mapping[str, str], clauses: Mapping[str, str]) -> str:
    same = (answers[pair[0]] == "yes") == (answers[pair[1]] == "yes")
    return f"{clauses[pair[0]]}, {'and' if same else 'but'} it {clauses[pair[1]]}"
