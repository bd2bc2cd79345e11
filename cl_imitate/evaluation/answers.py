"""Each question's answer by the decision rules, and the gate's: cells -> yes | no | partial | undecided | void.

Every interval has its own random generator, made from the experiment's seed and the cell's name: the same cells
give the same numbers, and one more cell changes no other number.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from cl_imitate import statistics
from cl_imitate.config import Experiment, Rules
from cl_imitate.evaluation import metrics, wording
from cl_imitate.evaluation.protocols import is_open_ended
from cl_imitate.evaluation.results import Cell
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
            "question": wording.QUESTIONS[name],
            "predicted": wording.PREDICTED[name],
            **one,
            "meaning": wording.meaning(name, one["answer"]),
            "rule": words[name],
        }
        for name, one in found.items()
    }


def gate(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    """The instrument's own test. Of several contexts, the longest: it needs to see a yes once."""
    bounds, rules = experiment.gate, experiment.rules
    own = [cell for cell in _pick(cells, "process", split="held_out") if cell.start_step == 0]
    usable = _pick(cells, "gate", split="held_out") or own
    result = {
        "passed": None,
        "imitator_gain": math.nan,
        "wiped_gain": math.nan,
        "fraction_of_tasks_above_half": math.nan,
        "experiment": bounds.experiment,
        "required": {
            "min_gain": bounds.min_gain,
            "max_wiped_gain": bounds.max_wiped_gain,
            "min_tasks_above_half": bounds.min_tasks_above_half,
        },
    }
    if not usable:
        return {**result, "reason": "no cell from an empty context on unseen tasks"}
    cell = max(usable, key=lambda one: (one.fork_step, one.context_steps))
    if absent := metrics.missing_arms(cell, "imitator", "learner", "imitator_wiped"):
        return {**result, "reason": f"arm not run: {', '.join(absent)}"}
    found = metrics.transfer(cell, rules, _generator(experiment, cell, "gate"))
    share = found.tasks_above_half / found.num_tasks if found.num_tasks else math.nan
    wiped = found.wiped_recovered
    return {
        **result,
        "passed": found.recovered.value >= bounds.min_gain
        and wiped.value <= bounds.max_wiped_gain
        and share >= bounds.min_tasks_above_half,
        "imitator_gain": found.recovered.value,
        "imitator_gain_ci95": found.recovered.interval(rules.confidence),
        "wiped_gain": wiped.value,
        "wiped_gain_ci95": wiped.interval(rules.confidence),
        "fraction_of_tasks_above_half": share,
        "fraction_of_tasks_above_half_ci95": statistics.share_interval(
            found.tasks_above_half, found.num_tasks, rules.confidence
        ),
        "context_steps": cell.context_steps,
        "reason": None,
        **_sizes(found.recovered),
    }


def parity_answer(interval: tuple[float, float], rules: Rules) -> str:
    """NOW and MONTH: yes above parity, no below it."""
    if interval[0] > rules.parity:
        return "yes"
    return "no" if interval[1] < rules.parity else "undecided"


def learns_answer(interval: tuple[float, float], rules: Rules) -> str:
    """PROCESS, LATER and ELSEWHERE; without an interval, void."""
    if math.isnan(interval[0]):
        return "void"
    if interval[0] > rules.learns_yes:
        return "yes"
    return "no" if interval[1] < rules.learns_no else "partial"


