"""Where controls play: a protocol's own scene, so that their arms stand beside the evaluation's."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import simulate
from cl_imitate.evaluation import protocols
from cl_imitate.evaluation.controls.study import Study
from cl_imitate.evaluation.scene import Scene, make_scene
from cl_imitate.histories import contexts


def later_scene(study: Study, num_learners: int) -> Scene:
    """LATER's own scene: the same keys, with its first learners alone (at most as many as there are)."""
    experiment = study.experiment
    fork = experiment.evaluation.later_fork_step
    cells = protocols.protocols(experiment)
    index = next(i for i, one in enumerate(cells) if one.name == "now_and_later" and one.fork_step == fork)
    whole, chosen = (
        study.population("held_out"),
        np.arange(min(num_learners, experiment.simulation.num_held_out)),
    )
    population = whole.members(chosen)
    return make_scene(
        cells[index],
        index,
        experiment,
        population,
        rows(study.snapshot(whole, fork), chosen),
        population,
        contexts.thin(study.history("held_out"), **contexts.thinning(experiment)),
        chunk_steps=study.chunk_steps,
        best_history=math.nan,
        past_step=functools.partial(contexts.thinned_step, **contexts.thinning(experiment)),
    )


def rows(snapshot: simulate.Ensemble, index: np.ndarray) -> simulate.Ensemble:
    """Some learners of an ensemble, each as often as it is named."""
    some = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[index], (snapshot.learner, snapshot.env_state, snapshot.obs)
    )
    clock = jax.tree.map(jnp.copy, snapshot.clock)
    return simulate.Ensemble(learner=some[0], env_state=some[1], obs=some[2], clock=clock)
