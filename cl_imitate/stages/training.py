"""The stage in which imitators are trained on recorded histories."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

from cl_imitate import cost, processes, progress, spread, train
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.stages.artifacts import imitator_keys
from cl_imitate.stages.courses import Course, Study
from cl_imitate.stages.run import Run, contexts_of


def train_stage(run: Run) -> None:
    """Train every imitator on the recorded histories, from before its fork only.

    Raises:
      FloatingPointError: a loss is not finite.
    """
    for error in train_together([run]).values():
        raise error


def train_together(runs: Sequence[Run]) -> dict[int, FloatingPointError]:
    """The stage of several runs whose configurations differ in leaves only (seeds and rates).

    As many at once as fill a block of imitators (`training.block_size`); each goes on from where it was left,
    alone or with others, and leaves what it would leave alone. Returns the errors of runs that diverged, by index.

    The processes of a job train the imitators of one run together.

    Raises:
      ValueError: this is one of several processes, and there are several runs.
    """
    if len(runs) > 1 and processes.count() > 1:
        raise ValueError(
            f"the imitators of {len(runs)} runs are trained side by side by one process, and this is one of "
            f"{processes.count()}. Start the sweep as one process."
        )
    experiment = runs[0].experiment
    size = train.num_at_once(experiment.training, len(imitator_keys(experiment)[1]))
    if experiment.training.feed == "stream" or spread.is_asked_for(experiment.training):
        size = 1  # the learners or imitators of one run at a time fill the devices
    errors: dict[int, FloatingPointError] = {}
    for first in range(0, len(runs), size):
        some = _train_some(runs[first : first + size])
        errors |= {first + index: error for index, error in some.items()}
    return errors


def _train_some(runs: Sequence[Run]) -> dict[int, FloatingPointError]:
    studies = [Study(index, run, share=1 / len(runs)) for index, run in enumerate(runs)]
    try:
        errors = _train_contexts(studies)
    except BaseException:
        for study in studies:
            with contextlib.suppress(
                ValueError
            ):  # what is being written must be, before another goes on from here
                study.keeper.wait()
            study.keeper.attempt.put()
        raise
    for study in studies:
        if study.index in errors:
            study.keeper.attempt.put()
        else:
            study.finish()
    return errors


def _train_contexts(studies: Sequence["Study"]) -> dict[int, FloatingPointError]:
    errors: dict[int, FloatingPointError] = {}
    for context_steps in contexts_of(studies[0].run.experiment):
        cohorts: dict[int, list[Course]] = {}
        for study in studies:
            if study.index in errors or study.is_done(context_steps):
                continue
            course = Course(study, context_steps)
            cohorts.setdefault(int(course.state.update), []).append(course)
        for cohort in cohorts.values():
            _train_cohort(cohort, errors)
    return errors


def _train_cohort(cohort: list[Course], errors: dict[int, FloatingPointError]) -> None:
    """To the end, together; errors of runs that diverge are added."""
    lead = cohort[0]
    price = cost.of(lead.study.run.experiment.imitator, lead.study.spec, context_steps=lead.context_steps)
    num = len(cohort) * len(lead.forks)
    training, devices = lead.study.run.experiment.training, lead.study.source.train_devices
    where = spread.told(len(lead.forks), training, devices) if spread.is_asked_for(training) else ""
    if processes.is_first():
        print(f"{num} imitators of context {lead.context_steps}: {price} each{where}", file=sys.stderr)
    with progress.bar(
        f"train context {lead.context_steps}", sum(course.work for course in cohort), "steps"
    ) as tick:
        for fitted in _fitting(cohort, tick):
            for course, error in ((cohort[place], error) for place, error in fitted.errors.items()):
                errors.setdefault(course.study.index, error)
            alive = [
                (place, course) for place, course in enumerate(cohort) if course.study.index not in errors
            ]
            if not alive:
                return
            for place, course in alive:
                course.add(fitted.progress[place])
                course.study.keeper.attempt.stepped()
            tick(len(cohort) * fitted.progress[0].train_loss.shape[1] * lead.tokens)
            if alive[0][1].is_due(fitted.progress[0].update):
                _save_all(alive, fitted)
    states = fitted.states()
    for place, course in alive:
        course.finish(states[place])


def _fitting(cohort: list[Course], tick: progress.Tick) -> Iterator[train.Fitted]:
    lead, trainees = cohort[0], [course.trainee(tick) for course in cohort]
    where = {
        "imitator": lead.imitator,
        "context_steps": lead.context_steps,
        "devices": lead.study.source.train_devices,
    }
    if spread.is_asked_for(lead.study.run.experiment.training):
        (trainee,) = trainees
        return spread.fit(trainee, **where)
    return train.fit_together(trainees, **where)


def _save_all(courses: list[tuple[int, Course]], fitted: train.Fitted) -> None:
    """Raises InterruptedRunError, where there was a notice to stop, when all are saved."""
    stop, states = None, fitted.states()
    for place, course in courses:
        try:
            course.save(fitted.progress[place].update, states[place])
        except InterruptedRunError as interrupted:
            stop = interrupted
    if stop is not None:
        raise stop
