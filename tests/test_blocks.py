"""Members are dealt out to blocks and come back in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cl_imitate import sharding
from cl_imitate.blocks import Blocks


@struct.dataclass
class Crowd:
    name: jax.Array  # [N, 3]
    clock: jax.Array  # []


SPECS = Crowd(name=sharding.SPLIT, clock=sharding.WHOLE)  # pyright: ignore[reportArgumentType]


def crowd(num: int) -> Crowd:
    return Crowd(name=jnp.arange(3 * num).reshape(num, 3), clock=jnp.int32(7))


@pytest.mark.parametrize(
    ("num_members", "block_size", "num_rounds"),
    [(1, 1, 1), (1, 4, 1), (8, 4, 1), (8, 2, 2), (5, 2, 2), (6, 2, 2), (9, 1, 5)],
)
def test_members_come_back_as_they_were_and_every_block_is_full(num_members, block_size, num_rounds):
    blocks, whole = Blocks(num_members, block_size), crowd(num_members)
    rounds = blocks.split(whole, SPECS)
    devices = blocks.mesh.devices.size
    assert (len(rounds), blocks.num_rounds) == (num_rounds, num_rounds)
    assert all(one.name.shape == (devices * block_size, 3) and int(one.clock) == 7 for one in rounds)
    assert all(one.name.addressable_shards[0].data.shape == (block_size, 3) for one in rounds)
    for back in (blocks.join(rounds, SPECS).name, blocks.on_host([one.name for one in rounds])):
        np.testing.assert_array_equal(back, whole.name)


def test_padding_copies_the_last_member():
    rounds = Blocks(5, 2).split(crowd(5), SPECS)
    seen = np.concatenate([np.asarray(one.name[:, 0]) for one in rounds])
    assert sorted(seen.tolist()) == [0, 3, 6, 9, 12, 12, 12, 12]


def test_a_round_is_arrays_of_its_own_so_that_it_can_be_donated():
    blocks = Blocks(8, 2)
    rounds = blocks.split(crowd(8), SPECS)
    rounds[0] = jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(rounds[0])
    joined = np.asarray(blocks.join(rounds, SPECS).name)
    changed = joined != np.asarray(crowd(8).name)
    np.testing.assert_array_equal(changed.all(axis=1), [True, True, False, False, True, True, False, False])


def test_keys_are_dealt_out_too():
    keys = jax.random.split(jax.random.key(0), 4)
    rounds = Blocks(4, 1).split(keys, sharding.SPLIT)
    back = np.stack([np.asarray(jax.random.key_data(one)) for one in rounds], axis=1).reshape(4, -1)
    np.testing.assert_array_equal(back, jax.random.key_data(keys))