def _now(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    forks = [
        {"fork_step": cell.fork_step, **_parity_entry(experiment, cell)[0]}
        for cell in _pick(cells, "now", split="held_out")
    ]
    return {**_headline(forks, "fork_step", experiment.evaluation.now_fork_step, "NOW"), "forks": forks}


def _month(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    """Train-task stages decide, by the worst; unseen tasks stand beside them."""
    stages = _month_stages(experiment, _pick(_last_fork(cells, "month"), "month", split="train"))
    unseen = _month_stages(experiment, _pick(_last_fork(cells, "month"), "month", split="held_out"))
    if not stages:
        return {**_not_run("no stage on training tasks was run"), "stages": stages, "unseen": unseen}
    order = ("not run", "no", "undecided", "yes")
    # A stage that was not run is listed, but says nothing about the worst of those that were.
    asked = [stage for stage in stages if stage["answer"] != "not run"] or stages
    worst = min(asked, key=lambda stage: (order.index(stage["answer"]), stage["ratio"]))
    return {
        **_headline([worst], "stage_step", worst["stage_step"], "MONTH"),
        "worst_stage_step": worst["stage_step"],
        "stages": stages,
        "unseen": unseen,
    }


def _month_stages(experiment: Experiment, cells: Sequence[Cell]) -> list[dict]:
    rules = experiment.rules
    found = [(cell, *_parity_entry(experiment, cell)) for cell in cells]
    asked = [(entry, ratio) for _, entry, ratio in found if entry["answer"] != "not run"]
    decided = statistics.holm([ratio for _, ratio in asked], rules.parity, confidence=rules.confidence)
    for (entry, _), settled in zip(asked, decided, strict=True):
        if not settled and entry["answer"] != "undecided":
            entry["answer"] = "undecided"
            entry["reason"] = "decided alone, but not after Holm's correction over stages"
    return [
        {"stage_step": cell.start_step, "target_step": cell.target_step, "split": cell.split, **entry}
        for cell, entry, _ in found
    ]


def _parity_entry(experiment: Experiment, cell: Cell) -> tuple[dict, Estimate]:
    rules = experiment.rules
    if absent := metrics.missing_arms(cell, "imitator", "learner_held"):
        return _not_run(f"arm not run: {', '.join(absent)}", "ratio"), statistics.nothing()
    found = metrics.parity(cell, rules, _generator(experiment, cell))
    interval = found.ratio.interval(rules.confidence)
    answer, reason = parity_answer(interval, rules), _few(found.ratio)
    if not found.held_gain.interval(rules.confidence)[0] > 0:
        answer, reason = "undecided", "the held learner is not clearly better than random"
    entry = {
        "answer": answer,
        "exceeds": answer == "yes" and interval[0] > rules.exceeds,
        "reason": reason,
        "ratio": found.ratio.value,
        "ci95": interval,
        "argmax": _number(found.argmax_ratio, rules),
        "probability_of_improvement": _number(found.improvement, rules),
        "action_divergence_nats": _number(found.divergence, rules),
        "closed_loop_divergence_nats": _number(found.own_divergence, rules),
        **_sizes(found.ratio),
    }
    return entry, found.ratio


def _process(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    stages, ratios = [], []
    for cell in _pick(_last_fork(cells, "process"), "process", split="held_out"):
        entry, ratio = _growth_entry(experiment, cell, own_start=False)
        stages.append({"stage_step": cell.start_step, **entry})
        ratios.append(ratio)
    _add_after_holm(stages, ratios, experiment.rules)
    return {**_headline(stages, "stage_step", 0, "PROCESS from an empty context"), "stages": stages}


def _later(experiment: Experiment, cells: Sequence[Cell], nows: list[dict], stages: list[dict]) -> dict:
    forks, ratios = [], []
    life = next(
        (stage.get("learner_time_constant_steps") for stage in stages if not stage["stage_step"]), None
    )
    for cell in _pick(cells, "later", split="held_out"):
        measured = [now["ratio"] for now in nows if now["fork_step"] == cell.fork_step]
        now_ratio = next((ratio for ratio in measured if math.isfinite(ratio)), None)
        if now_ratio is None:
            now_ratio = _parity_entry(experiment, _opening(experiment, cell))[0]["ratio"]
        entry, ratio = _growth_entry(experiment, cell, own_start=True, now_ratio=now_ratio)
        horizon = cell.block_steps * max(values.shape[-1] for values in cell.returns.values())
        entry["horizon_time_constants"] = horizon / life if life else math.nan
        forks.append({"fork_step": cell.fork_step, "now_ratio": now_ratio, **entry})
        ratios.append(ratio)
    _add_after_holm(forks, ratios, experiment.rules)
    return {**_headline(forks, "fork_step", experiment.evaluation.later_fork_step, "LATER"), "forks": forks}


def _growth_entry(
    experiment: Experiment, cell: Cell, *, own_start: bool, now_ratio: float | None = None
) -> tuple[dict, Estimate]:
    """PROCESS and, with `own_start` and `now_ratio`, LATER."""
    rules = experiment.rules
    needed = ("imitator", "learner", "learner_held") if own_start else ("imitator", "learner")
    if absent := metrics.missing_arms(cell, *needed):
        reason = f"arm not run: {', '.join(absent)}"
        return {
            **_not_run(reason, "ratio"),
            "learner_gain": math.nan,
            "pace": math.nan,
        }, statistics.nothing()
    found = metrics.growth(
        cell,
        rules,
        _generator(experiment, cell),
        now_steps=experiment.evaluation.now_steps,
        own_start=own_start,
        is_open_ended=own_start and is_open_ended(experiment.environment),
    )
    interval = found.ratio.interval(rules.confidence)
    answer, reason = learns_answer(interval, rules), _few(found.ratio)
    if not found.learner_gain >= rules.min_learner_gain:
        answer = "void"
        reason = f"the learner itself gains {found.learner_gain:.0%} of its range, under {rules.min_learner_gain:.0%}"
    if now_ratio is not None and not now_ratio >= rules.later_min_now_ratio:
        answer = "void"
        reason = f"at NOW the imitator has {now_ratio:.2f} of the learner's gain, under {rules.later_min_now_ratio:g}"
    if cell.epsilon != cell.epsilon_at_start:
        clock = (
            f"epsilon falls from {cell.epsilon_at_start:g} to {cell.epsilon:g} within the span: part of both gains is "
            "this schedule"
        )
        reason = f"{reason}; {clock}" if reason else clock
    entry = {
        "answer": answer,
        "reason": reason,
        "ratio": found.ratio.value,
        "ci95": interval,
        "learner_gain": found.learner_gain,
        "pace": found.pace,
        "learner_time_constant_steps": found.learner_steps,
        "imitator_time_constant_steps": found.imitator_steps,
        "departure_step": found.departure_steps,
        "departure_side": found.departure_side,
        "argmax": _number(found.argmax_ratio, rules),
        "window": _number(found.window_ratio, rules),
        "ceiling": _number(found.ceiling_ratio, rules),
        "wiped_gain": _number(found.wiped_gain, rules),
        "occupancy_distance": _number(found.occupancy_distance, rules),
        **(
            {
                "same_window": _number(found.same_window_ratio, rules),
                "exceeds_its_data": _exceeds_its_data(experiment, cell),
            }
            if own_start
            else {}
        ),
        **_sizes(found.ratio),
    }
    return entry, found.ratio


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


def _exceeds_its_data(experiment: Experiment, cell: Cell) -> dict:
    rules = experiment.rules
    found = metrics.excess(cell, rules, _generator(experiment, cell, "excess"))

    def passes(*over: Estimate) -> bool:
        return all(one.interval(rules.confidence)[0] > 0 for one in over)

    answer = "yes" if passes(found.imitator_over_held, found.imitator_over_best) else "no"
    if not passes(found.learner_over_held, found.learner_over_best):
        answer = "void"
    return {
        "answer": answer,
        "reason": "the learner that goes on does not pass either" if answer == "void" else None,
        "over_held": _number(found.imitator_over_held, rules),
        "over_best_history": _number(found.imitator_over_best, rules),
        "best_history_return": found.best_history,
        "best_history_of": "recorded learners"
        if found.best_history_is_recorded
        else "held-out learners at the fork",
    }


def _elsewhere(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    found = [_rung(experiment, cell) for cell in _pick(_last_fork(cells, "elsewhere"), "elsewhere")]
    configured = [rung.name for rung in experiment.evaluation.rungs]
    found.sort(
        key=lambda pair: (
            _RUNGS.index(pair[0]["rung"]),
            configured.index(pair[0]["name"]) if pair[0]["name"] in configured else len(configured),
        )
    )
    rungs = [entry for entry, _ in found]
    _add_after_holm(rungs, [recovered for _, recovered in found], experiment.rules)
    high = [(entry, recovered) for entry, recovered in found if entry["rung"] not in ("0", "1")]
    counted = [(entry, recovered) for entry, recovered in high if entry["counted"]]
    if not high:
        return {**_not_run("no rung from 2 up was run"), "rungs": rungs}
    answers = {entry["answer"] for entry, _ in counted}
    answer = next(iter(answers)) if answers in ({"yes"}, {"no"}) else "partial" if answers else "void"
    overall = statistics.mean_of([recovered for _, recovered in counted])
    return {
        "answer": answer,
        "reason": None if counted else "no rung from 2 up counts",
        "estimate": overall.value,  # the mean over counted rungs from 2 up
        "ci95": overall.interval(experiment.rules.confidence),
        "num_counted": len(counted),
        "rungs": rungs,
    }


def _rung(experiment: Experiment, cell: Cell) -> tuple[dict, Estimate]:
    rules = experiment.rules
    labels = {"rung": cell.rung, "name": cell.rung_name, "counted": False}
    if absent := metrics.missing_arms(cell, "imitator", "learner"):
        empty = {"learner_gain": math.nan, "learner_gain_ci95": (math.nan, math.nan)}
        return {
            **labels,
            **_not_run(f"arm not run: {', '.join(absent)}", "recovered"),
            **empty,
        }, statistics.nothing()
    found = metrics.transfer(cell, rules, _generator(experiment, cell))
    interval = found.recovered.interval(rules.confidence)
    answer, reason = learns_answer(interval, rules), _few(found.recovered)
    least = rules.elsewhere_min_learner_gain
    if found.ceiling is None:
        reason = "not counted: neither ceiling nor optimum is known here, so the learner's range is not"
    elif not found.learner_gain.value >= least:
        reason = f"not counted: the learner itself reaches {found.learner_gain.value:.2f} of its range, under {least:g}"
    counted = math.inf > found.learner_gain.value >= least and answer != "void"
    entry = {
        **labels,
        "answer": answer if counted else "not counted",
        "counted": counted,
        "reason": reason,
        "learner_gain": found.learner_gain.value,
        "learner_gain_ci95": found.learner_gain.interval(rules.confidence),
        "range_up_to": found.ceiling,
        "recovered": found.recovered.value,
        "ci95": interval,
        "argmax": _number(found.argmax_recovered, rules),
        "wiped": _number(found.wiped_recovered, rules),
        "prompted_of_transplanted": _number(found.prompted_recovered, rules),
        "transplanted_gain": _number(found.transplanted_gain, rules),
        **_sizes(found.recovered),
    }
    return entry, found.recovered


def _headline(entries: list[dict], label: str, wanted: int, what: str) -> dict:
    """The fields of the entry that answers the question."""
    entry = next((one for one in entries if one[label] == wanted), None)
    if entry is None:
        return _not_run(f"{what} was not run at step {wanted}")
    others = {key: value for key, value in entry.items() if key not in (label, "ratio")}
    return {**others, "estimate": entry["ratio"]}


def _pick(cells: Iterable[Cell], protocol: str, *, split: str | None = None) -> list[Cell]:
    found = [one for one in cells if one.protocol == protocol and split in (None, one.split)]
    return sorted(found, key=lambda one: (one.fork_step, one.start_step, one.target_step or 0, one.name))


def _last_fork(cells: Sequence[Cell], protocol: str) -> list[Cell]:
    """This protocol's cells at its largest fork: there, all recorded stages are in the training data."""
    found = _pick(cells, protocol)
    return [cell for cell in found if cell.fork_step == max(one.fork_step for one in found)]


def _opening(experiment: Experiment, cell: Cell) -> Cell:
    """A LATER cell's first `now_steps`: the same measurement as NOW's."""
    blocks = max(1, round(experiment.evaluation.now_steps / cell.block_steps))
    returns = {arm: values[..., :blocks] for arm, values in cell.returns.items()}
    return dataclasses.replace(cell, returns=returns, scalars={})


def _generator(experiment: Experiment, cell: Cell, purpose: str = "") -> np.random.Generator:
    label = f"{cell.protocol} {cell.name} {cell.context_steps} {cell.split} {purpose}"
    return np.random.default_rng([experiment.seed, zlib.crc32(label.encode())])


def _not_run(reason: str, figure: str = "estimate") -> dict:
    return {"answer": "not run", "reason": reason, figure: math.nan, "ci95": (math.nan, math.nan)}


def _number(found: Estimate, rules: Rules) -> dict:
    return {"estimate": found.value, "ci95": found.interval(rules.confidence)}


def _sizes(found: Estimate) -> dict:
    return {"num_learners": found.num_learners, "num_imitator_seeds": len(found.seed_values)}


def _few(found: Estimate) -> str | None:
    return "one imitator seed: the interval does not cover seeds" if len(found.seed_values) < 2 else None
