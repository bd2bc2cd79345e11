"""NOW, MONTH, PROCESS, LATER and ELSEWHERE as data: which learners, from where, for how long, which arms.

There is one code path for all of them, `rollouts.run_protocol`.
"""

import dataclasses
from typing import Literal

from cl_imitate import config

Population = Literal["held_out", "held_out_train_tasks", "fresh"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One cell of the evaluation. Steps are learners' ages."""

    name: Literal["now_and_later", "month", "process", "elsewhere"]
    label: str  # unique in a run
    population: Population  # fresh: newly initialised learners on the rung's tasks
    fork_step: int  # which imitators: those whose training data stopped there
    prompt_step: int  # the prompt ends there; 0 = empty context
    learner_step: int  # the snapshot from which the learner's arms start
    horizon_steps: int
    now_steps: int  # the held learner is measured for so long
    held_whole: bool = False  # it is, over the whole horizon: the task grows, and its level falls
    age_step: int | None = None  # MONTH: the age told to the imitator
    wiped: bool = True  # adds the imitator whose context is wiped at every episode
    masked: bool = False  # adds the one that keeps positions but sees no earlier episode
    transplant: bool = False  # adds the transplanted learner and the imitator prompted from the source task
    goes_on: bool = True  # False: the learner is held only
    split: Literal["train", "held_out"] = "held_out"
    rung: config.Rung | None = None


def protocols(experiment: config.Experiment) -> tuple[Protocol, ...]:
    """Every cell that a config asks for."""
    evaluation = experiment.evaluation
    last_fork = max(evaluation.fork_steps)
    cells = [
        Protocol(
            name="process",
            label=f"process {stage}",
            population="held_out",
            fork_step=last_fork,
            prompt_step=stage,
            learner_step=stage,
            horizon_steps=last_fork - stage,
            now_steps=min(evaluation.now_steps, last_fork - stage),
            masked=stage == 0,
        )
        for stage in evaluation.stage_steps
    ]
    cells += [
        Protocol(
            name="now_and_later",
            label=f"fork {fork}",
            population="held_out",
            fork_step=fork,
            prompt_step=fork,
            learner_step=fork,
            horizon_steps=evaluation.later_steps,
            now_steps=evaluation.now_steps,
            held_whole=grows(experiment.environment, fork, fork + evaluation.later_steps),
        )
        for fork in evaluation.fork_steps
    ]
    cells += [
        Protocol(
            name="month",
            label=f"month {month.start_step}+{month.later_steps} {split}",
            population="held_out_train_tasks" if split == "train" else "held_out",
            fork_step=last_fork,
            prompt_step=month.start_step,
            learner_step=month.start_step + month.later_steps,
            horizon_steps=evaluation.now_steps,
            now_steps=evaluation.now_steps,
            age_step=month.start_step + month.later_steps,
            wiped=False,
            goes_on=False,
            split=split,
        )
        for month in evaluation.months
        for split in ("train", "held_out")
    ]
    cells += [
        Protocol(
            name="elsewhere",
            label=f"rung {rung.rung} {rung.name}",
            population="fresh",
            fork_step=last_fork,
            prompt_step=0,
            learner_step=0,
            horizon_steps=evaluation.elsewhere_steps,
            now_steps=min(evaluation.now_steps, evaluation.elsewhere_steps),
            transplant=evaluation.transplant,
            split=rung.split,
            rung=rung,
        )
        for rung in evaluation.rungs
    ]
    return tuple(cells)


def grows(environment: config.Environment, first_step: int, last_step: int) -> bool:
    """Whether tasks of the family grow between two ages, so that there is something left to learn."""
    return isinstance(environment, config.Lock) and environment.grows(first_step, last_step)


def snapshot_steps(experiment: config.Experiment, population: str) -> tuple[int, ...]:
    """The ages at which a population's learners are kept whole: where an arm starts, and at every fork the recorded."""
    if population == "recorded":
        return tuple(sorted(experiment.evaluation.fork_steps))
    cells = [cell for cell in protocols(experiment) if cell.population == population]
    steps = {cell.learner_step for cell in cells}
    return tuple(sorted(steps))


def boundary_steps(experiment: config.Experiment) -> tuple[int, ...]:
    """Every count of steps at which some chunk must end."""
    evaluation = experiment.evaluation
    steps = {experiment.recorded_steps, evaluation.later_steps, evaluation.now_steps}
    if experiment.fork is not None:
        steps.add(experiment.fork.step)
    for cell in protocols(experiment):
        steps |= {cell.learner_step, cell.prompt_step, cell.horizon_steps, cell.now_steps}
    return tuple(sorted(steps - {0}))
