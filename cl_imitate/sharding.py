"""Which devices an ensemble is split over. The split is by member; nothing is exchanged between devices."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

if jax.__version_info__ >= (0, 11):
    # The default partitioner of jax 0.11.2 crashes the process when it meets a scatter over a whole axis inside a
    # `shard_map` over two devices, as gymnax's Space Invaders has; the one before it does not.
    jax.config.update("jax_use_shardy_partitioner", False)

Devices = Sequence[Any]  # jax's
ENSEMBLE = "ensemble"
SPLIT = PartitionSpec(ENSEMBLE)
WHOLE = PartitionSpec()


def ensemble_mesh(num_members: int, devices: Devices | None = None) -> Mesh:
    """A mesh of as many of the devices (default: all local ones) as divide the ensemble evenly."""
    devices = jax.local_devices() if devices is None else devices
    count = math.gcd(num_members, len(devices))
    return jax.make_mesh((count,), (ENSEMBLE,), devices=devices[:count], axis_types=(AxisType.Auto,))


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
    shardings = jax.tree.map(
        lambda spec: jax.sharding.NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
    leaves = jax.tree.broadcast(shardings, tree, is_leaf=lambda x: isinstance(x, jax.sharding.Sharding))
    return jax.tree.map(jax.device_put, tree, leaves)
