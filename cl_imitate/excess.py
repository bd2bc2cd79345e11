"""Two runs' excess over the floor, one less the other: does a frozen imitator do any better on the learner from which
less is hidden?

Each run's control `floor` says how far its learner's own clones lie from each other and how much farther the imitators
lie from them. A learner that hides less has another floor, so what is compared is the excess. Two runs of one seed that
differ in the learner alone have the same tasks, initialisations, coins and imitator seeds, in the same order: then
learners and seeds are compared pair by pair. Else both intervals are put together as squares (MOVER; see `statistics`).
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from cl_imitate import statistics
from cl_imitate.config import Experiment
from cl_imitate.evaluation import results

Unit = Literal["total variation", "nats", "use of time"]
_UNITS: dict[Unit, tuple[str, str]] = {
    "total variation": ("imitator_tv", "clone_tv"),
    "nats": ("imitator_nats", "clone_nats"),
    "use of time": ("imitator_occupancy", "clone_occupancy"),
}
"""The arrays of an imitator's divergence and of the clones', by unit; the first two teacher-forced, the last in closed
loop (total variation between shares of state-action pairs)."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Excess:
    """What one run's floor control measured."""

    experiment: Experiment
    task: np.ndarray  # int [L]
    values: Mapping[Unit, np.ndarray]  # float [S, L]: every imitator's excess on every learner


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The second run's excess less the first's, in one unit."""

    unit: Unit
    estimate: float
    ci95: tuple[float, float]
    is_paired: bool

    @property
    def key(self) -> str:
        """As a column is called."""
        return f"floor_excess_less_first.{self.unit.replace(' ', '_')}"

    def told(self, first: str, second: str) -> str:
        """In a sentence."""
        low, high = self.ci95
        answer = f"the interval leaves open on which of {first} and {second} the imitators stand nearer to the floor"
        if high < 0:
            answer = f"the imitators stand nearer to the floor on {second} than on {first}"
        elif low > 0:
            answer = f"the imitators stand nearer to the floor on {first} than on {second}"
        how = "learners and seeds in pairs" if self.is_paired else "not in pairs"
        return (
            f"excess over the floor ({self.unit}), {second} less {first}: {self.estimate:.3f} [{low:.3f}, {high:.3f}] "
            f"({how}): {answer}."
        )


def load(path: pathlib.Path, experiment: Experiment, fingerprint: str) -> Excess | None:
    """A run folder's; None where its config asks for no floor.

    Raises:
      ValueError: the control's file is missing or damaged.
    """
    if "floor" not in experiment.controls.run:
        return None
    file = path / "controls" / "floor.npz"
    return of_arrays(experiment, results.load_arrays(file, fingerprint=fingerprint, stage="control")[0])


def of_arrays(experiment: Experiment, arrays: Mapping[str, np.ndarray]) -> Excess:
    """From what the control `floor` measured."""
    num = len(arrays["task"])

    def excess(imitator: str, clones: str) -> np.ndarray:
        own = arrays[imitator].reshape(-1, num, *arrays[imitator].shape[2:])
        looks = tuple(range(2, own.ndim))
        return own.mean(axis=looks) - arrays[clones].mean(axis=tuple(range(1, arrays[clones].ndim)))

    return Excess(
        experiment=experiment,
        task=arrays["task"],
        values={unit: excess(*names) for unit, names in _UNITS.items()},
    )


def are_pairs(first: Excess, second: Excess) -> bool:
    """Whether learner i and seed s of one run are those of the other, but for how they learn."""
    one, two = first.experiment, second.experiment
    return (
        one.seed == two.seed
        and one.environment == two.environment
        and one.shapes == two.shapes
        and one.training.first_seed == two.training.first_seed
        and one.evaluation.later_fork_step == two.evaluation.later_fork_step
        and first.values["nats"].shape == second.values["nats"].shape
        and np.array_equal(first.task, second.task)
    )


def differences(first: Excess, second: Excess) -> list[Difference]:
    """The second's excess less the first's, in every unit; by the first's rules."""
    paired = are_pairs(first, second)
    return [_difference(first, second, unit, is_paired=paired) for unit in _UNITS]


def _difference(first: Excess, second: Excess, unit: Unit, *, is_paired: bool) -> Difference:
    rules = first.experiment.rules

    def estimate(of: Excess, values: np.ndarray) -> statistics.Estimate:
        rng = np.random.default_rng([first.experiment.seed, 11])
        return statistics.estimate(_mean, values, task=of.task, rng=rng, samples=rules.bootstrap_samples)

    if is_paired:
        found = estimate(first, second.values[unit] - first.values[unit])
        value, pair = found.value, found.interval(rules.confidence)
    else:
        one, two = (estimate(of, of.values[unit]) for of in (first, second))
        (low_1, high_1), (low_2, high_2) = (each.interval(rules.confidence) for each in (one, two))
        value = two.value - one.value
        pair = (
            value - float(np.hypot(two.value - low_2, high_1 - one.value)),
            value + float(np.hypot(high_2 - two.value, one.value - low_1)),
        )
    return Difference(unit=unit, estimate=value, ci95=pair, is_paired=is_paired)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=(-2, -1))
