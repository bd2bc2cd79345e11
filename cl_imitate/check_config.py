"""What single fields of a configuration cannot say: which of them contradict each other."""

from cl_imitate import config
from cl_imitate.check_controls import control_problem, environments, visibility_problem
from cl_imitate.check_training import Need, check_training


def check(experiment: config.Experiment, *, origin: str) -> None:
    """What single fields cannot say.

    Raises:
      ValueError: two fields contradict each other; the message names both.
    """

    def need(holds: bool, message: str) -> None:
        if not holds:
            raise ValueError(f"{origin}: {message}")

    _check_name(experiment.name, need)
    _check_starts(experiment, need)
    _check_months(experiment, need)
    _check_horizons(experiment, need)
    _check_rungs(experiment, need)
    _check_imitator(experiment, need)
    _check_learner(experiment, need)
    check_training(experiment, need)
    if experiment.fork is not None:
        _check_fork(experiment, experiment.fork, need)
    if problem := control_problem(experiment) or visibility_problem(experiment):
        need(False, problem)


def _check_name(name: str, need: Need) -> None:
    """The default folder is runs/<name>."""
    need(
        name not in ("", ".", "..") and not set("/\\\0") & set(name),
        f"name = {name!r} is not the name of one folder, and the run's is called so. Use one without / and \\, for "
        'example "quickstart"',
    )


def _check_starts(experiment: config.Experiment, need: Need) -> None:
    """The steps at which arms start: forks and stages."""
    evaluation = experiment.evaluation
    for name in ("now_fork_step", "later_fork_step"):
        step = getattr(evaluation, name)
        need(
            step in evaluation.fork_steps,
            f"evaluation.{name} = {step} is not among evaluation.fork_steps = {list(evaluation.fork_steps)}",
        )
    last = experiment.recorded_steps
    for stage in evaluation.stage_steps:
        need(stage < last, f"evaluation.stage_steps holds {stage}; it must be below the last fork, {last}")
        need(
            (last - stage) % evaluation.block_steps == 0,
            f"evaluation.stage_steps holds {stage}: from there to the last fork, {last}, is not a multiple of "
            f"evaluation.block_steps = {evaluation.block_steps}",
        )
    for name in ("fork_steps", "stage_steps"):
        steps = getattr(evaluation, name)
        need(len(set(steps)) == len(steps), f"evaluation.{name} repeats a step: {list(steps)}")
        need(
            list(steps) == sorted(steps),
            f"evaluation.{name} = {list(steps)} is not in ascending order. Write it so: {sorted(steps)}",
        )
        episode = getattr(experiment.environment, "episode_steps", None) or 1
        need(
            all(step % episode == 0 for step in steps),
            f"evaluation.{name} = {list(steps)}: not all multiples of environment.episode_steps = {episode}",
        )
    need(
        experiment.gate.experiment != "self" or 0 in evaluation.stage_steps,
        f"evaluation.stage_steps = {list(evaluation.stage_steps)} lacks 0, and the gate is this run's own PROCESS "
        "from an empty context. Add 0, or name a gate of its own: gate.experiment=gate.toml",
    )


def _check_months(experiment: config.Experiment, need: Need) -> None:
    """Asked for a later age."""
    evaluation = experiment.evaluation
    for month in evaluation.months:
        end = month.start_step + month.later_steps
        need(
            end <= experiment.recorded_steps,
            f"evaluation.months: {month.start_step} + {month.later_steps} is past the last fork, "
            f"{experiment.recorded_steps}",
        )
        need(month.start_step > 0, "evaluation.months: start_step = 0 leaves nothing to prompt with")
    need(
        experiment.imitator.reads_age or not evaluation.months,
        "evaluation.months asks for a later age, which imitator.reads_age = false hides. Set it to true, or leave out "
        "the months",
    )
    need(
        len(set(evaluation.months)) == len(evaluation.months), "evaluation.months holds the same month twice"
    )


def _check_horizons(experiment: config.Experiment, need: Need) -> None:
    """For how long arms are run, and in which blocks they are measured."""
    evaluation = experiment.evaluation
    for name in ("now_steps", "later_steps", *(("elsewhere_steps",) if evaluation.rungs else ())):
        steps = getattr(evaluation, name)
        need(
            steps % evaluation.block_steps == 0,
            f"evaluation.{name} = {steps} is not a multiple of evaluation.block_steps = {evaluation.block_steps}",
        )
    need(
        evaluation.now_steps <= evaluation.later_steps,
        f"evaluation.now_steps = {evaluation.now_steps} is above evaluation.later_steps = {evaluation.later_steps}",
    )
    for where, environment in environments(experiment):
        episode = getattr(environment, "episode_steps", None) or 1
        for name in ("block_steps", "now_steps"):
            steps = getattr(evaluation, name)
            need(
                steps >= episode,
                f"evaluation.{name} = {steps} is shorter than an episode ({where}.episode_steps = {episode}): no "
                "return could be measured. Make it at least as long.",
            )


