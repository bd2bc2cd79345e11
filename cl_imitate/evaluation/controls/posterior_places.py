"""Where the learner posterior is tried, which protocols it goes through there, and whom it takes the learner to be."""

import dataclasses
from typing import NamedTuple

from cl_imitate import config, simulate
from cl_imitate.evaluation import protocols
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.imitators.learner_posterior import Hypothesis

_DEFAULT_TAU = 0.05


class Place(NamedTuple):
    """A family, its learners and the protocols asked there."""

    name: str
    experiment: config.Experiment

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """PROCESS from nothing; NOW and LATER, each at its fork. No further than needed."""
        evaluation = self.experiment.evaluation
        return tuple(
            one
            if one.name == "process" or one.fork_step == evaluation.later_fork_step
            else dataclasses.replace(one, horizon_steps=one.now_steps, goes_on=False)
            for one in protocols.protocols(self.experiment)
        )

    @property
    def chunk_steps(self) -> int:
        """Steps in one compiled chunk."""
        experiment = self.experiment
        boundaries = protocols.boundary_steps(experiment)
        return simulate.chunk_plan(boundaries, experiment.learner, at_most=experiment.simulation.chunk_steps)


def places(experiment: config.Experiment) -> tuple[Place, ...]:
    """The run's own, and the one that the config names beside it."""
    evaluation = experiment.evaluation
    forks = {evaluation.now_fork_step, evaluation.later_fork_step}
    own = _place(experiment, "", fork_steps=tuple(sorted(forks)))
    also = experiment.controls.posterior.also
    if also is None:
        return (own,)
    later_fork = also.later_fork_step or also.fork_step
    asked = experiment.controls.posterior
    moved = dataclasses.replace(
        _followed(experiment, also.num_learners or asked.num_learners),
        environment=also.environment,
        learner=also.learner,
    )
    other = _place(
        moved,
        " (also)" if _name(also.environment) == own.name else "",
        fork_steps=tuple(sorted({later_fork, also.fork_step})),
        now_fork_step=also.fork_step,
        later_fork_step=later_fork,
        now_steps=also.now_steps,
        later_steps=also.later_steps,
        block_steps=also.block_steps,
    )
    return own, other


def without_truth(place: Place) -> Place:
    """The place with as many learners as are followed by a posterior that lacks the truth."""
    asked = place.experiment.controls.posterior
    num = min(asked.num_learners, asked.num_learners_without_truth)
    return place._replace(experiment=_followed(place.experiment, num))


def _followed(experiment: config.Experiment, num_learners: int) -> config.Experiment:
    posterior = dataclasses.replace(experiment.controls.posterior, num_learners=num_learners)
    controls = dataclasses.replace(experiment.controls, posterior=posterior)
    return dataclasses.replace(experiment, controls=controls)


def _place(experiment: config.Experiment, suffix: str, **changes) -> Place:
    evaluation = dataclasses.replace(experiment.evaluation, stage_steps=(0,), months=(), rungs=(), **changes)
    return Place(
        _name(experiment.environment) + suffix, dataclasses.replace(experiment, evaluation=evaluation)
    )


def _name(environment: config.Environment) -> str:
    """Such as "lock 8", "dark room 5x5", "breakout"."""
    name = environment.family.replace("_", " ")
    if isinstance(environment, config.Lock):
        return f"{name} {environment.num_positions}"
    if isinstance(environment, config.DarkRoom | config.KeyToDoor):
        return f"{name} {environment.size}x{environment.size}"
    return environment.game if isinstance(environment, config.MinAtar) else name


def hypotheses(learner: config.Learner, posterior: config.Posterior) -> list[Hypothesis]:
    """Whom the observed learner could be; the truth comes first, and no two are the same.

    All combinations of the rates, and beside them the learner with one part of its algorithm changed, or frozen.
    """
    found = [Hypothesis(name="the learner", learner=learner)]
    found += [Hypothesis(name=_rates_in_words(one), learner=one) for one in _with_rates(learner, posterior)]
    for variant in posterior.variants:
        found.append(
            Hypothesis(
                name=variant.replace("_", " "),
                learner=dataclasses.replace(learner, **_changed(variant, learner)),
            )
        )
    found += [
        Hypothesis(name=f"frozen from step {step}", learner=learner, stops_at_step=step)
        for step in posterior.frozen_from_steps
    ]
    unique = {(one.learner, one.stops_at_step): one for one in reversed(found)}
    return [one for one in found if one is unique[one.learner, one.stops_at_step]]


def _with_rates(learner: config.Learner, posterior: config.Posterior) -> list[config.Learner]:
    is_constant = learner.epsilon_start == learner.epsilon_end
    found = [learner]
    for rate in posterior.learning_rates:
        found.append(dataclasses.replace(learner, learning_rate=rate))
    found += [dataclasses.replace(one, discount=rate) for one in found for rate in posterior.discounts]
    if posterior.known_epsilon:
        return found
    if is_constant:
        more = [{"epsilon_start": rate, "epsilon_end": rate} for rate in posterior.epsilons]
    else:
        more = [{"epsilon_decay_steps": steps} for steps in posterior.epsilon_decay_steps]
    return found + [dataclasses.replace(one, **changes) for one in found for changes in more]


def _rates_in_words(learner: config.Learner) -> str:
    exploration = f"epsilon {learner.epsilon_end:g}"
    if learner.epsilon_start != learner.epsilon_end:
        exploration += f" after {learner.epsilon_decay_steps} steps"
    return f"learning rate {learner.learning_rate:g}, discount {learner.discount:g}, {exploration}"


def _changed(variant: str, learner: config.Learner) -> dict:
    """What is different in a variant of a learner."""
    if variant == "double_q":
        return {"double_q": not learner.double_q}
    if variant == "latest_replay":
        return {"replay": "uniform" if learner.replay == "latest" else "latest"}
    if variant == "no_replay":
        return {"replay": "latest", "batch_size": 1}
    has_target = learner.target_period_updates > 0 or learner.target_tau < 1.0
    return {"target_period_updates": 0, "target_tau": 1.0 if has_target else _DEFAULT_TAU}
