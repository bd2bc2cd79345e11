"""What each protocol compares: the imitator's gain beside the learner's. Nothing here decides; `answers` does.

Ratios are ratios of IQMs over learners, with intervals as `cl_imitate.statistics` explains.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cl_imitate import statistics
from cl_imitate.config import Rules
from cl_imitate.evaluation.metrics import (
    end_level,
    estimate,
    iqm_difference,
    missing_arms,
    start_level,
    time_constant,
    value_of,
    whole_level,
)
from cl_imitate.evaluation.results import Cell
from cl_imitate.statistics import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parity:
    """NOW and MONTH: rho, the imitator's gain over the held learner's gain."""

    ratio: Estimate
    argmax_ratio: Estimate
    held_gain: Estimate  # the held learner's level over the random policy's, in return
    improvement: Estimate  # how often the imitator's return is above the held learner's, ties half
    divergence: Estimate  # nats: teacher-forced cross-entropy over the learner's own
    own_divergence: Estimate  # nats: the same on the imitator's own stream, in closed loop


def parity(cell: Cell, rules: Rules, rng: np.random.Generator) -> Parity:
    """Compare the imitator with the held learner, over the whole horizon."""
    held = whole_level(cell, "learner_held")
    imitator = whole_level(cell, "imitator")

    def gain_ratio(arm: str) -> Estimate:
        if missing_arms(cell, arm):
            return statistics.nothing()
        gain = whole_level(cell, arm) - cell.random_return
        return estimate(
            statistics.iqm_ratio, gain, held - cell.random_return, cell=cell, rules=rules, rng=rng
        )

    def over(measured: str, least: str) -> Estimate:
        found, floor = cell.scalars.get(measured), cell.scalars.get(least)
        if found is None or floor is None:
            return statistics.nothing()
        return estimate(iqm_difference, found, floor, cell=cell, rules=rules, rng=rng)

    divergence = over("imitator_cross_entropy", "learner_cross_entropy")
    return Parity(
        ratio=gain_ratio("imitator"),
        argmax_ratio=gain_ratio("imitator_argmax"),
        held_gain=estimate(iqm_difference, held, cell.random_return[None], cell=cell, rules=rules, rng=rng),
        improvement=estimate(
            statistics.probability_of_improvement, imitator, held, cell=cell, rules=rules, rng=rng
        ),
        divergence=divergence,
        own_divergence=over("closed_loop_cross_entropy", "held_entropy"),
    )


class Departure(NamedTuple):
    """When the imitator departs from the learner. Without steps: that it does not, or that this cannot be told."""

    steps: float  # after the prompt; NaN if none was seen
    side: Literal["behind", "ahead"] | None
    is_resolved: bool  # one was seen, or the intervals are narrow enough to say that there is none


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Growth:
    """PROCESS and LATER: r, the imitator's gain over the span over the learner's gain over it."""

    ratio: Estimate
    argmax_ratio: Estimate
    same_window_ratio: (
        Estimate  # both arms from their own first `now_steps`: exactly 1 for a perfect imitator
    )
    window_ratio: Estimate  # r of the best that a memory of the imitator's length can do, where it is known
    ceiling_ratio: Estimate  # r of perfect knowledge at the learner's epsilon, where it is known
    from_held_ratio: (
        Estimate  # LATER's r with both gains counted from the held learner's level, as a picture shows it
    )
    window_from_held_ratio: Estimate  # the same of the best that such a memory can do
    wiped_gain: Estimate  # the wiped imitator's level over random, as a share of the learner's range
    learner_gain: float  # over the span, as a share of its range (its end over random)
    learner_steps: float  # time constants: steps to half of the arm's own gain; NaN if it has none
    imitator_steps: float  # also NaN where an arm's gain is too small to have a shape
    departure: Departure
    occupancy_distance: Estimate  # total variation between the imitator's and the learner's use of their time

    @property
    def pace(self) -> float:
        """The imitator's time constant over the learner's: above 1, the imitator is slower."""
        return self.imitator_steps / self.learner_steps


def growth(
    cell: Cell,
    rules: Rules,
    rng: np.random.Generator,
    *,
    now_steps: int,
    own_start: bool,
    is_open_ended: bool = False,
) -> Growth:
    """Compare the imitator's improvement with the learner's.

    The learner starts from the learner held at the start of the span, over the first `now_steps` (if there is no
    such arm, from the random policy). With `own_start` (LATER) the imitator starts from its own level over its
    first `now_steps`, else (PROCESS) from where the learner starts. As an imitator that improves does so within
    those first steps already, its own start leans against it where `now_steps` is not short beside the learner's
    time constant; `same_window_ratio` shows by how much.

    With `is_open_ended` the task grows within the span, and who only keeps a level has learned: both gains are then
    counted from the level that the held learner, who stopped learning, has fallen to in the end. As no arm was ever
    there, time constants are NaN then, and there is no same window.
    """
    held = not missing_arms(cell, "learner_held")
    start = start_level(cell, "learner_held", now_steps) if held else cell.random_return[None]
    from_fallen = held and is_open_ended
    if from_fallen:
        start, own_start = end_level(cell, "learner_held", rules), False
    end = end_level(cell, "learner", rules)
    learner_range = float(value_of(iqm_difference, end, cell.random_return[None]))

    def gain_ratio(arm: str, *, learner_start: np.ndarray = start, own_start: bool = own_start) -> Estimate:
        if missing_arms(cell, arm):
            return statistics.nothing()
        arm_start = start_level(cell, arm, now_steps) if own_start else start
        gain = end_level(cell, arm, rules) - arm_start
        return estimate(statistics.iqm_ratio, gain, end - learner_start, cell=cell, rules=rules, rng=rng)

    learner_gain = float(value_of(iqm_difference, end, start))
    ratio = gain_ratio("imitator")
    imitator_start = start_level(cell, "imitator", now_steps) if own_start else start
    improves = ratio.value >= rules.learns_no and learner_gain >= rules.min_learner_gain * learner_range > 0
    wiped_gain = statistics.nothing()
    if not missing_arms(cell, "imitator_wiped"):
        gains = (end_level(cell, arm, rules) - cell.random_return for arm in ("imitator_wiped", "learner"))
        wiped_gain = estimate(statistics.iqm_ratio, *gains, cell=cell, rules=rules, rng=rng)
    departs = departure(
        cell,
        rules,
        rng,
        margin=rules.departure_margin * learner_range,
        # From an empty context there is no NOW to be relative to: both arms start from nothing.
        now_steps=now_steps if cell.start_step > 0 else 0,
    )
    return Growth(
        ratio=ratio,
        argmax_ratio=gain_ratio("imitator_argmax"),
        same_window_ratio=statistics.nothing()
        if from_fallen
        else gain_ratio("imitator", learner_start=start_level(cell, "learner", now_steps), own_start=True),
        window_ratio=gain_ratio("window"),
        wiped_gain=wiped_gain,
        learner_gain=learner_gain / learner_range if learner_range > 0 else np.nan,
        learner_steps=np.nan if from_fallen else time_constant(cell, "learner", start, end),
        imitator_steps=time_constant(cell, "imitator", imitator_start, end_level(cell, "imitator", rules))
        if improves and not from_fallen
        else np.nan,
        departure=departs,
        occupancy_distance=_occupancy_distance(cell, rules, rng),
        ceiling_ratio=_ceiling_ratio(cell, rules, rng, start, end),
        # last, so that no other figure's draws depend on them
        from_held_ratio=gain_ratio("imitator", own_start=False) if own_start else statistics.nothing(),
        window_from_held_ratio=gain_ratio("window", own_start=False) if own_start else statistics.nothing(),
    )


def _ceiling_ratio(
    cell: Cell, rules: Rules, rng: np.random.Generator, start: np.ndarray, end: np.ndarray
) -> Estimate:
    if not np.isfinite(cell.ceiling_return).any():
        return statistics.nothing()
    gain = cell.ceiling_return[None] - start
    return estimate(statistics.iqm_ratio, gain, end - start, cell=cell, rules=rules, rng=rng)


def _occupancy_distance(cell: Cell, rules: Rules, rng: np.random.Generator) -> Estimate:
    distance = cell.scalars.get("imitator_occupancy_distance")
    if distance is None:
        return statistics.nothing()
    zero = np.zeros((1, distance.shape[1]))
    return estimate(iqm_difference, distance, zero, cell=cell, rules=rules, rng=rng)


def departure(
    cell: Cell, rules: Rules, rng: np.random.Generator, *, margin: float, now_steps: int
) -> Departure:
    """When, after the prompt, the imitator departs from the learner, and to which side.

    The first of `rules.departure_blocks` consecutive blocks in which the interval of imitator - learner lies
    wholly outside +-margin, each arm relative to its own level over its first `now_steps` (0: as they are). A block
    in which fewer than half of the learners ended an episode shows nothing, and breaks a series.

    Where there is no such series, the imitator has not departed only if it cannot have: if there are never as many
    consecutive blocks in which the interval reaches out of +-margin, or which show nothing. Else the intervals are
    too wide to tell, and the departure is not resolved.
    """
    arms = [cell.returns[arm] for arm in ("imitator", "learner")]
    if now_steps:
        levels = (start_level(cell, arm, now_steps) for arm in ("imitator", "learner"))
        arms = [returns - level[..., None] for returns, level in zip(arms, levels, strict=True)]
    series = in_doubt = longest_doubt = 0
    for block in range(min(returns.shape[-1] for returns in arms)):
        difference = estimate(
            iqm_difference, *(returns[..., block] for returns in arms), cell=cell, rules=rules, rng=rng
        )
        low, high = difference.interval(rules.confidence)
        enough = 2 * difference.num_learners >= len(cell.task) and margin > 0
        outside = enough and (low > margin or high < -margin)
        inside = enough and -margin <= low and high <= margin
        series = series + 1 if outside else 0
        in_doubt = 0 if inside else in_doubt + 1
        longest_doubt = max(longest_doubt, in_doubt)
        if series == rules.departure_blocks:
            first = block - series + 1
            return Departure(float(first * cell.block_steps), "ahead" if low > margin else "behind", True)
    return Departure(np.nan, None, longest_doubt < rules.departure_blocks)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Excess:
    """LATER's second question, as differences of return; with `best_history` a number, not an arm."""

    imitator_over_held: Estimate
    imitator_over_best: Estimate
    learner_over_held: Estimate
    learner_over_best: Estimate
    best_history: float
    best_history_is_recorded: bool  # False: taken from the held-out learners, held at the same age


