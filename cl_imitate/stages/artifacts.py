"""What stages leave in a run's folder for later ones: where it lies, and how it is read again."""

import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import checkpoint, config, keys, populations, processes, simulate
from cl_imitate.evaluation import frozen, protocols
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.imitator_arms import frozen_name
from cl_imitate.histories import contexts, store
from cl_imitate.imitators.make import make_imitator
from cl_imitate.stages.run import Run
from cl_imitate.types import History, Spec


def recorded_steps(experiment: config.Experiment) -> dict[str, int]:
    """How long each population is recorded: up to its last snapshot or prompt."""
    steps = {"recorded": experiment.recorded_steps, "held_out": experiment.recorded_steps}
    if experiment.training.feed == "stream":
        del steps["recorded"]  # they are made when they are trained on
    if experiment.evaluation.months:
        steps["held_out_train_tasks"] = max(protocols.snapshot_steps(experiment, "held_out_train_tasks"))
    return steps


def snapshot_path(run: Run, name: str, step: int) -> pathlib.Path:
    """Where a population's snapshot at one of its steps lies."""
    return run.path / "checkpoints" / "learners" / name / f"step_{step}"


def save_snapshot(run: Run, name: str, step: int, ensemble: simulate.Ensemble, learners: range) -> None:
    """Keep a population as it is at a step; what was there is replaced. A process of a job keeps its own `learners`."""
    path = snapshot_path(run, name, step)
    if processes.count() > 1:
        path = path / f"learners_{learners.start}_{learners.stop}"
    shutil.rmtree(path, ignore_errors=True)  # a run that goes on comes by again
    if processes.count() > 1:
        checkpoint.save_alone(path, ensemble)
    else:
        checkpoint.save(path, ensemble)


def load_snapshot(
    run: Run, population: populations.Population, step: int, learners: range | None = None
) -> simulate.Ensemble:
    """The population, or some of its learners, as it was at a step.

    Raises:
      ValueError: missing or damaged.
    """
    path = snapshot_path(run, population.name, step)
    everybody = range(population.num_learners)
    learners = everybody if learners is None else learners
    if not any(path.glob("learners_*")):
        whole = checkpoint.load(path, population.abstract())
        return whole if learners == everybody else _some(whole, learners)
    parts = []
    for share in sorted(path.glob("learners_*"), key=lambda path: int(path.name.split("_")[1])):
        first, stop = map(int, share.name.split("_")[1:])
        wanted = range(max(first, learners.start), min(stop, learners.stop))
        if wanted:
            part = checkpoint.load(share, population.members(np.arange(first, stop)).abstract())
            parts.append(_some(part, range(wanted.start - first, wanted.stop - first)))
    found = jax.tree.map(lambda *xs: jnp.concatenate(xs) if xs[0].ndim else xs[0], *parts) if parts else None
    if found is None or len(found.obs) != len(learners):
        raise ValueError(
            f"the snapshot {path} lacks learners. Redo its stage with --again: simulate, with this --run-dir."
        )
    return found


def _some(ensemble: simulate.Ensemble, learners: range) -> simulate.Ensemble:
    return jax.tree.map(lambda x: x[learners.start : learners.stop] if x.ndim else x, ensemble)


def load_history(run: Run, name: str, spec: Spec) -> History:
    """A population's whole histories [N, T], on the host. Raises ValueError: missing or damaged."""
    path = run.path / "histories" / name
    return store.open_store(path, fingerprint=run.folder.fingerprint, spec=spec).read()


def imitator_keys(experiment: config.Experiment) -> tuple[jax.Array, jax.Array]:
    """Keys [M] and forks [M] (in steps of what they read) of all imitators of one context length: forks outermost.

    A seed's imitators share their initialisation and batches over forks; only their data differ.
    """
    root = keys.stream(keys.root(experiment.seed), keys.Stream.IMITATOR)
    seeds = keys.members(root, experiment.training.num_seeds)
    forks = [
        contexts.thinned_step(fork, **contexts.thinning(experiment))
        for fork in sorted(experiment.evaluation.fork_steps)
    ]
    return (
        seeds[jnp.tile(jnp.arange(len(seeds)), len(forks))],
        jnp.repeat(jnp.array(forks, jnp.int32), experiment.training.num_seeds),
    )


def imitator_path(run: Run, context_steps: int) -> pathlib.Path:
    """Where the imitators of one context length lie."""
    return run.path / "checkpoints" / "imitators" / f"context_{context_steps}"


def by_fork(experiment: config.Experiment, spec: Spec, context_steps: int, params: Any) -> dict[int, Frozen]:
    """Parameters [forks * seeds, ...] as imitators, by fork."""
    imitator = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    seeds = experiment.training.num_seeds
    return {
        fork: Frozen(
            imitator=imitator,
            context_steps=context_steps,
            params=jax.tree.map(lambda leaf, i=index: leaf[i * seeds : (i + 1) * seeds], params),
            num_seeds=seeds,
        )
        for index, fork in enumerate(sorted(experiment.evaluation.fork_steps))
    }


def load_frozen(run: Run, spec: Spec, context_steps: int) -> dict[int, Frozen]:
    """The trained imitators of one context length, by fork."""
    imitator = make_imitator(run.experiment.imitator, spec, context_steps=context_steps)
    member_keys, _ = imitator_keys(run.experiment)
    like = jax.eval_shape(jax.vmap(imitator.init), member_keys)
    params = checkpoint.load(imitator_path(run, context_steps), like)
    return by_fork(run.experiment, spec, context_steps, params)


def digests(imitators: dict[int, dict[int, Frozen]]) -> dict[str, str]:
    """SHA-256 of every set of weights, by context and fork."""
    return {
        frozen_name(context, fork): frozen.digest(imitator.params)
        for context, by_fork in imitators.items()
        for fork, imitator in by_fork.items()
    }
