"""What one cell says by the decision rules: an entry of the verdict, and the estimate that it rests on.

Every interval has its own random generator, made from the experiment's seed and the cell's name: the same cells
give the same numbers, and one more cell changes no other number.

`void_because` says whose weakness leaves a question void (or NOW undecided): "learner", where there was nothing to
imitate, or "imitator"; None where it is neither.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_imitate import statistics
from cl_imitate.config import Experiment, Rules
from cl_imitate.evaluation import comparisons, metrics
from cl_imitate.evaluation.protocols import grows
from cl_imitate.evaluation.results import Cell
from cl_imitate.statistics import Estimate

ONE_LEARNER = "one held-out learner: the interval does not cover learners"
_NOT_BETTER = "the held learner is not clearly better than random"


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


def parity_entry(experiment: Experiment, cell: Cell) -> tuple[dict, Estimate]:
    """NOW and MONTH."""
    rules = experiment.rules
    if absent := metrics.missing_arms(cell, "imitator", "learner_held"):
        return not_run(f"arm not run: {', '.join(absent)}", "ratio"), statistics.nothing()
    found = comparisons.parity(cell, rules, generator_of(experiment, cell))
    interval = found.ratio.interval(rules.confidence)
    answer, reason, void_because = parity_answer(interval, rules), _few(found.ratio), None
    if found.ratio.covers_learners and not found.held_gain.interval(rules.confidence)[0] > 0:
        answer, reason, void_because = "undecided", _NOT_BETTER, "learner"
    entry = {
        "answer": answer,
        "exceeds": answer == "yes" and interval[0] > rules.exceeds,
        "reason": reason,
        "void_because": void_because,
        "ratio": found.ratio.value,
        "ci95": interval,
        "argmax": figure(found.argmax_ratio, rules),
        "probability_of_improvement": figure(found.improvement, rules),
        "action_divergence_nats": figure(found.divergence, rules),
        "closed_loop_divergence_nats": figure(found.own_divergence, rules),
        **sizes(found.ratio),
    }
    return entry, found.ratio


def growth_entry(
    experiment: Experiment, cell: Cell, *, own_start: bool, now: Mapping[str, Any] | None = None
) -> tuple[dict, Estimate]:
    """PROCESS and, with `own_start` and the entry of NOW at the same fork, LATER."""
    rules = experiment.rules
    needed = ("imitator", "learner", "learner_held") if own_start else ("imitator", "learner")
    last_step = cell.fork_step + experiment.evaluation.later_steps
    task_grows = own_start and grows(experiment.environment, cell.fork_step, last_step)
    if absent := metrics.missing_arms(cell, *needed):
        reason = f"arm not run: {', '.join(absent)}"
        return {
            **not_run(reason, "ratio"),
            "learner_gain": math.nan,
            "pace": math.nan,
        }, statistics.nothing()
    found = comparisons.growth(
        cell,
        rules,
        generator_of(experiment, cell),
        now_steps=experiment.evaluation.now_steps,
        own_start=own_start,
        is_open_ended=task_grows,
    )
    interval = found.ratio.interval(rules.confidence)
    answer, reason = learns_answer(interval, rules), _few(found.ratio) or _parted(found.ratio, rules)
    void_because, why = _growth_void(found, now, rules)
    if void_because:
        answer, reason = "void", why
    if cell.epsilon != cell.epsilon_at_start:
        clock = (
            f"epsilon falls from {cell.epsilon_at_start:g} to {cell.epsilon:g} within the span: part of both gains is "
            "this schedule"
        )
        reason = f"{reason}; {clock}" if reason else clock
    entry = {
        "answer": answer,
        "reason": reason,
        "void_because": void_because,
        "ratio": found.ratio.value,
        "ci95": interval,
        "learner_gain": found.learner_gain,
        "pace": found.pace,
        "learner_time_constant_steps": found.learner_steps,
        "imitator_time_constant_steps": found.imitator_steps,
        "departure_step": found.departure.steps,
        "departure_side": found.departure.side,
        "departure_resolved": found.departure.is_resolved,
        "argmax": figure(found.argmax_ratio, rules),
        "window": figure(found.window_ratio, rules),
        "ceiling": figure(found.ceiling_ratio, rules),
        "wiped_gain": figure(found.wiped_gain, rules),
        "occupancy_distance": figure(found.occupancy_distance, rules),
        **(
            {
                "task_grows": task_grows,
                "same_window": figure(found.same_window_ratio, rules),
                "from_held": figure(found.from_held_ratio, rules),
                "window_from_held": figure(found.window_from_held_ratio, rules),
                "exceeds_its_data": _exceeds_its_data(experiment, cell),
            }
            if own_start
            else {}
        ),
        **sizes(found.ratio),
    }
    return entry, found.ratio


def _growth_void(
    found: comparisons.Growth, now: Mapping[str, Any] | None, rules: Rules
) -> tuple[str | None, str | None]:
    """Whose weakness leaves growth void, and how; the learner's first: the ratio at NOW is noise where it has none."""
    if not found.learner_gain >= rules.min_learner_gain:
        if math.isnan(found.learner_gain):
            return "learner", "the learner itself ends no higher than random: it has no range"
        gain = f"{found.learner_gain:.0%} of its range, under {rules.min_learner_gain:.0%}"
        return "learner", f"the learner itself gains {gain}"
    if now is None:
        return None, None
    if now["void_because"] == "learner":
        return "learner", f"at NOW {_NOT_BETTER}"
    if not now["ratio"] >= rules.later_min_now_ratio:
        return (
            "imitator",
            f"at NOW the imitator has {now['ratio']:.2f} of the learner's gain, under {rules.later_min_now_ratio:g}",
        )
    return None, None


