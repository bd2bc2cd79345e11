"""The gate: the instrument's own test, in a family where a yes is known to be possible."""

import math
from collections.abc import Sequence

from cl_imitate import statistics
from cl_imitate.config import Experiment
from cl_imitate.evaluation import comparisons, metrics
from cl_imitate.evaluation.entries import generator_of, sizes
from cl_imitate.evaluation.results import Cell, pick


def gate_of(experiment: Experiment, cells: Sequence[Cell]) -> dict:
    """The instrument's own test. Of several contexts, the longest: it needs to see a yes once."""
    bounds, rules = experiment.gate, experiment.rules
    own = [cell for cell in pick(cells, "process", split="held_out") if cell.start_step == 0]
    usable = pick(cells, "gate", split="held_out") or own
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
    found = comparisons.transfer(cell, rules, generator_of(experiment, cell, "gate"))
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
        **sizes(found.recovered),
    }
