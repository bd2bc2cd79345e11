"""What of a configuration's training contradicts itself, or the environment, the imitator or the questions."""

from collections.abc import Callable

from cl_imitate import config

Need = Callable[[bool, str], None]
"""(does it hold, else the message): raises ValueError with the config's origin before the message."""


def check_training(experiment: config.Experiment, need: Need) -> None:
    """Who is trained on, and by whom the weights are chosen."""
    simulation = experiment.simulation
    training, recorded = experiment.training, simulation.num_recorded
    need(
        training.num_validation < recorded,
        f"training.num_validation = {training.num_validation} is not below simulation.num_recorded = {recorded}",
    )
    most = 1 << 32
    need(
        training.first_seed + training.num_seeds <= most,
        f"training.first_seed = {training.first_seed} + training.num_seeds = {training.num_seeds} is above {most}, and "
        "imitators' numbers would begin anew at 0. Take a smaller first_seed",
    )
    need(
        training.checkpoint_rule == "last" or training.num_validation > 0,
        'training.checkpoint_rule = "best_validation" needs training.num_validation above 0: learners to choose by',
    )
    need(
        simulation.num_tasks <= recorded - training.num_validation,
        f"simulation.num_tasks = {simulation.num_tasks} is above the number of recorded learners that are trained on, "
        f"simulation.num_recorded - training.num_validation = {recorded - training.num_validation}: some training "
        "tasks would have no learner",
    )
    for name, off in (("keep_every_episodes", 1), ("skip_ahead", 0)):
        value = getattr(training, name)
        need(
            value == off or hasattr(experiment.environment, "episode_steps"),
            f"training.{name} = {value} needs episodes of a fixed length, which environment.family = "
            f"{experiment.environment.family!r} does not have. Set it to {off}",
        )
    if training.keep_every_episodes > 1:
        need(
            not experiment.evaluation.months,
            f"training.keep_every_episodes = {training.keep_every_episodes} and evaluation.months: in a thinned "
            "history an age is not an age lived. Set the one to 1 or leave out the other",
        )
    if training.skip_ahead > 0:
        _check_skips(experiment, need)
    if training.feed == "stream":
        _check_stream(experiment, need)


def _check_skips(experiment: config.Experiment, need: Need) -> None:
    """Windows that leave out a stretch of life, between two ends of episodes."""
    training, stride = experiment.training, experiment.training.start_every_steps
    skips = f"training.skip_ahead = {training.skip_ahead}"
    episode = getattr(experiment.environment, "episode_steps", 1)
    need(
        stride % episode == 0,
        f"{skips} leaves out whole episodes, and windows start every training.start_every_steps = {stride} steps, no "
        f"multiple of environment.episode_steps = {episode}. Set it to that, or skip_ahead to 0",
    )
    shortest = min((experiment.imitator.context_steps, *experiment.imitator.also_context_steps))
    need(
        shortest >= 2 * stride,
        f"{skips} needs a context of two times training.start_every_steps = {stride} or more, one before what is left "
        f"out and one after it; the shortest is {shortest}",
    )
    need(
        experiment.imitator.reads_age and training.unknown_age < 1,
        f"{skips} shows what a told age means, and no age is told: set imitator.reads_age to true and "
        "training.unknown_age below 1, or skip_ahead to 0",
    )


def _check_stream(experiment: config.Experiment, need: Need) -> None:
    """Learners that are simulated as they are read."""
    training = experiment.training
    trained_on = experiment.simulation.num_recorded - training.num_validation
    need(
        trained_on % training.stream_learners == 0,
        f"training.stream_learners = {training.stream_learners} does not divide the learners that are trained on, "
        f"simulation.num_recorded - training.num_validation = {trained_on}",
    )
    epochs = trained_on // training.stream_learners
    need(
        training.num_updates >= epochs,
        f"training.num_updates = {training.num_updates} is below the number of epochs, {epochs} (learners trained "
        f"on divided by training.stream_learners): some learners would never be read",
    )
