"""Where the members of several equal ensembles sit when they are computed together, block by block.

A member's bits depend on the block size, and on nothing else about who is computed beside it (see `blocks`). So each
ensemble begins where its own blocks would begin: one that fills blocks has its last one padded with copies of its last
member, as it would be alone; one that is smaller than half a block shares it with others.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Seating:
    """`num_ensembles` of `num_members` each, on one axis; nothing is computed here.

    Attributes:
      num_members: those of one ensemble.
      width: seats of one ensemble: a multiple of the block size, or a divisor of it.
    """

    def __init__(self, num_members: int, num_ensembles: int, block_size: int):
        self.width = -(-num_members // block_size) * block_size
        if num_members < block_size:
            self.width = min(n for n in range(num_members, block_size + 1) if block_size % n == 0)
        if num_ensembles == 1:
            self.width = num_members  # alone: padding is left to the blocks
        self.num_members, self._num_ensembles = num_members, num_ensembles

    def seats(self, ensemble: int) -> slice:
        """The members of one ensemble."""
        return slice(ensemble * self.width, ensemble * self.width + self.num_members)

    def join(self, trees: list[Any]) -> Any:
        """Leaves [num_members, ...] of every ensemble -> [num_ensembles * width, ...]; scalars are the first's."""
        if len(trees) == 1:
            return trees[0]
        member = np.minimum(np.arange(self.width), self.num_members - 1)

        def one(*leaves):
            if not leaves[0].ndim:
                return leaves[0]
            return jnp.concatenate(leaves if self.width == self.num_members else [x[member] for x in leaves])

        return jax.tree.map(one, *(_on_one_device(tree) for tree in trees))

    def part(self, tree: Any, ensemble: int) -> Any:
        """The inverse: one ensemble's members [num_members, ...]. Works on arrays of host and device."""
        if self._num_ensembles == 1:
            return tree
        seats = self.seats(ensemble)
        return jax.tree.map(lambda x: x[seats] if x.ndim else x, tree)


def _on_one_device(tree: Any) -> Any:
    """Arrays that lie on different devices cannot be joined there."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.local_devices()[0]), tree)
