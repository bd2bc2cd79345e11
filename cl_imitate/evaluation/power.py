"""Whether a run is large enough for its questions, said before it starts: from its sizes and its rules alone.

The interval of a ratio is, as `statistics` makes it, the learners' and the imitator seeds' half-widths in quadrature.
Asked is for two imitators of known truth: a perfect one (ratio 1) must be given its yes, and one that does nothing
(ratio 0) its no, each in 80% of runs. How far learners and seeds lie apart is assumed.
"""

import dataclasses
import math
from collections.abc import Iterator

import scipy.special

from cl_imitate import config, optimiser, statistics

POWER = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of single learners' and of imitator seeds' ratios."""

    learners: float
    seeds: float


SPREADS = {
    "now": Spread(learners=0.09, seeds=0.01),
    "month": Spread(learners=0.5, seeds=0.06),
    "process": Spread(learners=0.055, seeds=0.006),
    "later": Spread(learners=0.17, seeds=0.043),
    "elsewhere": Spread(learners=0.08, seeds=0.02),
}
"""As seen in configs/quickstart.toml with three master seeds: root mean squares over the three runs; MONTH: over its
stages on training tasks, too; ELSEWHERE: of its middle rung.

Learners: half of the interval that is left when imitator seeds are taken for one, over Student's t, times the root of
the number of tasks, which is what `half_width` makes of it. Seeds: the standard deviation of their own estimates.
LATER, with its fork at 128 steps: learners 0.20, 0.14, 0.16; seeds 0.033, 0.021, 0.064 (three points of
configs/visibility.toml on the first run's learners: 0.13 to 0.17; 0.013 to 0.045). For 64 tasks and 3 seeds that makes
0.11; these runs' intervals had 0.10, 0.06 and 0.16.

Those imitators hardly go on improving (0.12 to 0.15), so LATER's is the spread of a plain no, whose bound is the nearer
one. One that improves is further from its bound: the learner posterior had 0.90 [0.87, 0.95].
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What an interval rests on."""

    learners: int
    tasks: int  # 1: the learners themselves are the sample
    seeds: int

    @property
    def units(self) -> int:
        """How many independent things the bootstrap resamples."""
        return self.tasks if self.tasks > 1 else self.learners


def sizes(experiment: config.Experiment, question: str) -> Sizes:
    """The sizes behind a question's interval: held-out learners, their tasks at most, imitator seeds."""
    simulation, seeds = experiment.simulation, experiment.training.num_seeds
    learners = {
        "month": simulation.num_held_out_train_tasks,
        "elsewhere": experiment.evaluation.elsewhere_learners,
    }.get(question, simulation.num_held_out)
    tasks = learners
    if question == "month":
        tasks = min(learners, simulation.num_tasks or learners)
    elif question != "elsewhere":
        tasks = min(learners, simulation.num_held_out_tasks or learners)
    if isinstance(experiment.environment, config.MinAtar | config.CartPole):
        tasks = 1
    elif isinstance(experiment.environment, config.DarkRoom) and question != "month":
        tasks = min(tasks, experiment.environment.num_held_out_goals or tasks)
    return Sizes(learners=learners, tasks=tasks, seeds=seeds)


def asked(experiment: config.Experiment) -> tuple[str, ...]:
    """The questions that a config asks."""
    evaluation = experiment.evaluation
    optional = {"month": bool(evaluation.months), "elsewhere": any(r.rung > "1" for r in evaluation.rungs)}
    optional["process"] = 0 in evaluation.stage_steps
    return tuple(name for name in SPREADS if optional.get(name, True))


def distance(rules: config.Rules, question: str) -> float:
    """How far the nearer bound lies from an imitator that is perfect, or does nothing."""
    if question in ("now", "month"):
        return min(abs(1.0 - rules.parity), rules.parity)
    return min(abs(1.0 - rules.learns_yes), rules.learns_no)


def half_width(of: Sizes, spread: Spread, confidence: float) -> float:
    """The expected half-width of an interval; infinite where one learner or task is all there is."""
    if of.units < 2:
        return math.inf
    learners = statistics.student(of.units - 1, confidence) * spread.learners / of.units**0.5
    return math.hypot(learners, _over_seeds(of.seeds, spread, confidence))


def is_enough(of: Sizes, spread: Spread, rules: config.Rules, question: str, *, stages: int = 1) -> bool:
    """Whether an answer comes in `POWER` of runs of an imitator at `distance` from the nearer bound."""
    confidence = 1.0 - (1.0 - rules.confidence) / stages
    if of.units < 2 or of.seeds < 2:
        return False
    error = math.hypot(spread.learners / of.units**0.5, spread.seeds / of.seeds**0.5)
    needed = half_width(of, spread, confidence) + float(scipy.special.ndtri(POWER)) * error
    return needed <= distance(rules, question)


def enough(of: Sizes, spread: Spread, rules: config.Rules, question: str, *, stages: int = 1) -> Sizes | None:
    """Of sizes no smaller than these that are enough, the one with the fewest pairs of learner and seed."""
    learners = [max(of.units, 2) * 2**doublings for doublings in range(11)]
    found = [
        Sizes(learners=units, tasks=units if of.tasks > 1 else 1, seeds=seeds)
        for units in learners
        for seeds in (*range(max(of.seeds, 2), 17), 20, 24, 32, 48, 64)
    ]
    found = [one for one in found if is_enough(one, spread, rules, question, stages=stages)]
    return min(found, key=lambda one: one.units * one.seeds, default=None)


def notes(experiment: config.Experiment) -> Iterator[str]:
    """What a run of these sizes can hardly answer, a line a question, and what that rests on; or nothing. Also where
    so few updates cut the warm-up short.
    """
    rules, assumed = experiment.rules, []
    for question in asked(experiment):
        of, spread = sizes(experiment, question), SPREADS[question]
        stages = len(experiment.evaluation.months) if question == "month" else 1
        if is_enough(of, spread, rules, question, stages=stages):
            continue
        better = _remedy(enough(of, spread, rules, question, stages=stages))
        if of.units < 2:
            yield (
                f"{question.upper()} will stay without an answer: one held-out learner says nothing of others. {better}"
            )
            continue
        assumed.append(f"{question.upper()} {spread.learners:g} and {spread.seeds:g}")
        yield (
            f"{question.upper()} may stay without an answer: {_count(of)} make an interval of about "
            f"±{half_width(of, spread, rules.confidence):.2g}, and {distance(rules, question):.2g} is all there is to "
            f"the nearer bound. {better}"
        )
    if assumed:
        yield (
            "assumed for this: learners' and imitator seeds' ratios differ (standard deviations, as seen in the "
            f"quickstart) by {', '.join(assumed)}."
        )
    if (warmup := optimiser.warmup_updates(training := experiment.training)) < training.warmup_updates:
        yield (
            f"training.warmup_updates = {training.warmup_updates} is cut to {warmup}: a quarter of "
            f"training.num_updates = {training.num_updates}."
        )


def _count(of: Sizes) -> str:
    tasks = "1 task" if of.tasks == 1 else f"{of.tasks} tasks"
    seeds = (
        "1 imitator seed (which says nothing of others)" if of.seeds == 1 else f"{of.seeds} imitator seeds"
    )
    return f"{of.learners} held-out learners on {tasks} and {seeds}"


def _remedy(better: Sizes | None) -> str:
    if better is None:
        return "No size that was tried would do."
    what = "tasks (a learner each)" if better.tasks > 1 else "learners"
    return f"{better.units} {what} and {better.seeds} seeds would do."


def _over_seeds(seeds: int, spread: Spread, confidence: float) -> float:
    return 0.0 if seeds < 2 else statistics.student(seeds - 1, confidence) * spread.seeds / seeds**0.5