def _exceeds_its_data(experiment: Experiment, cell: Cell) -> dict:
    rules = experiment.rules
    found = comparisons.excess(
        cell,
        rules,
        generator_of(experiment, cell, "excess"),
        now_steps=experiment.evaluation.now_steps,
    )

    def passes(*over: Estimate) -> bool:
        return all(one.interval(rules.confidence)[0] > 0 for one in over)

    answer = "yes" if passes(found.imitator_over_held, found.imitator_over_best) else "no"
    if not passes(found.learner_over_held, found.learner_over_best):
        answer = "void"
    alone = _few(found.imitator_over_held) if not found.imitator_over_held.covers_learners else None
    return {
        "answer": answer,
        "reason": (alone or "the learner that goes on does not pass either") if answer == "void" else None,
        "over_held": figure(found.imitator_over_held, rules),
        "over_best_history": figure(found.imitator_over_best, rules),
        "best_history_return": found.best_history,
        "best_history_of": "recorded learners"
        if found.best_history_is_recorded
        else "held-out learners at the fork",
    }


def rung_entry(experiment: Experiment, cell: Cell) -> tuple[dict, Estimate]:
    """ELSEWHERE, for one rung."""
    rules = experiment.rules
    labels = {"rung": cell.rung, "name": cell.rung_name, "counted": False}
    if absent := metrics.missing_arms(cell, "imitator", "learner"):
        empty = {"learner_gain": math.nan, "learner_gain_ci95": (math.nan, math.nan)}
        return {
            **labels,
            **not_run(f"arm not run: {', '.join(absent)}", "recovered"),
            **empty,
        }, statistics.nothing()
    found = comparisons.transfer(cell, rules, generator_of(experiment, cell))
    interval = found.recovered.interval(rules.confidence)
    answer, reason = learns_answer(interval, rules), _few(found.recovered) or _parted(found.recovered, rules)
    least = rules.elsewhere_min_learner_gain
    if not found.recovered.covers_learners:
        reason = f"not counted: {reason}"
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
        "argmax": figure(found.argmax_recovered, rules),
        "wiped": figure(found.wiped_recovered, rules),
        "prompted_of_transplanted": figure(found.prompted_recovered, rules),
        "transplanted_gain": figure(found.transplanted_gain, rules),
        **sizes(found.recovered),
    }
    return entry, found.recovered


def generator_of(experiment: Experiment, cell: Cell, purpose: str = "") -> np.random.Generator:
    """This cell's own, one for each purpose."""
    label = f"{cell.protocol} {cell.name} {cell.context_steps} {cell.split} {purpose}"
    return np.random.default_rng([experiment.seed, zlib.crc32(label.encode())])


def not_run(reason: str, called: str = "estimate") -> dict:
    """The entry of what cannot be asked; `called` is what its estimate is called."""
    ci95 = (math.nan, math.nan)
    return {"answer": "not run", "reason": reason, "void_because": None, called: math.nan, "ci95": ci95}


def figure(found: Estimate, rules: Rules) -> dict:
    """An estimate as the verdict has it."""
    return {"estimate": found.value, "ci95": found.interval(rules.confidence)}


def sizes(found: Estimate) -> dict:
    """How many learners and imitator seeds an estimate rests on, and what each of these seeds alone makes it."""
    return {
        "num_learners": found.num_learners,
        "num_imitator_seeds": len(found.seed_values),
        "by_imitator_seed": found.seed_values.tolist(),
    }


def _few(found: Estimate) -> str | None:
    if found.num_learners == 1:
        return ONE_LEARNER
    return "one imitator seed: the interval does not cover seeds" if len(found.seed_values) < 2 else None


def _parted(found: Estimate, rules: Rules) -> str | None:
    """That some imitator seeds lie beyond the bound of a yes and others beyond that of a no: a mean of two kinds."""
    seeds = np.sort(found.seed_values)
    if not (seeds[-1] > rules.learns_yes and seeds[0] < rules.learns_no):
        return None
    return f"imitator seeds part: {', '.join(f'{one:.2f}' for one in seeds)}"
