"""An ensemble as blocks, each arrays of its own on one device, computed by a program for one device.

A compiler orders sums by the sizes that it sees, so a learner's bits depend on the block size: every block has
exactly that many members, and the last one is padded with copies of the last member. They depend on nothing else: one
program split over devices would pass through other stages of the compiler than one for a single device, and round
otherwise (XLA's partitioning passes; 6e-8 of a learner's weights after 24 steps). A loop over blocks inside the program
would copy every block's replay out of the ensemble and back in every chunk.

Axes: N members, B blocks, b members of a block.
"""

import concurrent.futures
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from cl_imitate import sharding


class Blocks:
    """How `num_members` are dealt out to devices.

    Attributes:
      devices: where each of the B blocks is computed; a device's blocks are neighbours.
    """

    def __init__(self, num_members: int, block_size: int, devices: sharding.Devices | None = None):
        """`devices`: those to use, of which some are left out if fewer are done as soon; None: all local ones."""
        devices = jax.local_devices() if devices is None else devices
        num_blocks = -(-num_members // block_size)
        self._each = -(-num_blocks // len(devices))  # blocks of a device; the last one may have fewer
        self.devices = [devices[index // self._each] for index in range(num_blocks)]
        self._mesh = sharding.mesh_of(list(dict.fromkeys(self.devices)))
        self._num_members, self._size = num_members, block_size
        self._num_places = self._mesh.size * self._each * block_size

    def split(self, tree: Any, specs: Any) -> list[Any]:
        """Leaves [N, ...] -> B trees of leaves [b, ...] on the devices; scalars go into every one.

        `specs` is a prefix of the tree: sharding.SPLIT, or sharding.WHOLE for scalars. Where a device has one block
        and nothing is padded, leaves that are already in place are not copied.
        """
        whole = sharding.place(self._padded(tree), self._mesh, specs)
        parts = {device: _on(device, whole) for device in self._mesh.devices.flat}
        if self._each == 1:
            return [parts[device] for device in self.devices]
        return [
            _take(parts[device], index % self._each, size=self._size)
            for index, device in enumerate(self.devices)
        ]

    def join(self, blocks: list[Any], specs: Any) -> Any:
        """The inverse, padding left out: arrays split over the devices, or whole on the first one where these have
        unequal parts of N."""
        if self._num_places != self._num_members:
            here = [jax.device_put(block, self.devices[0]) for block in blocks]
            return _some(_joined(*here), np.arange(self._num_members))
        by_device: dict[Any, list[Any]] = {device: [] for device in self.devices}
        for device, block in zip(self.devices, blocks, strict=True):
            by_device[device].append(block)
        joined = [_joined(*some) if len(some) > 1 else some[0] for some in by_device.values()]
        return sharding.assembled(joined, self._mesh, specs)

    def on_host(self, blocks: list[Any]) -> Any:
        """What B blocks left, leaves [b, ...] -> [N, ...]. Waits for it."""
        for leaf in jax.tree.leaves(blocks):
            leaf.copy_to_host_async()

        def gather(first, *others):
            whole = np.concatenate([first, *others]) if others else np.asarray(first)
            return whole[: self._num_members]

        return jax.tree.map(gather, *blocks)

    def compute(self, one: Callable[[int], Any]) -> list[Any]:
        """`one(block)` for every block, in turn on each device; it sends programs off, and waits for none.

        The first device goes ahead, so that the others find its programs in the cache of compiled ones. They read them
        in threads, which do not know of a caller's `with jax.default_matmul_precision` and the like.
        """
        first, *others = self._turns()
        return [one(index) for index in first] + _in_threads(one, others)

    def compute_and_wait(self, one: Callable[[int], Any]) -> list[Any]:
        """The same of what waits for its device on its way: a thread for each device from the first on."""
        return _in_threads(one, self._turns())

    def _turns(self) -> list[list[int]]:
        """Each device's blocks."""
        return [
            list(some) for _, some in itertools.groupby(range(len(self.devices)), self.devices.__getitem__)
        ]

    def _padded(self, tree: Any) -> Any:
        if self._num_places == self._num_members:
            return tree
        return _some(tree, np.minimum(np.arange(self._num_places), self._num_members - 1))


def _in_threads(one: Callable[[int], Any], turns: list[list[int]]) -> list[Any]:
    def take(turn: list[int]) -> list[Any]:
        return [one(index) for index in turn]

    if len(turns) < 2:
        return [result for turn in turns for result in take(turn)]
    with concurrent.futures.ThreadPoolExecutor(len(turns)) as pool:
        return [result for some in pool.map(take, turns) for result in some]


@jax.jit
def _some(tree: Any, members: Any) -> Any:
    """Of leaves [N, ...] those of some members; scalars as they are."""
    return jax.tree.map(lambda x: x[members] if x.ndim else x, tree)


def _on(device: Any, whole: Any) -> Any:
    """A device's part of arrays that lie on a mesh. What it is part of leaves no trace, not even a mesh of this device
    alone: jax would compile another program for that."""

    def part(x: jax.Array) -> jax.Array:
        here = next(shard.data for shard in x.addressable_shards if shard.device == device)
        return jax.make_array_from_single_device_arrays(here.shape, SingleDeviceSharding(device), [here])

    return jax.tree.map(part, whole)


@functools.partial(jax.jit, static_argnames=("size",))
def _take(part: Any, index: int, *, size: int) -> Any:
    """One block out of a device's, and scalars of its own: it will be donated."""

    def one(x):
        return x.reshape(-1, size, *x.shape[1:])[index] if x.ndim else jnp.copy(x)

    return jax.tree.map(one, part)


@jax.jit
def _joined(*blocks: Any) -> Any:
    """A device's blocks; scalars are the first's."""
    return jax.tree.map(lambda *x: jnp.concatenate(x) if x[0].ndim else jnp.copy(x[0]), *blocks)