def _check_rungs(experiment: config.Experiment, need: Need) -> None:
    """The novelty ladder."""
    evaluation = experiment.evaluation
    for index, rung in enumerate(evaluation.rungs):
        if problem := _rung_problem(rung, experiment.environment):
            need(False, f"evaluation.rungs[{index}] ({rung.name}): rung = {rung.rung!r}, but {problem}")
    need(
        not (evaluation.rungs and evaluation.transplant)
        or evaluation.elsewhere_learners <= experiment.simulation.num_held_out,
        f"evaluation.elsewhere_learners = {evaluation.elsewhere_learners} is above simulation.num_held_out = "
        f"{experiment.simulation.num_held_out}, from which learners are transplanted (or set "
        "evaluation.transplant=false)",
    )
    names = [f"{rung.rung} {rung.name}" for rung in evaluation.rungs]
    need(len(set(names)) == len(names), f"evaluation.rungs: names are not unique: {names}")


def _check_imitator(experiment: config.Experiment, need: Need) -> None:
    """Contexts, heads and what is refilled."""
    imitator = experiment.imitator
    contexts = (imitator.context_steps, *imitator.also_context_steps)
    need(
        len(set(contexts)) == len(contexts),
        f"imitator.also_context_steps repeats a context: {list(contexts)}",
    )
    width, heads = imitator.width, imitator.num_heads
    need(
        width % (2 * heads) == 0,
        f"imitator.width = {width} is not a multiple of 2 * imitator.num_heads = {2 * heads}",
    )
    need(
        imitator.refill_steps < min(contexts),
        f"imitator.refill_steps = {imitator.refill_steps} is not below the shortest context, {min(contexts)}",
    )
    need(
        imitator.attention_steps <= min(contexts),
        f"imitator.attention_steps = {imitator.attention_steps} is above the shortest context, {min(contexts)}: its "
        "windows in training would hold no such distances. Make it at most that, or 0 for the whole context",
    )


def _check_learner(experiment: config.Experiment, need: Need) -> None:
    """Layers, replay and target network."""
    learner = experiment.learner
    period, repeats = learner.target_period_updates, learner.updates_per_iteration
    need(
        period % repeats == 0,
        f"learner.target_period_updates = {period} is not a multiple of learner.updates_per_iteration = {repeats}",
    )
    need(len(learner.hidden) > 0, "learner.hidden is empty; give at least one layer, for example [32]")
    need(
        learner.replay_capacity > learner.batch_size,
        f"learner.replay_capacity = {learner.replay_capacity} is not above learner.batch_size = {learner.batch_size}",
    )


def _check_fork(experiment: config.Experiment, fork: config.Fork, need: Need) -> None:
    """A learner that starts before its rates were changed would live with them too early: no recorded one did."""
    evaluation = experiment.evaluation
    need(
        experiment.recorded_steps >= fork.step,
        f"evaluation.fork_steps = {list(evaluation.fork_steps)} all end before the step that this fork starts at, "
        f"{fork.step}. The last one must not",
    )
    need(
        experiment.training.feed == "store",
        'training.feed = "stream" makes learners from birth, and a fork\'s are read from its parent. Use "store"',
    )
    need(
        fork.rates_since <= fork.step,
        f"fork.rates_since = {fork.rates_since} is after fork.step = {fork.step}",
    )
    starts = {
        "evaluation.stage_steps": evaluation.stage_steps,
        "evaluation.fork_steps": evaluation.fork_steps,
        "evaluation.months (start_step + later_steps)": [
            month.start_step + month.later_steps for month in evaluation.months
        ],
        "evaluation.rungs (newborn learners)": (0,) if evaluation.rungs else (),
    }
    for name, steps in starts.items():
        if early := [step for step in steps if step < fork.rates_since]:
            need(
                False,
                f"{name} starts a learner at step {early[0]}, but learners have had the rates of this fork since step "
                f"{fork.rates_since} only, and none is recorded that lived with them before. Leave out what starts "
                'earlier (stage_steps, months, rungs), and give gate.experiment its own config ("gate.toml"), or leave '
                "the learners' rates as they were",
            )


_SYMBOL_VARIANTS = {"permute_symbols", "new_symbols"}


def _rung_problem(rung: config.Rung, trained_on: config.Environment) -> str | None:
    """Why a rung is not what its number says, or None. Rungs from 2 up decide ELSEWHERE, so the number matters."""
    where = rung.environment or trained_on
    is_changed = rung.environment is not None or bool(rung.variants)
    symbols_per_task = getattr(trained_on, "symbols", "fixed") == "per_task"
    if rung.rung == "0" and (rung.split != "train" or is_changed):
        return 'that is an unseen learner on a training task: set split = "train", no environment and no variants'
    if rung.rung != "0" and rung.split == "train":
        return 'split = "train" is rung 0: a training task'
    if rung.rung == "2b" and not symbols_per_task:
        return 'the imitator was not trained on symbols drawn anew: set environment.symbols = "per_task", or call it 2'
    if rung.rung == "2" and symbols_per_task and _SYMBOL_VARIANTS & set(rung.variants):
        return "the imitator was trained on symbols drawn anew for each task: call it 2b"
    if rung.rung in ("4", "5") and where == trained_on:
        return "it has the family and the game that the imitator was trained on: name another environment"
    if rung.rung == "4" and where.family == trained_on.family:
        return f"its family, {where.family}, is the one that the imitator was trained on"
    return None
