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
_GROWING = "LATER: does it keep up as the task grows after the recording stopped, as the learner does?"

PREDICTED = {"now": "yes", "month": "yes", "process": "no", "later": "no", "elsewhere": "no"}
"""What the essay predicts."""

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
    (
        "untaught month",
        "no",
    ): "Asked for an older learner, it falls short even on training tasks. But no life skipped ahead in "
    "training (training.skip_ahead = 0): nothing taught it to heed a told age against what its context shows.",
    ("month", "undecided"): "At its worst stage, the interval contains the bound.",
    ("process", "yes"): "Weights frozen, it improves as the learner did over the recorded span.",
    (
        "process",
        "partial",
    ): "It gains something over the span, but less than {half} of what the learner gains.",
    (
        "process",
        "at most",
    ): "It gains less than {half} of what the learner gains over the span; whether it gains more "
    "than next to nothing is open.",
    (
        "process",
        "at least",
    ): "It gains more than next to nothing over the span; whether it reaches {half} of what the "
    "learner gains is open.",
    (
        "process",
        "unsettled",
    ): "The interval leaves open both whether it reaches {half} of what the learner gains over "
    "the span and whether it gains anything.",
    ("process", "no"): "It does not improve as the learner did, though every stage was in its training data.",
    ("process", "void"): "Cannot be asked here: see the reason.",
    ("later", "yes"): "Weights frozen, it goes on improving after its own NOW.",
    ("later", "partial"): "It gains something, but less than {half} of what the learner goes on to gain.",
    (
        "later",
        "at most",
    ): "It gains less than {half} of what the learner goes on to gain; whether it gains more than "
    "next to nothing is open.",
    (
        "later",
        "at least",
    ): "It gains more than next to nothing; whether it reaches {half} of what the learner goes on "
    "to gain is open.",
    (
        "later",
        "unsettled",
    ): "The interval leaves open both whether it reaches {half} of what the learner goes on to "
    "gain and whether it gains anything.",
    ("later", "no"): "It stays where the recording stopped, or falls back, while the learner goes on.",
    ("later", "void"): "Cannot be asked at this fork: see the reason.",
    (
        "growing",
        "yes",
    ): "Weights frozen, it keeps up as the task grows: it has at least {half} of the learner's lead "
    "over one that stopped learning.",
    (
        "growing",
        "partial",
    ): "It keeps up in part as the task grows: it has some, but less than {half}, of the learner's "
    "lead over one that stopped learning.",
    (
        "growing",
        "at most",
    ): "As the task grows, it has less than {half} of the learner's lead over one that stopped "
    "learning; whether more than next to nothing of it is open.",
    (
        "growing",
        "at least",
    ): "As the task grows, it has more than next to nothing of the learner's lead over one that "
    "stopped learning; whether {half} of it is open.",
    (
        "growing",
        "unsettled",
    ): "The interval leaves open both whether it has {half} of the learner's lead over one that "
    "stopped learning, as the task grows, and whether it has any.",
    (
        "growing",
        "no",
    ): "It does not keep up as the task grows: it ends where one that stopped learning does, or hardly "
    "above, while the learner keeps up.",
    ("growing", "void"): "Cannot be asked at this fork: see the reason.",
    (
        "elsewhere",
        "yes",
    ): "It learns from nothing wherever the learner does, in every counted rung from 2 up.",
    ("elsewhere", "partial"): "It learns in some of the new tasks, or only in part.",
    ("elsewhere", "no"): "It does not learn in any task that is new in more than its hidden goal.",
    ("elsewhere", "void"): "No rung from 2 up counts: see the reasons.",
}


def meaning(question: str, one: Mapping, rules: Rules) -> str:
    """What an entry's answer means: of a partial one, what its interval leaves open and no more; of one undecided for a
    reason of its own, that."""
    found = _MEANING.get((name_of_question(question, one), name_of_answer(question, one, rules)))
    if found is None:
        return "Not measured in this run."
    if one["answer"] == "undecided" and (reason := one.get("reason")):
        is_by_interval = not one.get("void_because") and one["ci95"][0] <= rules.parity <= one["ci95"][1]
        return f"{reason[0].upper()}{reason[1:]}.{f' {found}' if is_by_interval else ''}"
    return found.format(half=share_of_yes(rules))


def question(name: str, one: Mapping) -> str:
    """What is asked: LATER, in a task that grows, whether it keeps up."""
    return _GROWING if name_of_question(name, one) == "growing" else QUESTIONS[name]


def name_of_question(name: str, one: Mapping) -> str:
    """Under which name words for an entry stand: LATER has words of its own where the task grows after the fork, and
    MONTH's no where nothing in training taught the imitator to heed a told age."""
    if name == "month" and one["answer"] == "no" and not one.get("skips_shown"):
        return "untaught month"
    return "growing" if name == "later" and one.get("task_grows") else name


def name_of_answer(question: str, one: Mapping, rules: Rules) -> str:
    """Under which name words for an answer stand: a partial one is named by which of yes and no its interval leaves
    out: both ("partial"), yes ("at most"), no ("at least") or neither ("unsettled")."""
    if one["answer"] != "partial" or question not in ("process", "later"):
        return one["answer"]
    is_no_no, is_no_yes = one["ci95"][0] > rules.learns_no, one["ci95"][1] < rules.learns_yes
    return {
        (True, True): "partial",
        (False, True): "at most",
        (True, False): "at least",
        (False, False): "unsettled",
    }[is_no_no, is_no_yes]


def share_of_yes(rules: Rules) -> str:
    """The share of the learner's gain that a yes needs, in words."""
    return {0.5: "half"}.get(rules.learns_yes, f"{rules.learns_yes:g}")


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
