"""The learners that the posterior meets: they are lived again here, in blocks of as many as it follows at once.

That adds one part in the number of hypotheses to the cost, and makes the truth's bits the learners' own.
"""

import dataclasses
from collections.abc import Container

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, populations, simulate
from cl_imitate.evaluation import returns
from cl_imitate.evaluation.controls.posterior_places import Place
from cl_imitate.evaluation.learner_arms import LearnerArms, learner_arms
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.evaluation.scene import Count, Scene, Tick, make_scene
from cl_imitate.populations import Population
from cl_imitate.types import History


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Company:
    """The learners of one place, what they lived, and what they do in the protocols' scenes."""

    place: Place
    population: Population  # held out
    recorded: Population
    history: History  # [n, T] of `population`
    recorded_history: History
    scenes: tuple[Scene, ...]
    arms: tuple[LearnerArms, ...]  # one a scene
    tick: Tick


def meet(place: Place, tick: Tick) -> Company:
    """Live the lives, and the learners' arms of every scene."""
    experiment = place.experiment
    population, recorded = (_some(name, experiment) for name in ("held_out", "recorded"))
    history, snapshots = _live(population, place, {one.learner_step for one in place.protocols}, tick)
    recorded_history, _ = _live(recorded, place, (), tick)
    scenes = tuple(
        make_scene(
            protocol,
            index,
            experiment,
            population,
            snapshots[protocol.learner_step],
            population,
            None,
            chunk_steps=place.chunk_steps,
            best_history=_best(recorded_history, protocol, experiment),
        )
        for index, protocol in enumerate(place.protocols)
    )
    return Company(
        place=place,
        population=population,
        recorded=recorded,
        history=history,
        recorded_history=recorded_history,
        scenes=scenes,
        arms=tuple(learner_arms(scene, None, count=Count(), tick=tick) for scene in scenes),
        tick=tick,
    )


def num_learners(name: str, experiment: config.Experiment) -> int:
    """How many of the "held_out" or the "recorded" learners are met."""
    asked, simulation = experiment.controls.posterior, experiment.simulation
    if name == "held_out":
        return min(asked.num_learners, simulation.num_held_out)
    return min(asked.num_recorded, simulation.num_recorded)


def block_size(experiment: config.Experiment) -> int:
    """How many streams are followed at once."""
    size = experiment.simulation.block_size
    if size == "auto":
        raise ValueError('simulation.block_size = "auto" has not been measured: the simulate stage does so.')
    return min(size, num_learners("held_out", experiment))


def padded(num: int, experiment: config.Experiment) -> int:
    """So many streams in whole blocks."""
    size = block_size(experiment)
    return -(-num // size) * size


def meeting_steps(place: Place) -> int:
    """How many steps `meet` tells of."""
    experiment = place.experiment
    held_out, recorded = (num_learners(name, experiment) for name in ("held_out", "recorded"))
    arms = sum(one.now_steps + one.goes_on * one.horizon_steps for one in place.protocols)
    return (held_out + recorded) * experiment.recorded_steps + held_out * arms


def _some(name: str, experiment: config.Experiment) -> Population:
    some = populations.make(name, experiment).members(np.arange(num_learners(name, experiment)))
    return dataclasses.replace(some, block_size=block_size(experiment))


def _live(
    population: Population, place: Place, keep_steps: Container[int], tick: Tick
) -> tuple[History, dict[int, simulate.Ensemble]]:
    """Whole lives [N, T] on the host, and the learners as they were at the steps to keep."""
    snapshots, parts, step = {0: population.newborn()}, [], 0
    for kept, history in simulate.advance(
        population.newborn(),
        population.streams,
        population.env_params,
        population.rates,
        **population.static,
        num_steps=place.experiment.recorded_steps,
        chunk_steps=place.chunk_steps,
        keep_steps=keep_steps,
    ):
        parts.append(jax.tree.map(np.asarray, history))
        step += history.action.shape[1]
        tick(history.action.size)
        if kept is not None:
            snapshots[step] = jax.tree.map(jnp.copy, kept)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts), snapshots


def _best(recorded: History, protocol: Protocol, experiment: config.Experiment) -> float:
    return returns.best_level(
        recorded.reward,
        np.asarray(recorded.terminated | recorded.truncated),
        end_step=protocol.fork_step,
        num_steps=experiment.evaluation.now_steps,
    )
