"""The sentences that a reader reads first: what was found, and how sure it is."""

from collections.abc import Mapping, Sequence

from cl_imitate.config import Rules
from cl_imitate.evaluation.wording import (
    ends_of,
    is_known,
    name_of_answer,
    name_of_question,
    number,
    share_of_yes,
)

_SENTENCES = {
    "now": {
        "yes": "matches the learner as it is at the end of training",
        "no": "does not match even the learner as it is at the end of training",
        "undecided": "may or may not match the learner as it is at the end of training (undecided)",
    },
    "process": {
        "yes": "reproduces the process by which the learner became so",
        "partial": "reproduces in part the process by which the learner became so: it improves by less than {half} of "
        "what the learner did",
        "at most": "improves over the recorded span by less than {half} of what the learner did, perhaps by next to "
        "nothing",
        "at least": "improves over the recorded span by more than next to nothing, perhaps by {half} of what the "
        "learner did or more",
        "unsettled": "may or may not reproduce the process by which the learner became so (not settled)",
        "no": "does not reproduce the process by which the learner became so",
        "void": "cannot be tested here on the process by which the learner became so",
    },
    "later": {
        "yes": "goes on improving after the recording stopped, as the learner does",
        "partial": "improves after the recording stopped, by less than {half} of what the learner does",
        "at most": "improves after the recording stopped by less than {half} of what the learner does, perhaps by next "
        "to nothing",
        "at least": "improves after the recording stopped by more than next to nothing, perhaps by {half} of what the "
        "learner does or more",
        "unsettled": "may or may not go on improving after the recording stopped (not settled)",
        "no": "does not go on improving after the recording stopped, while the learner does",
        "void": "cannot be tested here on what comes after the recording stopped",
    },
    "growing": {
        "yes": "keeps up as the task grows after the recording stopped, as the learner does",
        "partial": "keeps up in part as the task grows after the recording stopped, with less than {half} of the "
        "learner's lead over one that stopped learning",
        "at most": "keeps, as the task grows after the recording stopped, less than {half} of the learner's lead over "
        "one that stopped learning, perhaps next to nothing of it",
        "at least": "keeps, as the task grows after the recording stopped, more than next to nothing of the learner's "
        "lead over one that stopped learning, perhaps {half} of it or more",
        "unsettled": "may or may not keep up as the task grows after the recording stopped (not settled)",
        "no": "does not keep up as the task grows after the recording stopped, while the learner does",
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
    "growing": "of that lead",
    "elsewhere": "of a fresh learner's gain, over all that count",
}

_SHAM = "imitators of lives in which nobody learns"


def summary(
    questions: Mapping[str, Mapping],
    rules: Rules,
    void: Sequence[str] = (),
    controls: Mapping[str, Mapping] | None = None,
) -> str:
    """Two sentences for the reader who reads nothing else: what was found, and how sure it is.

    Of a void run: why it answers nothing, and what it measured all the same. `controls` is what the run's controls
    say: what the sham learner leaves open of PROCESS is said with it.
    """
    if void:
        asked = {name: one for name, one in questions.items() if one["answer"] != "not run"}
        found = ", ".join(f"{name.upper()} {one['answer']}{_figure(one)}" for name, one in asked.items())
        measured = f"What it measured ({found}) stands for nothing" if found else "It measured nothing else"
        return f"This run is void and answers nothing: {'; '.join(void)}. {measured} until that is mended."
    doubt = _sham_doubt(questions["process"], (controls or {}).get("sham", {}), rules)
    clauses = {
        name: _with_figure(
            _clause(name, questions[name], rules), name, questions[name], doubt if name == "process" else ""
        )
        for name in ("now", "process", "later", "elsewhere")
    }
    answers = {name: one["answer"] for name, one in questions.items()}
    first, second = (_join(pair, answers, clauses) for pair in (("now", "process"), ("later", "elsewhere")))
    return f"With its weights frozen, the imitator {first}. Beyond its training data, it {second}."


def _clause(name: str, one: Mapping, rules: Rules) -> str:
    """What is said of a question's answer, without figures."""
    if one.get("exceeds"):
        return "is better than the learner is at the end of training"
    if name == "elsewhere" and one["answer"] == "partial":
        return _counted(one["rungs"])
    found = _SENTENCES[name_of_question(name, one)].get(name_of_answer(name, one, rules))
    return found.format(half=share_of_yes(rules)) if found else f"was not asked about {name.upper()}"


def _sham_doubt(process: Mapping, sham: Mapping, rules: Rules) -> str:
    """What lives in which nobody learns leave open of a PROCESS that was seen; empty where nothing, or not run."""
    ends, altered = ends_of(sham) if "ci95" in sham else None, sham.get("altered", {})
    is_claimed = process["answer"] in ("yes", "partial")
    if not is_claimed or ends is None or ends[0] > 0 or not is_known(altered.get("estimate")):
        return ""
    less, less_ci95 = (
        sham.get("whole_span_difference"),
        sham.get("whole_span_difference_ci95") or (None, None),
    )
    if is_known(less) and is_known(least := less_ci95[0]) and least > 0:
        return f"{_SHAM} get there later: {number(less, less_ci95)} less of the gain over the whole span"
    as_good = ends[1] < 0 or max(map(abs, ends)) < rules.departure_margin
    so = (
        "so learning need not have been seen"
        if as_good
        else "so whether learning had to be seen is undecided"
    )
    return f"{_SHAM} reach {number(altered['estimate'], altered['ci95'])}, {so}"


def _figure(one: Mapping) -> str:
    return f" {number(one['estimate'], one['ci95'])}" if is_known(one["estimate"]) else ""


def _with_figure(clause: str, name: str, one: Mapping, doubt: str = "") -> str:
    """A clause with the figure that it rests on, or why there is none, and with what a control leaves open of it."""
    said = f"{_figure(one)[1:]} {_OF_WHAT[name_of_question(name, one)]}" if _figure(one) else ""
    if one["answer"] == "void":
        said = one.get("reason") or ""
    said = "; ".join(filter(None, (said, doubt)))
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


def _counted(rungs: Sequence[Mapping]) -> str:
    """How many of the counted rungs from 2 up say what."""
    found = [one["answer"] for one in rungs if one["counted"] and one["rung"] not in ("0", "1")]
    part = f" (and in part, or not settled, in {found.count('partial')})" if "partial" in found else ""
    return f"learns in {found.count('yes')} of {len(found)} new tasks that count{part}"


def _join(pair: tuple[str, str], answers: Mapping[str, str], clauses: Mapping[str, str]) -> str:
    same = (answers[pair[0]] == "yes") == (answers[pair[1]] == "yes")
    return f"{clauses[pair[0]]}, {'and' if same else 'but'} it {clauses[pair[1]]}"
