"""The imitators of several runs side by side: what each reads, and which device computes it."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate import config, sharding
from cl_imitate.blocks import Blocks
from cl_imitate.optimiser import TrainRates, rates_of
from cl_imitate.seating import Seating
from cl_imitate.types import History

Feed = Callable[[int], tuple[History, int]]
"""What an update trains on: update -> a history [N, T] on host or device, and the update at which another comes."""


@struct.dataclass(kw_only=True)
class Members:
    """What M imitators differ in, besides their states; all [M]."""

    keys: jax.Array
    fork_steps: jax.Array  # int32
    rates: TrainRates
    held_out_keys: jax.Array
    place: jax.Array  # int32: whose histories it reads, of those that its block has


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trainee:
    """The M imitators of one run.

    Attributes:
      imitator_keys: keys [M]. fork_steps: int [M], where each imitator's data stop.
      feed: the recorded learners' histories [N, T], all at once or some at a time; at most one is on the device.
      held_out: those of learners that are not trained on, by which progress is measured.
    """

    state: Any  # a train.TrainState
    imitator_keys: jax.Array
    fork_steps: jax.Array
    feed: Feed
    held_out: History
    held_out_key: jax.Array
    training: config.Training

    @property
    def num_members(self) -> int:
        return self.fork_steps.shape[0]

    def members(self, place: int = 0) -> Members:
        """What its imitators differ in, where it is the `place`-th run of its block."""
        num = self.num_members
        return Members(
            keys=self.imitator_keys,
            fork_steps=self.fork_steps.astype(jnp.int32),
            rates=rates_of(self.training, num),
            held_out_keys=jnp.broadcast_to(self.held_out_key, (num,)),
            place=jnp.full(num, place, jnp.int32),
        )


class Table:
    """Who is computed where, and whose histories lie there."""

    def __init__(self, trainees: Sequence[Trainee], size: int, devices: sharding.Devices | None):
        num_members = trainees[0].num_members
        self._num, self._states = len(trainees), [trainee.state for trainee in trainees]
        self.seating = Seating(num_members, len(trainees), size)
        self.blocks = Blocks(self._num * self.seating.width, size, devices)
        seats = np.arange(len(self.blocks.devices) * size).reshape(-1, size)
        whose = np.minimum(seats // self.seating.width, self._num - 1)
        at_table = [list(dict.fromkeys(block.tolist())) for block in whose]
        # As many as a block has room for, whoever is there: the program is the same, and so are the bits.
        self.num_places = max(1, size // Seating(num_members, 2, size).width)
        self._readers = [_filled(block, self.num_places) for block in at_table]
        place = {i: block.index(i) for block in at_table for i in block}
        members = [trainee.members(place[i]) for i, trainee in enumerate(trainees)]
        self.members = self.blocks.split(self.seating.join(members), sharding.SPLIT)

    def place(self, histories: list[History]) -> list[History]:
        """For each block the histories [num_places * N, T] that it reads, on its device; equal ones lie there once."""
        put: dict[tuple, History] = {}

        def joined(first, *others) -> np.ndarray:
            return np.concatenate([first, *others]) if others else np.asarray(first)

        def on(device, readers: tuple[int, ...]) -> History:
            if (device, readers) not in put:
                whole = jax.tree.map(joined, *(histories[i] for i in readers))
                put[device, readers] = jax.device_put(whole, device)
            return put[device, readers]

        return [
            on(device, readers) for device, readers in zip(self.blocks.devices, self._readers, strict=True)
        ]

    def split(self, specs: Any) -> list[Any]:
        """The states of all trainees, in blocks. `specs`: those of a state."""
        return self.blocks.split(self.seating.join(self._states), specs)

    def parts(self, states: list[Any], specs: Any) -> list[Any]:
        """Every trainee's state out of the blocks."""
        whole = self.blocks.join(states, specs)
        return [self.seating.part(whole, i) for i in range(self._num)]


def _filled(block: list[int], num: int) -> tuple[int, ...]:
    return tuple(block + block[-1:] * (num - len(block)))
