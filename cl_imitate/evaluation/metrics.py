"""Levels and curves, from a cell's returns. Nothing here compares arms by a protocol; `comparisons` does.

A *level* is a mean return per imitator seed and learner, `[S or 1, n]`: at the end (the last
`rules.reference_fraction` of the horizon) or at the start (the first `now_steps`). Gains are differences of levels.
"""

import numpy as np

from cl_imitate import statistics
from cl_imitate.config import Rules
from cl_imitate.evaluation.results import Cell
from cl_imitate.statistics import Estimate


def missing_arms(cell: Cell, *arms: str) -> list[str]:
    """Arms that the cell lacks, or that hold no finite return."""
    return [arm for arm in arms if not np.isfinite(cell.returns.get(arm, np.nan)).any()]


def start_level(cell: Cell, arm: str, steps: int) -> np.ndarray:
    """The level over the first `steps` (at least one block)."""
    return _mean_over_blocks(cell.returns[arm][..., : max(1, round(steps / cell.block_steps))])


def end_level(cell: Cell, arm: str, rules: Rules) -> np.ndarray:
    """The level over the last `rules.reference_fraction` of the cell's horizon.

    An arm that was run for less (a held learner, whose level does not change) gives as many of its own last
    blocks.
    """
    returns = cell.returns[arm]
    seen = np.isfinite(returns).any(axis=(0, 1))
    length = np.flatnonzero(seen)[-1] + 1 if seen.any() else returns.shape[-1]
    horizon = max(values.shape[-1] for values in cell.returns.values())
    blocks = max(1, round(rules.reference_fraction * horizon))
    return _mean_over_blocks(returns[..., max(0, length - blocks) : length])


def whole_level(cell: Cell, arm: str) -> np.ndarray:
    """The level over the whole horizon."""
    return _mean_over_blocks(cell.returns[arm])


def _mean_over_blocks(returns: np.ndarray) -> np.ndarray:
    finite = np.isfinite(returns)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(finite, returns, 0.0).sum(axis=-1) / finite.sum(axis=-1)


def curve(returns: np.ndarray) -> np.ndarray:
    """The IQM of each block over all seeds and learners with an episode in it: `[S, n, K] -> [K]`."""
    blocks = np.moveaxis(returns, -1, 0).reshape(returns.shape[-1], -1)
    seen = (block[np.isfinite(block)] for block in blocks)
    return np.array([float(statistics.iqm(block[None])) if block.size else np.nan for block in seen])


def band(cell: Cell, arm: str, rng: np.random.Generator, *, samples: int, confidence: float) -> np.ndarray:
    """The curve with its pointwise interval, `[3, K]`: low, IQM, high."""
    returns = cell.returns[arm]
    points = []
    for block in range(returns.shape[-1]):
        one = statistics.estimate(
            statistics.iqm, returns[..., block], task=cell.task, rng=rng, samples=samples
        )
        low, high = one.interval(confidence)
        points.append((low, one.value, high))
    return np.array(points).T


def time_constant(cell: Cell, arm: str, start: np.ndarray, end: np.ndarray) -> float:
    """Steps until the arm's curve has made half of its way from `start` to `end` (levels); NaN if it makes none.

    Linear between the middles of blocks, from `start` at step 0.
    """
    first, last = (float(value_of(statistics.iqm, level)) for level in (start, end))
    values = curve(cell.returns[arm])
    steps = (np.arange(len(values)) + 0.5) * cell.block_steps
    finite = np.isfinite(values)
    values, steps = np.append(first, values[finite]), np.append(0.0, steps[finite])
    half = (first + last) / 2
    reached = np.flatnonzero(values >= half)
    if not last > first or not len(reached):
        return np.nan
    upper = reached[0]
    before, after = values[upper - 1], values[upper]
    return float(steps[upper - 1] + (steps[upper] - steps[upper - 1]) * (half - before) / (after - before))


def policy_entropy(epsilon: float, num_actions: int) -> float:
    """Nats: of an epsilon-greedy policy; no prediction of its actions has a lower cross-entropy."""
    explores = epsilon / num_actions
    shares = np.array([1.0 - (num_actions - 1) * explores, *[explores] * (num_actions - 1)])
    return float(-np.sum(shares * np.log(np.maximum(shares, 1e-30))))


def iqm_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The interquartile mean of what `one` is above `other`."""
    return statistics.iqm(one - other)


def estimate(estimator, *arms: np.ndarray, cell: Cell, rules: Rules, rng: np.random.Generator) -> Estimate:
    """An estimate over learners and tasks, with what its interval needs."""
    samples = rules.bootstrap_samples
    return statistics.estimate(estimator, *arms, task=cell.task, rng=rng, samples=samples)


def value_of(estimator, *arms: np.ndarray) -> np.ndarray:
    """The estimate alone, over learners that are finite in all arms."""
    values = np.stack(np.broadcast_arrays(*arms))
    values = values[:, :, np.isfinite(values).all(axis=(0, 1))]
    return estimator(*values) if values.size else np.asarray(np.nan)
