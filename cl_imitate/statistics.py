"""Interquartile means, and intervals over tasks, learners and imitator seeds.

Axes everywhere: S imitator seeds, n held-out learners, B bootstrap samples. Values are `[..., S, n]`.

*Source: Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice" (rliable).* As there: the
aggregate is the IQM of all scores of all tasks, pooled, and the interval is the percentile interval of a
stratified bootstrap. Where we differ, and why:

- rliable's strata are tasks, which it holds fixed, because its benchmark has just these. Our tasks are a sample
  of a family, so we resample tasks, and learners within tasks. With a single task both are the same procedure.
- Our strata are imitator seeds. All seeds meet the same learners, so one resample of the learners serves every
  seed: drawing anew for each seed would count the same learners S times and make intervals too short.
- All arms of a sample hold the same resampled learners (paired).
- Few tasks make a percentile interval too short; it is stretched by what makes Student's t of a normal quantile
  (Hesterberg 2015, "What teachers should know about the bootstrap", section 3.3, which moves the quantiles instead).
- Learners and seeds both vary, so neither's interval is enough, nor is the wider of the two (of a truth on the
  bound, 5 to 7 seeds whose spread equals the learners' called 10 to 12% wrongly instead of 5%; resampled seeds, 8
  of them, 8 to 12%). The bootstrap's distance from the estimate and the t interval's over the seeds' own estimates
  are added as squares (Zou & Donner 2008, "Construction of confidence limits about effect measures": MOVER).

`tests/test_calibration.py` shows how often the answers made from these intervals are wrong.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.special
import scipy.stats

INTERVAL = "stretched percentile bootstrap over tasks and learners, plus t over imitator seeds, in quadrature"
"""What stands behind every interval, in words; part of the hash of the decision rules."""

_VALUES_AT_ONCE = 4_000_000  # bootstrap samples are taken in pieces of so many values, to bound the memory

Estimator = Callable[..., np.ndarray]
"""Arrays `[..., S, n]`, one an arm -> estimates `[...]`."""


def iqm(values: np.ndarray) -> np.ndarray:
    """The interquartile mean over seeds and learners: `[..., S, n] -> [...]`.

    Equal to `scipy.stats.trim_mean(..., 0.25)`, whose argument checks cost more than the mean itself here.
    """
    values = np.asarray(values, dtype=float)
    values = values.reshape(*values.shape[:-2], -1)
    size = values.shape[-1]
    cut = size // 4
    if cut:
        values = np.partition(values, (cut, size - cut - 1), axis=-1)[..., cut : size - cut]
    return values.mean(axis=-1)


def iqm_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A ratio of IQMs: unlike a mean of ratios it survives a learner whose own range is near 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(iqm(numerator), iqm(denominator))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """An estimate with what its interval is made of."""

    value: float
    draws: np.ndarray  # float [B]: the bootstrap's estimates
    seed_values: np.ndarray  # float [S]: each imitator seed's own estimate
    num_learners: int
    num_units: int = 0  # what is independent: tasks, or the learners of a single task; 0: the learners

    @property
    def covers_learners(self) -> bool:
        """Whether it rests on two learners (or tasks) at least."""
        return self._units > 1

    @property
    def _units(self) -> int:
        return self.num_units or self.num_learners

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The bootstrap's interval and the t interval over seeds, in quadrature on either side of the estimate.

        One seed says nothing about other seeds: then only learners are left. One learner says nothing about other
        learners, whom every answer is about: then NaN, as with nothing to go by.
        """
        if not self.covers_learners:
            return np.nan, np.nan
        low, high = _percentiles(self.draws, confidence)
        if not np.isfinite(self.value):
            return low, high
        stretch = _stretch(self._units, confidence)
        over_seeds = seed_half_width(self.seed_values, confidence)
        return (
            self.value - float(np.hypot(stretch * max(self.value - low, 0.0), over_seeds)),
            self.value + float(np.hypot(stretch * max(high - self.value, 0.0), over_seeds)),
        )


def nothing() -> Estimate:
    """The estimate of something that was not measured."""
    return Estimate(value=np.nan, draws=np.full(1, np.nan), seed_values=np.full(1, np.nan), num_learners=0)


