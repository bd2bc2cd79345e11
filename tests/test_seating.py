"""Who sits where when several ensembles are computed together."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cl_imitate.seating import Seating


@struct.dataclass
class Crowd:
    name: object  # [N]
    clock: object  # []


def crowds(num_members: int, num: int) -> list[Crowd]:
    return [
        Crowd(name=jnp.arange(100 * index, 100 * index + num_members), clock=jnp.int32(7))
        for index in range(num)
    ]


@pytest.mark.parametrize(
    ("num_members", "block_size", "width"),
    [(4, 2, 4), (5, 2, 6), (2, 8, 2), (3, 8, 4), (5, 8, 8), (1, 1, 1), (5, 6, 6), (2, 6, 2), (4, 6, 6)],
)
def test_each_begins_where_a_block_or_an_even_share_of_one_does_and_comes_back_whole(
    num_members, block_size, width
):
    seating, trees = Seating(num_members, 3, block_size), crowds(num_members, 3)
    joined = seating.join(trees)
    assert seating.width == width
    assert joined.name.shape == (3 * width,)
    assert int(joined.clock) == 7
    for index, tree in enumerate(trees):
        start = index * width
        assert (
            start % block_size + min(width, block_size) <= block_size
        )  # none straddles two blocks by chance
        np.testing.assert_array_equal(seating.part(joined, index).name, tree.name)
        np.testing.assert_array_equal(joined.name[start + num_members : start + width], tree.name[-1])


def test_one_alone_is_left_as_it_is():
    [tree] = crowds(3, 1)
    seating = Seating(3, 1, 8)
    assert seating.join([tree]) is tree
    assert seating.part(tree, 0) is tree
    assert seating.seats(0) == slice(0, 3)
