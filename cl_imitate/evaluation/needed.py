"""The least size at which something holds, found by bisection, and how it grows with a learner's time constant."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

_LEAST_OCTAVES = 0.5
_LEAST_SPREAD = (
    0.25  # octaves by which a break lies off its line at least: imitators of other seeds break elsewhere
)
_SLOPES = (-16.0, 16.0)


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
    steps: Sequence[float], needed: Sequence[Needed], *, groups: Sequence[Hashable] | None = None
) -> Line:
    """The line through the sizes' brackets (in logs) over time constants in steps, of the greatest likelihood.

    A size lies about the line as a normal variable; all that is known of it is its bracket, which may be open at one
    side (a break beyond what was tried). With `groups`, the line has one slope and an intercept for each group (their
    mean is told), and groups of one time constant are left out: so a learner's slowness is told apart from what else
    slows it. The interval is that of the likelihood's profile, by the F distribution because points are few; it knows
    of chance among learners only as far as that moves points. Points without a time constant are left out. With fewer
    than three time constants or two closed brackets, or if the slowest learner is not 1.4 times as slow as the fastest,
    there is no line: NaN.
    """
    groups = [None] * len(steps) if groups is None else groups
    whole = [
        (
            math.log2(time),
            math.log2(one.low or 0.5**60),
            math.log2(one.high or 2.0**60),
            group,
            one.is_between,
        )
        for time, one, group in zip(steps, needed, groups, strict=True)
        if one != Needed(None, None) and math.isfinite(time)
    ]
    whole = [one for one in whole if len({other[0] for other in whole if other[3] == one[3]}) > 1]
    times, num_closed = {one[0] for one in whole}, sum(one[4] for one in whole)
    if len(times) < 3 or num_closed < 2 or max(times) - min(times) < _LEAST_OCTAVES:
        return Line(math.nan, (math.nan, math.nan), math.nan, len(whole))
    labels = list(dict.fromkeys(one[3] for one in whole))
    x, low, high = np.array([one[:3] for one in whole]).T
    is_in = np.array([[one[3] == label for label in labels] for one in whole], float)  # [points, groups]

    def profile(slope: float) -> tuple[float, np.ndarray]:
        return _likeliest(low - slope * x, high - slope * x, is_in)

    found = optimize.minimize_scalar(lambda slope: -profile(slope)[0], bounds=_SLOPES, method="bounded")
    best, intercepts = profile(found.x)
    freedom = max(1, len(x) - len(labels) - 1)
    drop = float(stats.f.ppf(0.95, 1, freedom)) / 2

    def end(bound: float) -> float:
        """Where the likelihood has dropped by so much, on the way to a bound: beyond, there is no end."""

        def above(slope: float) -> float:
            return profile(slope)[0] - best + drop

        if above(bound) > 0:
            return math.copysign(math.inf, bound)
        return float(optimize.brentq(above, found.x, bound, xtol=1e-3))  # pyright: ignore[reportArgumentType]

    ends = (end(_SLOPES[0]), end(_SLOPES[1]))
    return Line(float(found.x), ends, float(intercepts.mean()), len(whole))


def _likeliest(low: np.ndarray, high: np.ndarray, is_in: np.ndarray) -> tuple[float, np.ndarray]:
    """The greatest log likelihood of levels [groups], given the brackets less the slope's share, and the levels."""

    def loss(levels_and_spread: np.ndarray) -> float:
        spread = _LEAST_SPREAD + math.exp(levels_and_spread[-1])
        level = is_in @ levels_and_spread[:-1]
        return -float(np.sum(_log_between((low - level) / spread, (high - level) / spread)))

    inside = np.where(np.isinf(low), high - 0.5, np.where(np.isinf(high), low + 0.5, (low + high) / 2))
    start = np.append(is_in.T @ inside / is_in.sum(axis=0), -1.0)
    bounds = [(None, None)] * is_in.shape[1] + [(-6.0, 3.0)]
    found = optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    return -float(found.fun), found.x[:-1]


def _log_between(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The log probability that a standard normal variable lies between, in whichever tail that is."""
    below, above = np.where(below > 0, -above, below), np.where(below > 0, -below, above)
    upper, lower = special.log_ndtr(above), special.log_ndtr(below)
    return upper + np.log1p(-np.exp(np.minimum(lower - upper, -1e-12)))