def excess(cell: Cell, rules: Rules, rng: np.random.Generator, *, now_steps: int) -> Excess:
    """Compare end levels with the held learner's over `now_steps`, and with the best training history's, at the same
    epsilon.

    The best training history comes in the cell's scalar `best_history_return`. Without it, the best of the
    held-out learners held at the fork stands in: same age, same epsilon, other seeds.
    """
    held = start_level(cell, "learner_held", now_steps)
    recorded = cell.scalars.get("best_history_return")
    best = float(np.nanmax(held if recorded is None else recorded))

    def over(arm: str, threshold: np.ndarray) -> Estimate:
        return estimate(
            iqm_difference, end_level(cell, arm, rules), threshold, cell=cell, rules=rules, rng=rng
        )

    everywhere = np.full_like(held, best)
    return Excess(
        imitator_over_held=over("imitator", held),
        imitator_over_best=over("imitator", everywhere),
        learner_over_held=over("learner", held),
        learner_over_best=over("learner", everywhere),
        best_history=best,
        best_history_is_recorded=recorded is not None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """ELSEWHERE and the gate: what an imitator recovers, from an empty context, of a fresh learner's gain."""

    recovered: Estimate
    argmax_recovered: Estimate
    wiped_recovered: Estimate
    prompted_recovered: Estimate  # prompted from the source task, over the transplanted learner's gain
    learner_gain: Estimate  # as a share of its range up to the ceiling
    transplanted_gain: Estimate
    ceiling: str | None  # "ceiling" or "optimal": what the learner's range ends at; None if unknown
    tasks_above_half: int
    num_tasks: int


def transfer(cell: Cell, rules: Rules, rng: np.random.Generator) -> Transfer:
    """Compare end levels, over random."""
    learner = end_level(cell, "learner", rules) - cell.random_return

    def recovered(arm: str, of: str = "learner") -> Estimate:
        if missing_arms(cell, arm, of):
            return statistics.nothing()
        gains = (end_level(cell, one, rules) - cell.random_return for one in (arm, of))
        return estimate(statistics.iqm_ratio, *gains, cell=cell, rules=rules, rng=rng)

    ceiling = next((name for name in ("ceiling", "optimal") if np.isfinite(_bound(cell, name)).any()), None)

    def share_of_range(arm: str) -> Estimate:
        if ceiling is None or missing_arms(cell, arm):
            return statistics.nothing()
        gain = end_level(cell, arm, rules) - cell.random_return
        full = (_bound(cell, ceiling) - cell.random_return)[None]
        return estimate(statistics.iqm_ratio, gain, full, cell=cell, rules=rules, rng=rng)

    imitator = end_level(cell, "imitator", rules) - cell.random_return
    above, num_tasks = _tasks_above_half(imitator, learner, cell.task)
    return Transfer(
        recovered=recovered("imitator"),
        argmax_recovered=recovered("imitator_argmax"),
        wiped_recovered=recovered("imitator_wiped"),
        prompted_recovered=recovered("imitator_prompted", "learner_transplanted"),
        learner_gain=share_of_range("learner"),
        transplanted_gain=share_of_range("learner_transplanted"),
        ceiling=ceiling,
        tasks_above_half=above,
        num_tasks=num_tasks,
    )


def mean_recovered(cells: Sequence[Cell], rules: Rules, rng: np.random.Generator) -> Estimate:
    """The mean over rungs of what is recovered, whose learners meet the same tasks in the same order (`cell.task`).

    Every draw takes the same learners on all rungs; a learner that is not finite on one of them is left out of all.
    """

    def mean_ratio(*gains: np.ndarray) -> np.ndarray:
        pairs = zip(gains[::2], gains[1::2], strict=True)
        return np.mean([statistics.iqm_ratio(*pair) for pair in pairs], axis=0)

    gains = [
        end_level(cell, arm, rules) - cell.random_return for cell in cells for arm in ("imitator", "learner")
    ]
    return estimate(mean_ratio, *gains, cell=cells[0], rules=rules, rng=rng)


def _tasks_above_half(imitator: np.ndarray, learner: np.ndarray, task: np.ndarray) -> tuple[int, int]:
    """On how many tasks the mean imitator gain is above half of the mean learner gain (over seeds and learners)."""
    finite = np.isfinite(imitator).all(axis=0) & np.isfinite(learner).all(axis=0)
    tasks = np.unique(task[finite])
    means = [
        (imitator[:, finite & (task == one)].mean(), learner[:, finite & (task == one)].mean())
        for one in tasks
    ]
    return sum(bool(own > 0 and gain > 0.5 * own) for gain, own in means), len(tasks)


def _bound(cell: Cell, name: str) -> np.ndarray:
    return cell.ceiling_return if name == "ceiling" else cell.optimal_return
