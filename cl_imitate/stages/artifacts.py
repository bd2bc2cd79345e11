"""What stages leave in a run's folder for later ones: where it lies, and how it is read again."""

import functools
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import checkpoint, config, keys, populations, simulate
from cl_imitate.evaluation import frozen, protocols
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.imitator_arms import frozen_name
from cl_imitate.histories import contexts, store
from cl_imitate.imitators.make import make_imitator
from cl_imitate.stages.parent import parent_of
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


def save_snapshot(
    run: Run, name: str, step: int, ensemble: simulate.Ensemble, learners: range | None = None
) -> None:
    """Keep a population as it is at a step; what was there is replaced.

    `learners`: those that the ensemble holds, of a job's process that has only some; they are kept beside the others'.
    """
    path = snapshot_path(run, name, step)
    if learners is not None:
        path = path / f"learners_{learners.start}_{learners.stop}"
    shutil.rmtree(path, ignore_errors=True)  # a run that goes on comes by again
    if learners is not None:
        checkpoint.save_alone(path, ensemble)
    else:
        checkpoint.save(path, ensemble)


def load_snapshot(
    run: Run, population: populations.Population, step: int, learners: range | None = None
) -> simulate.Ensemble:
    """The population, or some of its learners, as it was at a step; of a fork, up to where it starts, the parent's.

    Raises:
      ValueError: missing, damaged, or another one than when the fork was made.
    """
    everybody = range(population.num_learners)
    learners = everybody if learners is None else learners
    fork = run.experiment.fork
    if fork is None or step > fork.step:
        return _load_snapshot(snapshot_path(run, population.name, step), population, learners)
    parent = parent_of(run)
    snapshot = load_snapshot(parent, population, step)
    if frozen.digest(snapshot) != run.folder.manifest["parent"]["snapshots"][population.name][str(step)]:
        raise ValueError(
            f"{snapshot_path(parent, population.name, step)} is not what it was when {run.path} was forked from there "
            "(the SHA-256 of its arrays differs): was that run simulated again, on another machine? Fork it again."
        )
    return snapshot if learners == everybody else _some(snapshot, learners)


def _load_snapshot(
    path: pathlib.Path, population: populations.Population, learners: range
) -> simulate.Ensemble:
    """Some of the learners, from what one process or several have kept."""
    if not any(path.glob("learners_*")):
        whole = checkpoint.load(path, population.abstract())
        return whole if learners == range(population.num_learners) else _some(whole, learners)
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


def open_history(run: Run, name: str, spec: Spec) -> store.Reader:
    """A population's histories; a fork's with its parent's before them. Raises ValueError: missing or damaged."""
    before = open_history(parent_of(run), name, spec) if run.experiment.fork is not None else None
    path = run.path / "histories" / name
    return store.open_store(path, fingerprint=run.folder.fingerprint, spec=spec, before=before)


def load_history(run: Run, name: str, spec: Spec) -> History:
    """A population's whole histories [N, T], on the host. Raises ValueError: missing or damaged."""
    return open_history(run, name, spec).read()


def imitator_keys(experiment: config.Experiment) -> tuple[jax.Array, jax.Array]:
    """Keys [M] and forks [M] (in steps of what they read) of all imitators of one context length: forks outermost.

    A seed's imitators share their initialisation and batches over forks; only their data differ.
    """
    root = keys.stream(keys.root(experiment.seed), keys.Stream.IMITATOR)
    seeds = keys.members(root, experiment.training.num_seeds, first=experiment.training.first_seed)
    forks = [
        contexts.thinned_step(fork, **contexts.thinning(experiment))
        for fork in sorted(experiment.evaluation.fork_steps)
    ]
    return (
        seeds[jnp.tile(jnp.arange(len(seeds)), len(forks))],
        jnp.repeat(jnp.array(forks, jnp.int32), experiment.training.num_seeds),
    )


def imitator_path(run: Run, context_steps: int) -> pathlib.Path:
    """Where the imitators of one context length lie, as `training.checkpoint_rule` chose them: the verdict's."""
    return run.path / "checkpoints" / "imitators" / f"context_{context_steps}"


def best_imitator_path(run: Run, context_steps: int) -> pathlib.Path:
    """Where the same imitators lie as they were when their held-out loss was lowest, whatever the rule."""
    return run.path / "checkpoints" / "best_imitators" / f"context_{context_steps}"


def by_fork(experiment: config.Experiment, spec: Spec, context_steps: int, params: Any) -> dict[int, Frozen]:
    """Parameters [forks * seeds, ...] as imitators, by fork."""
    imitator = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    seeds = experiment.training.num_seeds
    return {
        fork: Frozen(
            imitator=imitator,
            context_steps=context_steps,
            params=_part(params, index * seeds, size=seeds),
            num_seeds=seeds,
        )
        for index, fork in enumerate(sorted(experiment.evaluation.fork_steps))
    }


@functools.partial(jax.jit, static_argnames=("size",))
def _part(tree: Any, first: int, *, size: int) -> Any:
    """Of leaves [N, ...] those from one on, [size, ...]."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size), tree)


def load_frozen(run: Run, spec: Spec, context_steps: int, *, best: bool = False) -> dict[int, Frozen]:
    """The trained imitators of one context length, by fork; with `best`, those of the lowest held-out loss.

    The verdict rests on those that `training.checkpoint_rule` chose. Where `training.num_validation` is 0, the held-out
    loss is that on the learners of the evaluation: what is chosen by it is not fit for a verdict.
    """
    imitator = make_imitator(run.experiment.imitator, spec, context_steps=context_steps)
    member_keys, _ = imitator_keys(run.experiment)
    like = jax.eval_shape(jax.vmap(imitator.init), member_keys)
    path = best_imitator_path(run, context_steps) if best else imitator_path(run, context_steps)
    params = checkpoint.load(path, like)
    return by_fork(run.experiment, spec, context_steps, params)


def digests(imitators: dict[int, dict[int, Frozen]]) -> dict[str, str]:
    """SHA-256 of every set of weights, by context and fork."""
    return {
        frozen_name(context, fork): frozen.digest(imitator.params)
        for context, by_fork in imitators.items()
        for fork, imitator in by_fork.items()
    }
