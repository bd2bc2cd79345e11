"""Each question's answer by the decision rules: cells -> yes | no | partial | undecided | void."""

import dataclasses
import math
from collections.abc import Sequence

from cl_imitate import statistics
from cl_imitate.config import Experiment, Rules
from cl_imitate.evaluation import comparisons, wording
from cl_imitate.evaluation.entries import (
    ONE_LEARNER,
    generator_of,
    growth_entry,
    not_run,
    parity_entry,
    rung_entry,
)
from cl_imitate.evaluation.results import Cell, pick
from cl_imitate.statistics import Estimate

_RUNGS = ("0", "1", "2", "2b", "3", "4", "5")  # in order of novelty


def questions(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, dict]:
    """The five questions, for the imitators of one context length."""
    now = _now(experiment, cells)
    process = _process(experiment, cells)
    later = _later(experiment, cells, now["forks"], process["stages"])
    found = {
        "now": now,
        "month": _month(experiment, cells),
        "process": process,
        "later": later,
        "elsewhere": _elsewhere(experiment, cells),
    }
    words = wording.rules_in_words(experiment.rules)
    return {
        name: {
            "question": wording.question(name, one),
            "predicted": wording.PREDICTED[name],
            **one,
            "meaning": wording.meaning(name, one, experiment.rules),
            "rule": words[name],
        }
        for name, one in found.items()
    }