def estimate(
    estimator: Estimator, *arms: np.ndarray, task: np.ndarray, rng: np.random.Generator, samples: int
) -> Estimate:
    """Estimate from arms `[S or 1, n]`, with `samples` bootstrap samples.

    Learners without a finite value in every arm and seed are left out of all arms. An arm without seeds is
    repeated for each seed, so that equal arms give a ratio of exactly 1.
    """
    values = np.stack(np.broadcast_arrays(*(np.asarray(arm, dtype=float) for arm in arms)))
    usable = np.isfinite(values).all(axis=(0, 1))
    values, task = values[:, :, usable], np.asarray(task)[usable]
    if not usable.any():
        return nothing()
    learners = resample(task, rng=rng, samples=samples)
    pieces = np.array_split(learners, -(-samples * values[0].size // _VALUES_AT_ONCE))
    draws = [estimator(*(np.moveaxis(arm[:, piece], 0, 1) for arm in values)) for piece in pieces]
    num_tasks = len(np.unique(task))
    return Estimate(
        value=float(estimator(*values)),
        draws=np.concatenate(draws),
        seed_values=np.atleast_1d(estimator(*(arm[:, None, :] for arm in values))),
        num_learners=int(usable.sum()),
        num_units=num_tasks if num_tasks > 1 else int(usable.sum()),
    )


def resample(task: np.ndarray, *, rng: np.random.Generator, samples: int) -> np.ndarray:
    """Indices of resampled learners `[B, n]`: tasks with replacement, then learners within each task.

    Tasks are drawn until n learners are reached (tasks may have unequal numbers of learners; the last one drawn
    may be cut short).
    """
    n = len(task)
    order = np.argsort(task, kind="stable")
    _, first, count = np.unique(np.asarray(task)[order], return_index=True, return_counts=True)
    drawn = rng.integers(len(count), size=(samples, -(-n // count.min())))
    # Slot j of a sample belongs to the first drawn task at which the running number of learners passes j. The
    # samples' running numbers are laid end to end, so that one search answers for all.
    reached = np.cumsum(count[drawn], axis=1)
    offset = np.arange(samples)[:, None] * (reached.max() + n)
    slots = np.searchsorted((reached + offset).ravel(), (np.arange(n) + offset).ravel(), side="right")
    of_slot = drawn.ravel()[slots].reshape(samples, n)
    return order[first[of_slot] + rng.integers(count[of_slot])]


def seed_half_width(values: np.ndarray, confidence: float) -> float:
    """Half of the t interval of seeds' own estimates `[S]`: 0 of a single one, infinite where one is no number."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return 0.0
    if not np.isfinite(values).all():
        return np.inf
    return float(student(len(values) - 1, confidence) * values.std(ddof=1) / len(values) ** 0.5)


def student(degrees: int, confidence: float) -> float:
    """The two-sided quantile of Student's t."""
    return float(scipy.special.stdtrit(degrees, (1 + confidence) / 2))


def share_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share."""
    if total == 0:
        return np.nan, np.nan
    low, high = scipy.stats.binomtest(count, total).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def holm(estimates: Sequence[Estimate], null: float, *, confidence: float) -> list[bool]:
    """Which estimates differ from `null`, with the chance of even one mistake held to 1 - confidence.

    *Source: Holm 1979.* Step-down, by intervals instead of p-values, so that a single estimate is judged by just
    the interval it is reported with: with m estimates left, those whose interval at 1 - (1 - confidence) / m
    leaves `null` out are decided; then again among the others, until none is.
    """
    decided = [False] * len(estimates)
    while not all(decided):
        level = 1 - (1 - confidence) / decided.count(False)
        found = [
            number
            for number, one in enumerate(estimates)
            if not decided[number] and _leaves_out(one.interval(level), null)
        ]
        if not found:
            break
        for number in found:
            decided[number] = True
    return decided


def mean_of(estimates: Sequence[Estimate], *, weights: Sequence[float] | None = None) -> Estimate:
    """The mean of estimates on different learners and tasks by the same imitators.

    Learners and tasks must be independent from one estimate to the other: what they leave open then shrinks with the
    number of estimates, and what the imitator seeds leave open does not. If one was not measured, nor is the mean.
    """
    if not all(one.num_learners for one in estimates) or not estimates:
        return nothing()
    return Estimate(
        value=float(np.average([one.value for one in estimates], weights=weights)),
        draws=np.average([one.draws for one in estimates], axis=0, weights=weights),
        seed_values=np.average([one.seed_values for one in estimates], axis=0, weights=weights),
        num_learners=sum(one.num_learners for one in estimates),
        num_units=min(one.num_units or one.num_learners for one in estimates),
    )


def probability_of_improvement(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """How often the first arm's learner beats the second's, ties counting half: `[..., S, n] -> [...]`.

    As rliable's, except that pairs are the same learner on the same task, instead of any two runs of a task.
    """
    wins = np.greater(better, worse) + 0.5 * np.equal(better, worse)
    return wins.mean(axis=(-2, -1))


def _stretch(num_units: int, confidence: float) -> float:
    """By how much a percentile interval of so many independent units, two or more, is too short, were they normal."""
    normal = scipy.special.ndtri((1 + confidence) / 2)
    return float(student(num_units - 1, confidence) / normal * (num_units / (num_units - 1)) ** 0.5)


def _percentiles(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """A draw that is no number (0 / 0) could be anything: it counts as low for the lower bound, high for the upper."""
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low = np.quantile(np.nan_to_num(draws, nan=-np.inf, posinf=np.inf, neginf=-np.inf), tail)
        high = np.quantile(np.nan_to_num(draws, nan=np.inf, posinf=np.inf, neginf=-np.inf), 1 - tail)
    return (float(-np.inf if np.isnan(low) else low), float(np.inf if np.isnan(high) else high))


def _leaves_out(pair: tuple[float, float], null: float) -> bool:
    return pair[0] > null or pair[1] < null
