"""What a config cannot ask for: controls that could not be made, hidden causes that could not be shown."""

from cl_imitate import config

_COUNTS_LATER = (
    "learner_posterior",
    "learner_posterior_without_truth",
    "sham",
    "shuffled",
    "reward_masked",
    "test_time_training",
)
"""The controls with a figure of LATER that is counted as in tasks that do not grow."""
_SHOW_CAUSES = ("learner_posterior", "learner_posterior_without_truth", "novelty")
"""The controls that no imitator reads anything else in than what it read in training."""


def visibility_problem(experiment: config.Experiment) -> str | None:
    """Why replay indices (and all above them on the ladder) could not be shown everywhere, or None."""
    evaluation, sees = experiment.evaluation, f'imitator.sees = "{experiment.imitator.sees}"'
    if not experiment.imitator.shows("replay"):
        return None
    for where, environment in environments(experiment):
        if not hasattr(environment, "episode_steps"):
            return (
                f"{sees} names the steps that an update drew by their places in the stream, which a prompt that ends "
                f"with an episode shifts where episodes vary in length, as those of {where}.family = "
                f'{environment.family!r} do. Set it to "coin", or take a family of symbols'
            )
    if (repeats := experiment.learner.updates_per_iteration) > 1:
        return f"{sees} shows one update a step, and learner.updates_per_iteration = {repeats}. Set it to 1"
    if (kept := experiment.training.keep_every_episodes) > 1:
        return (
            f"{sees} names steps by their age, and in a history thinned by training.keep_every_episodes = {kept} an "
            "age is not an age lived. Set that to 1"
        )
    if evaluation.months:
        return (
            f"{sees} and evaluation.months: an imitator that is asked to be a month older is not shown what its "
            "learner drew in between, so the places of all older steps are wrong. Leave out the months"
        )
    if evaluation.rungs and evaluation.transplant:
        return (
            f"{sees} and evaluation.transplant: a transplanted learner's replay begins anew, and the steps before it "
            "stand in another task's stream. Set evaluation.transplant=false"
        )
    return None


def control_problem(experiment: config.Experiment) -> str | None:
    """Why a control that the config names could not be made, or None: better said before anything runs."""
    run, evaluation = experiment.controls.run, experiment.evaluation
    retrained = [name for name in ("sham", "shuffled", "reward_masked") if name in run]
    if retrained and 0 not in evaluation.stage_steps:
        return (
            f"controls.run holds {retrained[0]}, which plays PROCESS from an empty context, and "
            f"evaluation.stage_steps = {list(evaluation.stage_steps)} lacks 0. Add it"
        )
    if experiment.imitator.shows("replay") and (unread := [name for name in run if name not in _SHOW_CAUSES]):
        return (
            f"controls.run holds {unread[0]}, whose histories are not those that the learners' keys made, and "
            f'imitator.sees = "{experiment.imitator.sees}" makes replay indices from these. Leave the control out'
        )
    marginal = [name for name in ("floor", "counterfactual_learner", "test_time_training") if name in run]
    if marginal and experiment.imitator.shows("coin"):
        return (
            f'controls.run holds {marginal[0]}, which knows nothing of the coin, and imitator.sees = "coin". Leave the '
            "control out"
        )
    in_later = [name for name in run if name in _COUNTS_LATER]
    fork = evaluation.later_fork_step
    lock = experiment.environment
    if in_later and isinstance(lock, config.Lock) and lock.grows(fork, fork + evaluation.later_steps):
        return (
            f"controls.run holds {in_later[0]}, which counts LATER from the imitator's own start, and tasks that grow "
            "after the fork have it counted from where the held learner has fallen to. Leave the control out"
        )
    from_birth = [name for name in run if name.startswith("learner_posterior") or name == "pace"]
    if from_birth and experiment.fork is not None and experiment.fork.rates_since > 0:
        return (
            f"controls.run holds {from_birth[0]}, whose learners live from birth, but learners have had the rates of "
            f"this fork since step {experiment.fork.rates_since} only. Leave the control out"
        )
    if "test_time_training" in run and (kept := experiment.training.keep_every_episodes) > 1:
        return (
            "controls.run holds test_time_training, whose rounds end within episodes, and in a history thinned by "
            f"training.keep_every_episodes = {kept} that is no step. Leave the control out, or set that to 1"
        )
    if experiment.training.feed == "stream" and (altered := set(retrained) - {"sham"}):
        return (
            f'controls.run holds {min(altered)}, which alters recorded histories, and training.feed = "stream" keeps '
            'none. Set it to "store"'
        )
    if "novelty" in run and experiment.training.feed != "store":
        return (
            'controls.run holds "novelty", which reads all training histories again, and training.feed = "stream" '
            'keeps none. Leave it out, or set training.feed = "store"'
        )
    if (also := experiment.controls.posterior.also) is not None and (problem := _place_problem(also)):
        return problem
    if "pace" in run and (problem := _pace_problem(experiment)):
        return problem
    return _stalled_problem(experiment) if "stalled" in run else None


