"""The cells that controls play in: the run's own, with the same learners, environments and random numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate.config import Experiment
from cl_imitate.envs import tasks
from cl_imitate.evaluation import protocols, rollouts
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.controls.study import Study
from cl_imitate.evaluation.learner_arms import LearnerArms, learner_arms
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.evaluation.results import Cell
from cl_imitate.evaluation.scene import Count, Scene, make_scene
from cl_imitate.histories import contexts
from cl_imitate.populations import Population
from cl_imitate.simulate import Ensemble
from cl_imitate.types import History


def process(experiment: Experiment) -> Protocol:
    """PROCESS from an empty context. Raises ValueError: the run has none."""
    return _only(experiment, "process", 0, "evaluation.stage_steps")


def at_fork(experiment: Experiment, fork_step: int) -> Protocol:
    """NOW and LATER at one of the forks. Raises ValueError: the run has none there."""
    return _only(experiment, "now_and_later", fork_step, "evaluation.fork_steps")


def _only(experiment: Experiment, name: str, step: int, field: str) -> Protocol:
    for protocol in protocols.protocols(experiment):
        if (protocol.name, protocol.learner_step) == (name, step):
            return protocol
    raise ValueError(
        f"this control plays {name} at step {step}, which the run does not: add {step} to {field}."
    )


def scene_of(
    study: Study,
    protocol: Protocol,
    *,
    population: Population | None = None,
    snapshot: Ensemble | None = None,
    past: History | None = None,
) -> Scene:
    """The scene in which the run evaluated `protocol`, or where it differs only in what is given.

    `population`: the learners; `snapshot`: as the arms start; `past`: the whole histories [n, T] that prompt.
    """
    experiment = study.experiment
    own = protocols.protocols(experiment)
    labels = [one.label for one in own]
    population = study.population(protocol.population) if population is None else population
    thinning = contexts.thinning(experiment)
    return make_scene(
        protocol,
        labels.index(protocol.label) if protocol.label in labels else len(labels),
        experiment,
        population,
        study.snapshot(population, protocol.learner_step) if snapshot is None else snapshot,
        population,
        contexts.thin(study.history("held_out") if past is None else past, **thinning),
        chunk_steps=study.chunk_steps,
        best_history=np.nan,
        past_step=functools.partial(contexts.thinned_step, **thinning),
    )


def later_scene(study: Study, num_learners: int) -> Scene:
    """LATER's scene, with its first learners alone (at most as many as there are)."""
    experiment = study.experiment
    protocol = at_fork(experiment, experiment.evaluation.later_fork_step)
    whole, chosen = (
        study.population("held_out"),
        np.arange(min(num_learners, experiment.simulation.num_held_out)),
    )
    snapshot = rows(study.snapshot(whole, protocol.learner_step), chosen)
    return scene_of(study, protocol, population=whole.members(chosen), snapshot=snapshot)


def rows(snapshot: Ensemble, index: np.ndarray) -> Ensemble:
    """Some learners of an ensemble, each as often as it is named."""
    learner, env_state, obs = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[index], (snapshot.learner, snapshot.env_state, snapshot.obs)
    )
    clock = jax.tree.map(jnp.copy, snapshot.clock)
    return Ensemble(learner=learner, env_state=env_state, obs=obs, clock=clock)


def beside_learners(study: Study, protocol: Protocol, **imitators: Frozen) -> list[Cell]:
    """The cells of one protocol for each kind of imitators, all beside the same learners; `<kind>: ` leads its name.

    Imitators act by sampling only, and their context is never wiped.
    """
    protocol = dataclasses.replace(protocol, wiped=False, masked=False)
    scene, spent = scene_of(study, protocol), {"count": Count(), "tick": study.tick, "keeper": study.keeper}
    learners: LearnerArms = learner_arms(scene, None, **spent)
    cells = []
    for kind, frozen in imitators.items():
        label = f"{protocol.label} {kind}"
        named = dataclasses.replace(scene, protocol=dataclasses.replace(protocol, label=label))
        found = rollouts.run_protocol(named, learners, frozen, source_step=0, argmax=False, **spent)
        cells += [dataclasses.replace(cell, name=f"{kind}: {cell.name}") for cell in found]
    return cells


def steps_beside_learners(experiment: Experiment, protocol: Protocol, *, kinds: int) -> int:
    """How many steps `beside_learners` tells of."""
    learner = experiment.learner
    family = tasks.make(experiment.environment, shapes=experiment.shapes)
    line = family.knows_window_line and learner.epsilon_start == learner.epsilon_end
    arms = 1 + kinds * (experiment.training.num_seeds + line)
    per_learner = protocol.now_steps + protocol.horizon_steps * arms
    return per_learner * experiment.simulation.num_held_out
