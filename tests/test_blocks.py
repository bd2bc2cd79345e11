"""Members are dealt out to blocks and come back in their order."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cl_imitate import sharding
from cl_imitate.blocks import Blocks
from tests.compiles import count_compiles


@struct.dataclass
class Crowd:
    name: jax.Array  # [N, 3]
    clock: jax.Array  # []


SPECS = Crowd(name=sharding.SPLIT, clock=sharding.WHOLE)  # pyright: ignore[reportArgumentType]


def crowd(num: int) -> Crowd:
    return Crowd(name=jnp.arange(3 * num).reshape(num, 3), clock=jnp.int32(7))


@pytest.mark.parametrize(
    ("num_members", "block_size", "num_devices", "on"),
    [
        (1, 1, 2, [0]),
        (1, 4, 2, [0]),
        (8, 4, 2, [0, 1]),
        (8, 2, 2, [0, 0, 1, 1]),
        (5, 2, 2, [0, 0, 1]),
        (6, 2, 1, [0, 0, 0]),
        (9, 1, 2, [0, 0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_members_come_back_as_they_were_and_every_block_is_full(num_members, block_size, num_devices, on):
    devices = jax.devices()[:num_devices]
    dealt, whole = Blocks(num_members, block_size, devices), crowd(num_members)
    blocks = dealt.split(whole, SPECS)
    assert [devices.index(device) for device in dealt.devices] == on
    assert [block.name.devices() for block in blocks] == [{device} for device in dealt.devices]
    assert all(one.name.shape == (block_size, 3) and int(one.clock) == 7 for one in blocks)
    joined = dealt.join(blocks, SPECS)
    assert int(joined.clock) == 7
    for back in (joined.name, dealt.on_host([one.name for one in blocks])):
        np.testing.assert_array_equal(back, whole.name)


def test_padding_copies_the_last_member():
    blocks = Blocks(5, 2).split(crowd(5), SPECS)
    seen = np.concatenate([np.asarray(one.name[:, 0]) for one in blocks])
    assert seen.tolist() == [0, 3, 6, 9, 12, 12]


def test_a_block_is_arrays_of_its_own_so_that_it_can_be_donated():
    dealt = Blocks(8, 2)
    blocks = dealt.split(crowd(8), SPECS)
    blocks[0] = jax.jit(lambda x: jax.tree.map(lambda y: y + 1, x), donate_argnums=0)(blocks[0])
    joined = np.asarray(dealt.join(blocks, SPECS).name)
    changed = joined != np.asarray(crowd(8).name)
    np.testing.assert_array_equal(changed.all(axis=1), [True, True, *[False] * 6])


def test_keys_are_dealt_out_too_and_come_back():
    keys, dealt = jax.random.split(jax.random.key(0), 4), Blocks(4, 1)
    blocks = dealt.split(keys, sharding.SPLIT)
    back = np.concatenate([np.asarray(jax.random.key_data(one)) for one in blocks])
    np.testing.assert_array_equal(back, jax.random.key_data(keys))
    joined = dealt.join(blocks, sharding.SPLIT)
    np.testing.assert_array_equal(jax.random.key_data(joined), jax.random.key_data(keys))


def test_what_devices_have_unequal_parts_of_is_joined_on_one_of_them_and_not_copied_to_all():
    dealt = Blocks(5, 2)
    joined = dealt.join(dealt.split(crowd(5), SPECS), SPECS)
    assert joined.name.devices() == joined.clock.devices() == {jax.devices()[0]}
    even = Blocks(4, 2)
    assert even.join(even.split(crowd(4), SPECS), SPECS).name.addressable_shards[0].data.shape == (2, 3)


def test_members_are_where_the_order_of_the_devices_says():
    dealt = Blocks(4, 2, jax.devices()[::-1])
    blocks = dealt.split(crowd(4), SPECS)
    assert [block.name.devices() for block in blocks] == [{device} for device in jax.devices()[::-1]]
    np.testing.assert_array_equal(dealt.on_host([one.name for one in blocks]), crowd(4).name)
    np.testing.assert_array_equal(dealt.join(blocks, SPECS).name, crowd(4).name)


@pytest.mark.parametrize(("num_members", "num_devices"), [(2, 1), (4, 1), (4, 2), (2, 2)])
def test_one_program_serves_blocks_of_a_device_whatever_they_were_dealt_from(num_members, num_devices):
    alone = jax.device_put(crowd(2), jax.devices()[0])
    program = jax.jit(lambda one: jax.tree.map(lambda x: x * 2, one))
    program(alone)
    (block, *_) = Blocks(num_members, 2, jax.devices()[:num_devices]).split(crowd(num_members), SPECS)
    with count_compiles() as compiled:
        program(block)
    assert not compiled


def test_blocks_are_computed_where_they_are_and_those_of_the_first_device_first():
    dealt, seen = Blocks(5, 1), []
    blocks = dealt.split(crowd(5), SPECS)

    def one(index: int) -> jax.Array:
        if index == 0:
            time.sleep(0.2)  # as if it compiled
        seen.append(index)
        return blocks[index].name + 1

    found = dealt.compute(one)
    assert [x.devices() for x in found] == [{device} for device in dealt.devices]
    np.testing.assert_array_equal(dealt.on_host(found), np.asarray(crowd(5).name) + 1)
    assert seen == [0, 1, 2, 3, 4]


def test_a_device_does_not_wait_for_another_one_whose_blocks_wait_for_it():
    seen, together = [], threading.Barrier(2, timeout=30)

    def one(index: int) -> int:
        if index in (0, 3):
            together.wait()  # the first of each device
        seen.append(index)
        return index

    assert Blocks(5, 1).compute_and_wait(one) == [0, 1, 2, 3, 4]
    assert [index for index in seen if index < 3] == [0, 1, 2]
    assert [index for index in seen if index >= 3] == [3, 4]


@pytest.mark.parametrize("compute", [Blocks.compute, Blocks.compute_and_wait])
def test_an_error_in_a_block_of_any_device_is_the_caller_s(compute):
    def one(index: int) -> None:
        if index == 2:
            raise ZeroDivisionError(index)

    with pytest.raises(ZeroDivisionError, match="2"):
        compute(Blocks(4, 1), one)