def _place_problem(also: config.PosteriorPlace) -> str | None:
    name, episode = "controls.posterior.also", getattr(also.environment, "episode_steps", None) or 1
    if also.later_fork_step > also.fork_step:
        return (
            f"{name}.later_fork_step = {also.later_fork_step} is after its fork_step = {also.fork_step}, until which "
            "learners are recorded there. Ask LATER earlier, or record longer"
        )
    for key in ("fork_step", "later_fork_step"):
        if (step := getattr(also, key)) % episode:
            return f"{name}.{key} = {step} is not a multiple of its environment's episode_steps = {episode}"
    for key in ("fork_step", "now_steps", "later_steps"):
        if (steps := getattr(also, key)) % also.block_steps:
            return f"{name}.{key} = {steps} is not a multiple of its block_steps = {also.block_steps}"
    if also.block_steps < episode:
        return (
            f"{name}.block_steps = {also.block_steps} is shorter than an episode there ({episode} steps): no return "
            "could be measured"
        )
    if also.now_steps > also.later_steps:
        return f"{name}.now_steps = {also.now_steps} is above its later_steps = {also.later_steps}"
    return None


def _pace_problem(experiment: config.Experiment) -> str | None:
    lock, recorded = experiment.environment, experiment.recorded_steps
    longest = max(experiment.evaluation.now_steps, 2 * (getattr(lock, "episode_steps", None) or 1))
    if longest > recorded:
        return (
            f"controls.run holds pace, which measures returns over {longest} steps (evaluation.now_steps, or two "
            f"episodes), and learners are recorded for {recorded}. Record more, or leave it out"
        )
    oldest = experiment.controls.pace_lives * recorded
    if isinstance(lock, config.Lock) and lock.grows(0, oldest):
        return (
            "controls.run holds pace, whose imitators act in newborn environments, and tasks that grow before the age "
            f"of {oldest} are smaller there than their prompts show. Leave the control out"
        )
    return None


def _stalled_problem(experiment: config.Experiment) -> str | None:
    evaluation, last = experiment.evaluation, experiment.recorded_steps
    step, kept = experiment.controls.stall_step, {*evaluation.stage_steps, *evaluation.fork_steps} - {0}
    if step and step not in kept:
        return (
            f"controls.stall_step = {step} is no stage and no fork: learners are kept at {sorted(kept)} only"
        )
    step = step or evaluation.later_fork_step
    held = experiment.imitator.context_steps * experiment.training.keep_every_episodes
    if step + held > last:  # in whole chunks too, of which both steps are multiples
        return (
            f"controls.run holds stalled, which holds learners from step {step} (controls.stall_step, or "
            f"evaluation.later_fork_step) on for {held} steps, what fills a context: past {last}, where recording "
            "ends. Set controls.stall_step to an earlier stage or fork, record more, or leave the control out"
        )
    return None


def environments(experiment: config.Experiment) -> list[tuple[str, config.Environment]]:
    """Every environment that a config names, with its key."""
    found = [("environment", experiment.environment)]
    for index, rung in enumerate(experiment.evaluation.rungs):
        if rung.environment is not None:
            found.append((f"evaluation.rungs[{index}].environment", rung.environment))
    return found
