"""What learner, frozen imitator and learner posterior cost: a step, and until a given return is reached.

Operations and bytes are counted (`cost`, and, as programs execute them, `executed`; what it takes to reach a return,
and to train, is by the latter). Seconds are what the evaluation took, compilation left out, per step of one stream,
many streams side by side: they hold for this machine, whatever else ran on it, and these batch sizes. The posterior's
are those of its whole control (compilation too) per step of one hypothesis or arm.

To reach a return: PROCESS from nothing. The given returns are shares of what the learner gains there over a random
policy; the steps are those up to the end of the first block in which the mean over learners (and imitator seeds) is as
high. Training the imitator is not in it: that was done before; see `training_flops`.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cl_imitate import cost, executed, statistics
from cl_imitate.config import Experiment
from cl_imitate.evaluation.results import Cell
from cl_imitate.types import Spec

SHARES = (0.5, 0.9)
ARMS = ("learner", "imitator")


def costs(
    experiment: Experiment,
    spec: Spec,
    cells: Sequence[Cell],
    *,
    seconds_per_step: Mapping[str, float],
    posterior: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What stands in the verdict under `cost`.

    Args:
      seconds_per_step: by arm, of those that were timed.
      posterior: the verdict's entry of the control, if it was run.
    """
    imitator, training = experiment.imitator, experiment.training
    context = imitator.context_steps
    running = {
        "learner": cost.learning(experiment.learner, spec),
        "imitator": cost.acting(imitator, spec, context_steps=context),
    }
    a_step: dict[str, dict[str, Any]] = {
        arm: {
            "flops_per_step": one.flops_per_step,
            "bytes": one.bytes,
            "seconds_per_step": seconds_per_step.get(arm),
        }
        for arm, one in running.items()
    }
    a_step["learner"]["executed_flops_per_step"] = executed.learner_flops(experiment.learner, spec)
    times = running["imitator"].flops_per_step / cost.of(imitator, spec, context_steps=context).forward_flops
    forward = executed.forward_flops(imitator, spec, context_steps=context)
    a_step["imitator"]["executed_flops_per_step"] = times * forward
    windows = training.num_updates * training.batch_size
    trained = executed.training_flops(imitator, spec, context_steps=context) * windows * context
    for place, one in ((posterior or {}).get("places") or {}).items():
        a_step[f"posterior, {place}"] = {
            "flops_per_step": one["flops_per_step"]["posterior"],
            "bytes": one["bytes"]["posterior"],
            "seconds_per_step": seconds_per_step.get("posterior"),
            "num_hypotheses": one["num_hypotheses"],
        }
    return {
        "a_step": a_step,
        "training_flops": trained,
        "to_reach": [
            _to_reach(experiment, one, share, a_step) for one in _process(cells, context) for share in SHARES
        ],
    }


def _process(cells: Sequence[Cell], context_steps: int) -> list[Cell]:
    """PROCESS from nothing with the headline context, if it was run."""
    return [
        one
        for one in cells
        if (one.protocol, one.start_step, one.context_steps) == ("process", 0, context_steps)
    ][:1]


def _to_reach(
    experiment: Experiment, cell: Cell, share: float, a_step: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    rules = experiment.rules
    last = max(1, round(rules.reference_fraction * cell.num_blocks))
    random = float(np.nanmean(cell.random_return))
    level = random + share * (float(np.nanmean(cell.returns["learner"][..., -last:])) - random)
    found: dict[str, Any] = {"share_of_the_learners_gain": share, "return": _finite(level)}
    for arm in ARMS:
        rng = np.random.default_rng([experiment.seed, 13])
        learners = statistics.resample(cell.task, rng=rng, samples=rules.bootstrap_samples)
        with warnings.catch_warnings():  # of blocks in which nobody ended an episode
            warnings.simplefilter("ignore", RuntimeWarning)
            curves = np.nanmean(cell.returns[arm], axis=0)  # [n, K]
            steps = float(_first_steps(np.nanmean(curves, axis=0), level, cell.block_steps))
            drawn = np.stack([np.nanmean(curves[some], axis=0) for some in learners])
        draws = _first_steps(drawn, level, cell.block_steps)
        tail = (1 - rules.confidence) / 2
        ends = np.quantile(draws, [tail, 1 - tail], method="nearest")
        found[arm] = {"steps": _finite(steps), "ci95": [_finite(end) for end in ends]}
        for unit, each in (("flops", "executed_flops_per_step"), ("seconds", "seconds_per_step")):
            cost_of_one = a_step[arm][each]
            found[arm][unit] = None if cost_of_one is None else _finite(steps * cost_of_one)
    return found


def _first_steps(curves: np.ndarray, level: float, block_steps: int) -> np.ndarray:
    """Steps [...] until the first block of curves [..., K] that is at `level`; infinite if none is."""
    is_there = curves >= level
    steps = (np.argmax(is_there, axis=-1) + 1.0) * block_steps
    return np.where(is_there.any(axis=-1), steps, np.inf)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
