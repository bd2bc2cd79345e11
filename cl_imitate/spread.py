"""One run's imitators in training over the devices of all processes of a job, which all make the same calls.

Members are split over the mesh's axis `ensemble`; with `training.shard` = "data" or "fsdp" each one's batch (and
weights) over `data`, for one process too. Several runs are trained side by side only by one process, by member
(`train.fit_together`).
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from cl_imitate import config, processes, sharding, train
from cl_imitate.imitators.base import Imitator
from cl_imitate.optimiser import without_rates
from cl_imitate.trainees import Trainee
from cl_imitate.types import History


def is_asked_for(training: config.Training) -> bool:
    """Whether imitators are to be trained in this way."""
    return processes.count() > 1 or training.shard != "members"


def make_mesh(num_members: int, training: config.Training, devices: sharding.Devices | None = None) -> Mesh:
    """The mesh for `num_members` imitators; `devices`: None for those of all processes.

    Raises:
      ValueError: the processes cannot all take part equally, or blocks are asked for that these devices do not make.
    """
    mesh = sharding.training_mesh(
        num_members, training.batch_size, splits_batches=training.shard != "members", devices=devices
    )
    share = num_members // mesh.shape[sharding.ENSEMBLE]
    if training.block_size not in (0, share):
        raise ValueError(
            f'training.block_size = {training.block_size}: with several processes, or with training.shard = "data" or '
            f'"fsdp", a device has one block, which here is of {share} of {num_members} imitators. Use {share}, or 0.'
        )
    return mesh


def told(num_members: int, training: config.Training, devices: sharding.Devices | None = None) -> str:
    """In words, over how many devices what is split."""
    mesh = make_mesh(num_members, training, devices)
    parts = {"members": "", "data": ", batches over {}", "fsdp": ", batches and weights over {}"}[
        training.shard
    ]
    data = mesh.shape[sharding.DATA]
    return f"; imitators over {mesh.shape[sharding.ENSEMBLE]} of {jax.device_count()} devices{parts.format(data)}"


def fit(
    trainee: Trainee,
    *,
    imitator: Imitator,
    context_steps: int,
    devices: sharding.Devices | None = None,
) -> Iterator[train.Fitted]:
    """Train the imitators of one run to `training.num_updates`, yielding after every chunk what `train.fit_together`
    yields. The states are arrays of all processes: `sharding.on_host` gathers them.

    Args:
      devices: where to train; None: on all, of all processes of the job.

    Raises:
      ValueError: see `make_mesh`.
    """
    training = without_rates(trainee.training)
    mesh = make_mesh(trainee.num_members, training, devices)
    state = sharding.place(trainee.state, mesh, train.specs(trainee.state, mesh, training))
    members = sharding.place(trainee.members(), mesh, sharding.SPLIT)
    held_out = sharding.place(trainee.held_out, mesh, sharding.WHOLE)
    static = {"imitator": imitator, "training": training, "context_steps": context_steps, "mesh": mesh}
    compiled: dict[int, Callable[..., Any]] = {}
    history: History | None = None
    done, until = int(trainee.state.update), -1
    while done < training.num_updates:
        if history is None or done >= until:
            history = None  # room for the next
            history, until = trainee.feed(done)
            history = sharding.place(history, mesh, sharding.WHOLE)
        num_updates = min(training.evaluate_every_updates, until - done)
        if num_updates not in compiled:
            compiled[num_updates] = _compile(
                state, members, history, held_out, num_updates=num_updates, **static
            )
        state, *losses = compiled[num_updates](state, members, history, held_out)
        done += num_updates
        progress = train.Progress(done, *sharding.on_host(losses))
        error = train.problem(progress)
        yield train.Fitted(lambda now=state: [now], [progress], {} if error is None else {0: error})


def _compile(*arrays: Any, **static: Any) -> Callable[..., Any]:
    """`train.train_chunk` for arrays like these. All processes have it before any begins: at the first sum within it
    gloo gives up on a process that comes 30 seconds late, from compiling say."""
    compiled = train.train_chunk.lower(*arrays, **static).compile()
    processes.exchange("compiled")
    return compiled
