"""An ensemble as rounds of one block a device, each round arrays of its own.

A compiler orders sums by the sizes that it sees, so a learner's bits depend on the block size: every block has
exactly that many members, and the last ones are padded with copies of the last member. A loop over blocks inside the
program would need no rounds, but would copy every block's replay out of the ensemble and back in every chunk.

Axes: N members, D devices, R rounds, b members of a block. On N, devices lie outermost and then rounds.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cl_imitate import sharding


class Blocks:
    """How `num_members` are dealt out; nothing is computed here.

    Attributes:
      num_rounds: R.
      mesh: of D devices, at most as many as there are blocks.
    """

    def __init__(self, num_members: int, block_size: int, devices: sharding.Devices | None = None):
        """`devices`: those to use; None: all local ones."""
        num_blocks = -(-num_members // block_size)
        num_devices = min(num_blocks, len(jax.local_devices() if devices is None else devices))
        self.num_rounds = -(-num_blocks // num_devices)
        self.mesh = sharding.ensemble_mesh(num_devices, devices)
        self._num_members = num_members
        self._shape = (num_devices, self.num_rounds, block_size)

    def split(self, tree: Any, specs: Any) -> list[Any]:
        """Leaves [N, ...] -> R trees of leaves [D * b, ...] on the mesh; scalars go into every one.

        `specs` is a prefix of the tree: sharding.SPLIT, or sharding.WHOLE for scalars. With one round and nothing
        to pad, leaves that are already in place are not copied.
        """
        whole = sharding.place(self._padded(tree), self.mesh, specs)
        if self.num_rounds == 1:
            return [whole]
        static = {"mesh": self.mesh, "specs": specs, "num_rounds": self.num_rounds}
        return [_take(whole, index, **static) for index in range(self.num_rounds)]

    def join(self, rounds: list[Any], specs: Any) -> Any:
        """The inverse, padding left out. With one round and nothing padded, these are the same arrays."""
        if self.num_rounds == 1:
            (whole,) = rounds
        else:
            static = {"mesh": self.mesh, "specs": specs, "num_rounds": self.num_rounds}
            whole = _room(rounds[0], **static)
            for index, one in enumerate(rounds):
                whole = _put(whole, one, index, **static)
        return self._counted(whole)

    def on_host(self, rounds: list[Any]) -> Any:
        """What R rounds of compute left, leaves [D * b, ...] -> [N, ...]. Waits for it."""
        if self.num_rounds == 1:
            return self._counted(rounds[0])

        def gather(*parts):
            stacked = np.stack(
                [np.asarray(x).reshape(self._shape[0], -1, *x.shape[1:]) for x in parts], axis=1
            )
            return stacked.reshape(-1, *parts[0].shape[1:])

        return self._counted(jax.tree.map(gather, *rounds))

    def _padded(self, tree: Any) -> Any:
        num = int(np.prod(self._shape))
        if num == self._num_members:
            return tree
        members = np.minimum(np.arange(num), self._num_members - 1)
        return jax.tree.map(lambda x: x[members] if x.ndim else x, tree)

    def _counted(self, tree: Any) -> Any:
        if int(np.prod(self._shape)) == self._num_members:
            return tree
        return jax.tree.map(lambda x: x[: self._num_members] if x.ndim else x, tree)


@functools.partial(jax.jit, static_argnames=("mesh", "specs", "num_rounds"))
def _take(whole: Any, index: int, *, mesh: Mesh, specs: Any, num_rounds: int) -> Any:
    """One round out of all of them."""

    def local(whole, index):
        def one(x):
            return x.reshape(num_rounds, -1, *x.shape[1:])[index] if x.ndim else x

        return jax.tree.map(one, whole)

    return sharding.over_ensemble(local, mesh, in_specs=(specs, sharding.WHOLE), out_specs=specs)(
        whole, index
    )


@functools.partial(jax.jit, static_argnames=("mesh", "specs", "num_rounds"))
def _room(one: Any, *, mesh: Mesh, specs: Any, num_rounds: int) -> Any:
    """Zeros for as many rounds."""

    def local(one):
        return jax.tree.map(
            lambda x: jnp.zeros((num_rounds * x.shape[0], *x.shape[1:]), x.dtype) if x.ndim else x, one
        )

    return sharding.over_ensemble(local, mesh, in_specs=(specs,), out_specs=specs)(one)


@functools.partial(jax.jit, static_argnames=("mesh", "specs", "num_rounds"), donate_argnames=("whole",))
def _put(whole: Any, one: Any, index: int, *, mesh: Mesh, specs: Any, num_rounds: int) -> Any:
    """One round into its place; scalars are the round's."""

    def local(whole, one, index):
        def put(all_of_it, x):
            return (
                jax.lax.dynamic_update_slice_in_dim(all_of_it, x, index * x.shape[0], axis=0) if x.ndim else x
            )

        return jax.tree.map(put, whole, one)

    specs_in = (specs, specs, sharding.WHOLE)
    return sharding.over_ensemble(local, mesh, in_specs=specs_in, out_specs=specs)(whole, one, index)
