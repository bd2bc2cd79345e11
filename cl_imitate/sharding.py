"""One mesh: members of an ensemble are split over its axis `ensemble`, batches (and weights, if asked) over `data`.

Along `ensemble` nothing is exchanged. So where there are only members, each process of a job runs its own stretch of
this axis on its own devices, at its own pace: simulation and evaluation do. Learners, and imitators that one process
trains by member, are blocks on one device each (see `blocks`). Other training is one program over the devices of all
processes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cl_imitate import processes

Devices = Sequence[Any]  # jax's
ENSEMBLE, DATA = "ensemble", "data"
SPLIT = PartitionSpec(ENSEMBLE)
WHOLE = PartitionSpec()


def ensemble_mesh(num_members: int, devices: Devices | None = None) -> Mesh:
    """A mesh of as many of the devices (default: all local ones) as divide the ensemble evenly."""
    devices = jax.local_devices() if devices is None else devices
    return mesh_of(devices[: math.gcd(num_members, len(devices))])


def mesh_of(devices: Devices) -> Mesh:
    """All of these along `ensemble`, in this order (`jax.make_mesh` may pick another)."""
    return Mesh(np.array(devices), (ENSEMBLE,), axis_types=(AxisType.Auto,))


def training_mesh(
    num_members: int, batch_size: int, *, splits_batches: bool, devices: Devices | None = None
) -> Mesh:
    """A mesh `ensemble` x `data` of the devices (default: those of all processes) for members in training.

    As many devices as divide the members evenly go along `ensemble`; of the rest, with `splits_batches`, as many as
    divide a batch evenly along `data`. Devices of one `data` group are neighbours.

    Raises:
      ValueError: the processes of the job cannot all take part equally.
    """
    everywhere = devices is None
    devices = jax.devices() if devices is None else devices
    members = math.gcd(num_members, len(devices))
    data = math.gcd(batch_size, len(devices) // members) if splits_batches else 1
    num_processes = processes.count() if everywhere else 1
    if members * data % num_processes:
        raise ValueError(
            f"{num_members} imitators with batches of {batch_size} occupy {members} x {data} devices, which "
            f"{num_processes} processes cannot share evenly. Set training.shard = "
            f'"data" and make training.batch_size a multiple of the number of devices ({len(devices)}), or train with '
            "one process."
        )
    each = members * data // num_processes
    if num_processes > 1:
        devices = [
            device
            for process in range(num_processes)
            for device in [one for one in devices if one.process_index == process][:each]
        ]
    grid = np.array(devices[: members * data]).reshape(members, data)
    return Mesh(grid, (ENSEMBLE, DATA), axis_types=(AxisType.Auto, AxisType.Auto))


def split_batch(tree: Any, mesh: Mesh) -> Any:
    """Under `jit`: leaves [B, ...] of one member are split over `data`, where it divides them evenly."""

    def split(x: jax.Array) -> jax.Array:
        if x.shape[0] % mesh.shape[DATA]:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(DATA)))

    return jax.tree.map(split, tree)


def whole_members(tree: Any, mesh: Mesh) -> Any:
    """Under `jit` and a `vmap` over members: one member's leaves, gathered from `data`."""
    whole = NamedSharding(mesh, WHOLE)
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, whole), tree)


def sharded_members(tree: Any, mesh: Mesh) -> Any:
    """Specs for leaves [M, ...]: members over `ensemble`, and of each its longest side that `data` divides evenly."""
    size = mesh.shape[DATA]

    def spec(x: Any) -> PartitionSpec:
        sides = [axis for axis in range(1, x.ndim) if x.shape[axis] % size == 0]
        longest = max(sides, key=lambda axis: x.shape[axis], default=None)
        return PartitionSpec(ENSEMBLE, *(DATA if axis == longest else None for axis in range(1, x.ndim)))

    return jax.tree.map(spec, tree)


def halves() -> tuple[Devices, Devices]:
    """The local devices in two parts, for two stages at once; the second is the larger one if they are odd.

    Raises:
      ValueError: there is only one.
    """
    devices = jax.local_devices()
    if len(devices) < 2:
        raise ValueError(
            'training.stream_devices = "split" needs two local devices, and there is one. Use "shared".'
        )
    return devices[: len(devices) // 2], devices[len(devices) // 2 :]


def over_ensemble(function: Callable, mesh: Mesh, *, in_specs, out_specs) -> Callable:
    """`function` run on each device's members. Specs are pytree prefixes of SPLIT and WHOLE.

    `check_vma` is off: environments that sample inside control flow do not carry the annotations it needs.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def place(tree, mesh: Mesh, specs):
    """`tree` on the mesh's devices as its specs (a pytree prefix) say, so that a first call meets the types
    and places of all later ones and compiles once."""
    return jax.tree.map(_put, tree, shardings(tree, mesh, specs))


def assembled(parts: Sequence[Any], mesh: Mesh, specs: Any) -> Any:
    """The inverse of `place`: one tree of arrays out of each device's part of it, nothing copied."""

    def whole(sharding: NamedSharding, *arrays: jax.Array) -> jax.Array:
        shape = arrays[0].shape
        if sharding.spec != WHOLE:
            shape = (len(arrays) * shape[0], *shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays))

    return jax.tree.map(whole, shardings(parts[0], mesh, specs), *parts)


def shardings(tree: Any, mesh: Mesh, specs: Any) -> Any:
    """One for each leaf of the tree, of which `specs` is a prefix."""

    def is_spec(x: Any) -> bool:
        return isinstance(x, PartitionSpec)

    leaves = jax.tree.broadcast(specs, tree, is_leaf=is_spec)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), leaves, is_leaf=is_spec)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(np.asarray(x) if _is_a_cpu_s(x) else x, sharding)
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    host = np.asarray(x)  # the same in every process, and each takes from it what is its devices'
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _is_a_cpu_s(x: Any) -> bool:
    """The array is on one CPU device: in numpy's hands it can be split without a program for each shape and type, and
    is not copied."""
    if not isinstance(x, jax.Array) or jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        return False
    devices = x.devices()
    return len(devices) == 1 and next(iter(devices)).platform == "cpu"


def on_host(tree: Any) -> Any:
    """Numpy arrays of the whole of every leaf, in every process (all of a job's must ask), one leaf at a time."""

    def whole(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    if processes.count() > 1:
        jax.block_until_ready(tree)
        # gloo gives up on a process that comes 30 seconds late, from compiling say
        processes.exchange("gathering")
    return jax.tree.map(whole, tree)
