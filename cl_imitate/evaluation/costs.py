"""What learner, frozen imitator and learner posterior cost: a step, and until a given return is reached.

Operations and bytes are counted (`cost`, and, as programs execute them, `executed`; what it takes to reach a return,
and to train, is by the latter). Seconds are what the evaluation took, compilation left out, per step of one stream,
many streams side by side: they hold for this machine, whatever else ran on it, and these batch sizes. The posterior's
are those of its whole control (compilation too) per step of one hypothesis or arm.

To reach a return: PROCESS from nothing. The given returns are shares of what the learner gains there over a random
policy; the steps are those up to the end of the first block in which the mean over learners (and imitator seeds) is as
high. Their intervals are made, as all are (`statistics`), over tasks and learners, with the return aimed at estimated
anew from the learners of each draw, and over imitator seeds; of logarithms, as steps are told apart by their ratio. An
end that is null is open: so high a return is not reached within the steps that were run, or not by every imitator seed.
Training the imitator is not in it: that was done before; see `training_flops`.
"""

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
    once = np.ones((1, len(cell.task)))
    found: dict[str, Any] = {
        "share_of_the_learners_gain": share,
        "return": _finite(float(_level(cell, share, last, once)[0])),
    }
    drawn = statistics.resample(
        cell.task, rng=np.random.default_rng([experiment.seed, 13]), samples=rules.bootstrap_samples
    )
    times = np.stack([np.bincount(some, minlength=len(cell.task)) for some in drawn]).astype(float)
    for arm in ARMS:
        logarithm = _log_steps(cell, arm, share, last, once=once, times=times)
        steps = float(np.exp(logarithm.value))
        found[arm] = {
            "steps": _finite(steps),
            "ci95": _ends(logarithm.interval(rules.confidence), cell.block_steps, cell.num_blocks),
        }
        for unit, each in (("flops", "executed_flops_per_step"), ("seconds", "seconds_per_step")):
            cost_of_one = a_step[arm][each]
            found[arm][unit] = None if cost_of_one is None else _finite(steps * cost_of_one)
    return found


def _log_steps(
    cell: Cell, arm: str, share: float, last: int, *, once: np.ndarray, times: np.ndarray
) -> statistics.Estimate:
    """The logarithm of the steps to the level, which every draw estimates anew; infinite where it is never reached.

    `times` [B, n]: how often each draw takes each learner; `once` [1, n].
    """

    def log_steps(returns: np.ndarray, times: np.ndarray) -> np.ndarray:
        curves, level = _mean_curve(returns, times), _level(cell, share, last, times)
        return np.log(_first_steps(curves, level[:, None], cell.block_steps))

    returns, num_tasks = cell.returns[arm], len(np.unique(cell.task))
    return statistics.Estimate(
        value=float(log_steps(returns, once)[0]),
        draws=log_steps(returns, times),
        seed_values=np.concatenate([log_steps(one[None], once) for one in returns]),
        num_learners=len(cell.task),
        num_units=num_tasks if num_tasks > 1 else len(cell.task),
    )


def _level(cell: Cell, share: float, last: int, times: np.ndarray) -> np.ndarray:
    """The return [B] at `share` of the learner's gain over random, its end being its last blocks."""
    ends = np.moveaxis(cell.returns["learner"][..., -last:], -1, 0)
    ends = ends.reshape(-1, ends.shape[-1], 1)
    random, end = (_mean_curve(one, times)[:, 0] for one in (cell.random_return[None, :, None], ends))
    return random + share * (end - random)


def _mean_curve(returns: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The mean [B, K] of returns [S, n, K], each learner taken `times` [B, n]; NaN of a block with no episode's end."""
    finite = np.isfinite(returns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (times @ np.where(finite, returns, 0.0).sum(axis=0)) / (times @ finite.sum(axis=0))


def _ends(log_steps: tuple[float, float], block_steps: int, num_blocks: int) -> list[float | None]:
    """An interval in steps: none are fewer than a block, and beyond the last block nothing was seen."""
    low, high = np.exp(log_steps)
    low = _finite(max(low, block_steps)) if low > 0 else None
    return [low, _finite(high) if high <= num_blocks * block_steps else None]


def _first_steps(curves: np.ndarray, level: np.ndarray, block_steps: int) -> np.ndarray:
    """Steps [...] until the first block of curves [..., K] that is at `level`; infinite if none is."""
    is_there = curves >= level
    steps = (np.argmax(is_there, axis=-1) + 1.0) * block_steps
    return np.where(is_there.any(axis=-1), steps, np.inf)


def _finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
