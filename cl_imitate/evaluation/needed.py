"""The least size at which something holds, found by bisection, and how it grows with a learner's time constant."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np

_LEAST_OCTAVES = 0.5


class Needed(NamedTuple):
    """The least size that suffices lies above `low` (None: the smallest one tried suffices) and at most at `high`
    (None: the largest one tried does not)."""

    low: int | None
    high: int | None

    @property
    def is_between(self) -> bool:
        return self.low is not None and self.high is not None


def bisect(sizes: Sequence[int], suffices: Callable[[int], bool]) -> Needed:
    """Which of the ascending `sizes` is the first that suffices; asks about log2 of their number.

    It supposes that whatever is larger than a size that suffices does too; where chance breaks this, it finds one of
    the crossings.
    """
    if list(sizes) != sorted(set(sizes)) or not sizes:
        raise ValueError(f"sizes = {list(sizes)} must ascend, without repetition, and there must be one")
    first, end = 0, len(sizes)  # the first that suffices is among sizes[first:end], or there is none
    while first < end:
        middle = (first + end) // 2
        if suffices(sizes[middle]):
            end = middle
        else:
            first = middle + 1
    low = sizes[first - 1] if first > 0 else None
    return Needed(low, sizes[first] if first < len(sizes) else None)


class Line(NamedTuple):
    """log2 size = intercept + slope * log2 steps, with 95% intervals; `num` points lie behind it."""

    slope: float
    slope_ci95: tuple[float, float]
    intercept: float
    num: int

    def at(self, steps: float) -> float:
        """The size at a time constant; far from the points, an extrapolation."""
        return 2.0 ** (self.intercept + self.slope * math.log2(steps))


def fit(
    steps: Sequence[float],
    needed: Sequence[Needed],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    samples: int = 4000,
) -> Line:
    """Least squares through the middles (in logs) of the sizes' brackets, over time constants in steps.

    Points whose bracket is open at one side, or that have no time constant, are left out. With `groups`, the line has
    one slope and an intercept for each group (their mean is told), and groups of one time constant are left out: so a
    learner's slowness is told apart from what else slows it. The interval is a bootstrap over points, the size drawn
    evenly within its bracket each time: it knows of chance among learners only as far as that moves points. With fewer
    than three time constants, or if the slowest learner is not 1.4 times as slow as the fastest, there is no line: NaN.
    """
    groups = [None] * len(steps) if groups is None else groups
    whole = [
        (math.log2(time), math.log2(one.low), math.log2(one.high), group)
        for time, one, group in zip(steps, needed, groups, strict=True)
        if one.low is not None and one.high is not None and math.isfinite(time)
    ]
    whole = [one for one in whole if len({other[0] for other in whole if other[3] == one[3]}) > 1]
    times = {one[0] for one in whole}
    if len(times) < 3 or max(times) - min(times) < _LEAST_OCTAVES:
        return Line(math.nan, (math.nan, math.nan), math.nan, len(whole))
    x, low, high = np.array([one[:3] for one in whole]).T
    labels = list({one[3] for one in whole})
    is_in = np.array([[one[3] == label for label in labels] for one in whole], float)  # [points, groups]
    rng = np.random.default_rng(seed)
    index = rng.integers(len(x), size=(samples, len(x)))
    centred = _centred(x[index], is_in[index])
    varies = (centred**2).sum(axis=1) > 1e-9
    drawn = rng.uniform(low[index], high[index])
    slopes = (centred * drawn)[varies].sum(axis=1) / (centred[varies] ** 2).sum(axis=1)
    middle, own = (low + high) / 2, _centred(x[None], is_in[None])[0]
    slope = float((own * middle).sum() / (own**2).sum())
    below, above = np.percentile(slopes, [2.5, 97.5])
    return Line(slope, (float(below), float(above)), float(np.mean(middle - slope * x)), len(whole))


def _centred(values: np.ndarray, is_in: np.ndarray) -> np.ndarray:
    """Values [S, points] less the mean of their groups, which `is_in` [S, points, groups] tells."""
    sums, counts = np.einsum("sp,spg->sg", values, is_in), is_in.sum(axis=1)
    return values - np.einsum("spg,sg->sp", is_in, sums / np.maximum(counts, 1))