def _now(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    forks = [
        {"fork_step": cell.fork_step, **parity_entry(experiment, cell)[0]}
        for cell in pick(cells, "now", split="held_out")
    ]
    return {**_headline(forks, "fork_step", experiment.evaluation.now_fork_step, "NOW"), "forks": forks}


def _month(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    """Train-task stages decide, by the worst; unseen tasks stand beside them."""
    stages = _month_stages(experiment, pick(_last_fork(cells, "month"), "month", split="train"))
    unseen = _month_stages(experiment, pick(_last_fork(cells, "month"), "month", split="held_out"))
    beside = {"skips_shown": experiment.training.skip_ahead > 0, "stages": stages, "unseen": unseen}
    if not stages:
        return {**not_run("no stage on training tasks was run"), **beside}
    order = ("not run", "no", "undecided", "yes")
    # A stage that was not run is listed, but says nothing about the worst of those that were.
    asked = [stage for stage in stages if stage["answer"] != "not run"] or stages
    worst = min(asked, key=lambda stage: (order.index(stage["answer"]), stage["ratio"]))
    return {
        **_headline([worst], "stage_step", worst["stage_step"], "MONTH"),
        "worst_stage_step": worst["stage_step"],
        **beside,
    }


def _month_stages(experiment: Experiment, cells: Sequence[Cell]) -> list[dict]:
    rules = experiment.rules
    found = [(cell, *parity_entry(experiment, cell)) for cell in cells]
    asked = [(entry, ratio) for _, entry, ratio in found if entry["answer"] != "not run"]
    decided = statistics.holm([ratio for _, ratio in asked], rules.parity, confidence=rules.confidence)
    for (entry, _), settled in zip(asked, decided, strict=True):
        if not settled and entry["answer"] != "undecided":
            entry["answer"], entry["exceeds"] = "undecided", False
            entry["reason"] = "decided alone, but not after Holm's correction over stages"
    return [
        {"stage_step": cell.start_step, "target_step": cell.target_step, "split": cell.split, **entry}
        for cell, entry, _ in found
    ]


def _process(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    stages, ratios = [], []
    for cell in pick(_last_fork(cells, "process"), "process", split="held_out"):
        entry, ratio = growth_entry(experiment, cell, own_start=False)
        stages.append({"stage_step": cell.start_step, **entry})
        ratios.append(ratio)
    _add_after_holm(stages, ratios, experiment.rules)
    return {**_headline(stages, "stage_step", 0, "PROCESS from an empty context"), "stages": stages}


def _later(experiment: Experiment, cells: Sequence[Cell], nows: list[dict], stages: list[dict]) -> dict:
    forks, ratios = [], []
    life = next(
        (stage.get("learner_time_constant_steps") for stage in stages if not stage["stage_step"]), None
    )
    for cell in pick(cells, "later", split="held_out"):
        measured = [now for now in nows if now["fork_step"] == cell.fork_step]
        now = next((one for one in measured if math.isfinite(one["ratio"])), None)
        if now is None:
            now = parity_entry(experiment, _opening(experiment, cell))[0]
        entry, ratio = growth_entry(experiment, cell, own_start=True, now=now)
        horizon = cell.block_steps * max(values.shape[-1] for values in cell.returns.values())
        entry["horizon_time_constants"] = horizon / life if life else math.nan
        forks.append(
            {"fork_step": cell.fork_step, "now_ratio": now["ratio"], "now_ci95": now["ci95"], **entry}
        )
        ratios.append(ratio)
    _add_after_holm(forks, ratios, experiment.rules)
    return {**_headline(forks, "fork_step", experiment.evaluation.later_fork_step, "LATER"), "forks": forks}


def _elsewhere(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    asked = pick(_last_fork(cells, "elsewhere"), "elsewhere")
    found = [(*rung_entry(experiment, cell), cell) for cell in asked]
    configured = [rung.name for rung in experiment.evaluation.rungs]
    found.sort(
        key=lambda one: (
            _RUNGS.index(one[0]["rung"]),
            configured.index(one[0]["name"]) if one[0]["name"] in configured else len(configured),
        )
    )
    rungs = [entry for entry, _, _ in found]
    _add_after_holm(rungs, [recovered for _, recovered, _ in found], experiment.rules)
    high = [(entry, cell) for entry, _, cell in found if entry["rung"] not in ("0", "1")]
    counted = [(entry, cell) for entry, cell in high if entry["counted"]]
    if not high:
        return {**not_run("no rung from 2 up was run"), "rungs": rungs}
    answers = {entry["answer"] for entry, _ in counted}
    answer = next(iter(answers)) if answers in ({"yes"}, {"no"}) else "partial" if answers else "void"
    is_alone = all(entry.get("num_learners") == 1 for entry, _ in high)
    overall = _over_rungs(experiment, [cell for _, cell in counted])
    return {
        "answer": answer,
        "reason": None if counted else f"no rung from 2 up counts{f': {ONE_LEARNER}' if is_alone else ''}",
        "estimate": overall.value,  # the mean over counted rungs from 2 up
        "ci95": overall.interval(experiment.rules.confidence),
        "num_counted": len(counted),
        "rungs": rungs,
    }


def _over_rungs(experiment: Experiment, cells: Sequence[Cell]) -> Estimate:
    """The mean over rungs of what is recovered.

    Rungs of one split draw their tasks from the same keys: where they have the same list of tasks, learner i meets the
    same hidden code on each of them. Averaging such rungs does not make the tasks' spread any smaller, so they are
    resampled together; those with other tasks are resampled apart.
    """
    groups: dict[tuple[str, bytes], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.split, cell.task.tobytes()), []).append(cell)
    means = [
        comparisons.mean_recovered(group, experiment.rules, generator_of(experiment, group[0], "over rungs"))
        for group in groups.values()
    ]
    return statistics.mean_of(means, weights=[len(group) for group in groups.values()])


def _add_after_holm(entries: list[dict], ratios: Sequence[Estimate], rules: Rules) -> None:
    """`answer_after_holm`: what may be said of each of several stages, forks or rungs when all are looked at at once.

    The answer to a question needs no such correction: it is that of one entry named before the run, or it needs all of
    them to agree (an intersection-union test; Berger 1982).
    """
    settled = {}
    for answer, bound in (("yes", rules.learns_yes), ("no", rules.learns_no)):
        asked = [number for number, one in enumerate(entries) if one["answer"] in ("yes", "no", "partial")]
        decided = statistics.holm([ratios[number] for number in asked], bound, confidence=rules.confidence)
        settled[answer] = {number for number, is_so in zip(asked, decided, strict=True) if is_so}
    for number, one in enumerate(entries):
        lost = one["answer"] in settled and number not in settled[one["answer"]]
        one["answer_after_holm"] = "partial" if lost else one["answer"]


def _headline(entries: list[dict], label: str, wanted: int, what: str) -> dict:
    """The fields of the entry that answers the question."""
    entry = next((one for one in entries if one[label] == wanted), None)
    if entry is None:
        return not_run(f"{what} was not run at step {wanted}")
    others = {key: value for key, value in entry.items() if key not in (label, "ratio")}
    return {**others, "estimate": entry["ratio"]}


def _opening(experiment: Experiment, cell: Cell) -> Cell:
    """A LATER cell's first `now_steps`: the same measurement as NOW's."""
    blocks = max(1, round(experiment.evaluation.now_steps / cell.block_steps))
    returns = {arm: values[..., :blocks] for arm, values in cell.returns.items()}
    return dataclasses.replace(cell, returns=returns, scalars={})


def _last_fork(cells: Sequence[Cell], protocol: str) -> list[Cell]:
    """This protocol's cells at its largest fork: there, all recorded stages are in the training data."""
    found = pick(cells, protocol)
    return [cell for cell in found if cell.fork_step == max(one.fork_step for one in found)]
