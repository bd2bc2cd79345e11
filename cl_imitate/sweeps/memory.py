"""How much memory the points of a group take, told from shapes before anything runs, and how many fit at once."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np

from cl_imitate import config, populations, train
from cl_imitate.histories import store
from cl_imitate.imitators.make import make_imitator
from cl_imitate.seating import Seating
from cl_imitate.stages.artifacts import imitator_keys, recorded_steps
from cl_imitate.stages.run import chunk_steps, contexts_of, with_block_size
from cl_imitate.types import Spec

_ASSUMED_BYTES = 4 << 30
"""Where no memory is told at all."""
_COPIES_OF_ENSEMBLE = 2
"""While an ensemble is made, split into blocks or joined again for a snapshot, it is there twice."""
_COPIES_OF_WAITING = 4
"""Steps that wait for a shard to be full, the same in one piece, and two of the store's while it compresses them.

Resident memory rose by 3.5 to 3.7 times the steps that waited, up to the first shard's end (4,096 learners)."""
_COPIES_OF_PARAMS = 7
"""Weights, two moments, the best weights, gradients, and two on their way."""
_ACTIVATIONS = 24
"""Numbers that a layer keeps for going backwards, for each of its width."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes."""

    simulate: int  # a point
    train: int  # the points that are trained at once
    evaluate: int  # of the one point that is evaluated

    @property
    def most(self) -> int:
        return max(self.simulate, self.train, self.evaluate)


def estimate(experiment: config.Experiment) -> Estimate:
    """Of an experiment as a point of a group."""
    if experiment.simulation.block_size == "auto":
        experiment = with_block_size(experiment, 16 if jax.default_backend() == "cpu" else 1)
    spec = populations.make("held_out", experiment).family.env.spec
    names = recorded_steps(experiment)
    if experiment.training.feed == "stream":
        names = {**names, "recorded": experiment.recorded_steps}
    return Estimate(
        simulate=max(
            _lives(experiment, name) + _waiting(experiment, name, steps) for name, steps in names.items()
        ),
        train=max(_training(experiment, spec, context) for context in contexts_of(experiment)),
        evaluate=_lives(experiment, "held_out")
        + max(_acting(experiment, spec, c) for c in contexts_of(experiment)),
    )


def num_in_a_wave(estimated: Estimate, limit: int, num_points: int) -> int:
    """How many points can be computed together within `limit` bytes; one in any case."""
    return max(1, min(num_points, limit // max(1, estimated.simulate)))


def limit() -> tuple[int, str]:
    """The bytes that a sweep may use here, and where the figure comes from."""
    devices = jax.local_devices()
    stats = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in one for one in stats):
        return int(0.9 * sum(one["bytes_limit"] for one in stats)), "0.9 of the devices' memory"
    if (available := _available()) is not None:
        return int(0.7 * available), "0.7 of the memory that is free"
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # there is no such call on Windows
        return _ASSUMED_BYTES, "assumed: this system does not tell its memory; say it with --memory-gib"
    return int(0.35 * whole), "0.35 of this machine's memory"


def _available(root: pathlib.Path = pathlib.Path("/")) -> int | None:
    """Host memory that this process could still get, as Linux tells it; None elsewhere. `root`: of the file system."""
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    group = root / "sys/fs/cgroup"
    limit = _lines(group / "memory.max") or ["max"]
    if limit[0].strip().isdigit():
        used = int((_lines(group / "memory.current") or ["0"])[0])
        stat = dict(line.split() for line in _lines(group / "memory.stat"))
        # Files read or written lately count as used, but make room for whoever needs it.
        used -= int(stat.get("inactive_file", 0))
        found.append(max(0, int(limit[0]) - max(0, used)))
    return min(found, default=None)


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def _lives(experiment: config.Experiment, name: str) -> int:
    """One population's ensemble, in whole blocks, and three chunks of its history."""
    population = populations.make(name, experiment)
    own = _bytes(population.abstract())
    seats = Seating(population.num_learners, 2, population.block_size).width
    row = store.row_dtype(population.family.env.spec).itemsize
    history = 3 * seats * chunk_steps(experiment) * row
    return _COPIES_OF_ENSEMBLE * own * seats // population.num_learners + history


def _waiting(experiment: config.Experiment, name: str, num_steps: int) -> int:
    """One population's steps that wait until a shard is full, or all are there, while they are written."""
    population = populations.make(name, experiment)
    row = store.row_dtype(population.family.env.spec).itemsize
    most_steps = min(num_steps, store.SHARD_STEPS + chunk_steps(experiment))
    return _COPIES_OF_WAITING * population.num_learners * most_steps * row


def _training(experiment: config.Experiment, spec: Spec, context_steps: int) -> int:
    """The imitators that are trained at once, their activations, and histories on host and device."""
    training, shape = experiment.training, experiment.imitator
    member_keys, forks = imitator_keys(experiment)
    at_once = 1 if training.feed == "stream" else train.num_at_once(training, len(forks))
    params = _bytes(_params(experiment, spec, context_steps, member_keys))
    kept = shape.width * (_ACTIVATIONS if not shape.rematerialise else 2) * shape.num_layers
    windows = max(training.batch_size, training.evaluate_windows) * context_steps
    histories = experiment.simulation.num_recorded + experiment.simulation.num_held_out
    if training.feed == "stream":
        histories = training.stream_learners + experiment.simulation.num_held_out
    rows = histories * experiment.recorded_steps * store.row_dtype(spec).itemsize
    num_devices = min(len(jax.local_devices()), at_once * len(forks))
    return (
        at_once * (_COPIES_OF_PARAMS * params + 4 * kept * windows * len(forks) + rows) + num_devices * rows
    )


def _acting(experiment: config.Experiment, spec: Spec, context_steps: int) -> int:
    """The memories of one context length's imitators in all ways of acting, twice."""
    made = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    num = max(experiment.simulation.num_held_out, experiment.evaluation.elsewhere_learners)
    memory = _bytes(jax.eval_shape(lambda: made.init_memory(num)))
    params = _bytes(_params(experiment, spec, context_steps, imitator_keys(experiment)[0]))
    return 2 * 4 * experiment.training.num_seeds * memory + 4 * params


def _params(experiment: config.Experiment, spec: Spec, context_steps: int, member_keys: jax.Array) -> Any:
    made = make_imitator(experiment.imitator, spec, context_steps=context_steps)
    return jax.eval_shape(jax.vmap(made.init), member_keys)
