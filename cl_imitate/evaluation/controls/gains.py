"""What a control keeps, and its figures: differences and shares of gains, paired over learners, with intervals."""

import json
import zlib

import numpy as np

from cl_imitate import statistics
from cl_imitate.config import Experiment, Rules
from cl_imitate.evaluation import metrics, results
from cl_imitate.evaluation.controls.study import Arrays
from cl_imitate.evaluation.results import Cell
from cl_imitate.statistics import Estimate, Estimator


def keep(cells: list[Cell]) -> Arrays:
    """Cells as a control's arrays."""
    arrays, index = results.pack(cells)
    return {**arrays, "cells": np.array(json.dumps(index))}


def kept(arrays: Arrays) -> list[Cell]:
    """The cells among a control's arrays."""
    return results.unpack(arrays, json.loads(str(arrays["cells"])))


def now_gains(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """NOW: the imitator's and the held learner's gain over random, [S or 1, n]."""
    imitator, held = (metrics.whole_level(cell, arm) for arm in ("imitator", "learner_held"))
    return imitator - cell.random_return, held - cell.random_return


def process_gains(cell: Cell, experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """PROCESS: the imitator's and the learner's gain over the span, [S or 1, n]."""
    start = _start(cell, experiment)
    imitator, learner = (metrics.end_level(cell, arm, experiment.rules) for arm in ("imitator", "learner"))
    return imitator - start, learner - start


def course_gains(cell: Cell, experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """PROCESS on the way: as `process_gains`, of the mean level over the whole span instead of that in its end."""
    start = _start(cell, experiment)
    imitator, learner = (metrics.whole_level(cell, arm) for arm in ("imitator", "learner"))
    return imitator - start, learner - start


def steps_to_half(cell: Cell, arm: str, experiment: Experiment) -> float:
    """PROCESS: steps until an arm has made half of what the learner gains over the span; NaN if it never does."""
    end = metrics.end_level(cell, "learner", experiment.rules)
    return metrics.time_constant(cell, arm, _start(cell, experiment), end)


def _start(cell: Cell, experiment: Experiment) -> np.ndarray:
    """From where PROCESS is counted: the level of the learner held at the start of the span."""
    return metrics.start_level(cell, "learner_held", experiment.evaluation.now_steps)


def later_gains(cell: Cell, experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """LATER: the imitator's gain after its own NOW, and the learner's after the fork, [S or 1, n]."""
    now_steps = experiment.evaluation.now_steps
    own = metrics.start_level(cell, "imitator", now_steps)
    held = metrics.start_level(cell, "learner_held", now_steps)
    return (
        metrics.end_level(cell, "imitator", experiment.rules) - own,
        metrics.end_level(cell, "learner", experiment.rules) - held,
    )


def difference_of_shares(one: np.ndarray, other: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """How much larger a share of `whole` is `one` than `other`; IQMs of `[..., S, n]`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (statistics.iqm(one) - statistics.iqm(other)) / statistics.iqm(whole)


def estimate(
    estimator: Estimator, *arms: np.ndarray, task: np.ndarray, experiment: Experiment, label: str
) -> Estimate:
    """As `statistics.estimate`, with random numbers of this figure's own, drawn by its label."""
    rng = np.random.default_rng([experiment.seed, zlib.crc32(label.encode())])
    samples = experiment.rules.bootstrap_samples
    return statistics.estimate(estimator, *arms, task=task, rng=rng, samples=samples)


def is_above(found: Estimate, bound: float, rules: Rules) -> bool:
    """The whole interval lies above the bound."""
    return found.interval(rules.confidence)[0] > bound


def is_below(found: Estimate, bound: float, rules: Rules) -> bool:
    """The whole interval lies below the bound."""
    return found.interval(rules.confidence)[1] < bound
