"""How many learners are best computed together on this machine: on a CPU by a short measurement, else all.

A large block gives a GPU enough to do at once; on a CPU a small one stays in the cache. A learner's bits depend on
the block size, so what was picked belongs to the run.
"""

import functools
import time

import jax
import numpy as np

from cl_imitate import sharding, simulate
from cl_imitate.blocks import Blocks
from cl_imitate.populations import Population

_MAX_STEPS = 256
_REPETITIONS = 3


def candidates(num_learners: int, num_devices: int) -> tuple[int, ...]:
    """Sizes to try: powers of four, up to what leaves every device a block, and that itself.

    Off the CPU only the last: smaller blocks leave an accelerator waiting for the next launch (on an H100, a step of
    64 learners takes 0.37 of the time of 256, and one of 8 takes 0.35 of the time of 64).
    """
    if jax.default_backend() != "cpu":
        return (-(-num_learners // num_devices),)
    most = max(1, num_learners // num_devices)
    return tuple(sorted({4**n for n in range(10) if 4**n < most} | {most}))


def choose(population: Population, *, chunk_steps: int) -> tuple[int, dict[int, float]]:
    """The block size, and what was measured to pick it; nothing is measured where there is no choice."""
    sizes = candidates(population.num_learners, jax.device_count())
    if len(sizes) == 1:
        return sizes[0], {}
    rates = measure(population, chunk_steps=chunk_steps)
    return pick(rates), rates


def measure(population: Population, *, chunk_steps: int) -> dict[int, float]:
    """Learner-steps a second, TD updates included, for every candidate block size.

    Each is compiled, run once, and then timed in turn with the others; the fastest of three counts. Nothing of
    it enters the run.
    """
    num_devices = len(jax.local_devices())
    num_steps = simulate.chunk_plan((chunk_steps,), population.learner, at_most=_MAX_STEPS)
    trials = {
        size: _Trial(population, size, num_devices, num_steps)
        for size in candidates(population.num_learners, jax.device_count())
    }
    rounds = [{size: trial.seconds() for size, trial in trials.items()} for _ in range(1 + _REPETITIONS)]
    return {size: size * num_devices * num_steps / min(one[size] for one in rounds[1:]) for size in trials}


def pick(rates: dict[int, float]) -> int:
    """The smallest block that is within 5% of the fastest: nearer together than that, a measurement is a coin."""
    return min(size for size, rate in rates.items() if rate >= 0.95 * max(rates.values()))


class _Trial:
    """One block a device, living on and on."""

    def __init__(self, population: Population, size: int, num_devices: int, num_steps: int):
        some = population.members(np.arange(size * num_devices) % population.num_learners)
        self._blocks = Blocks(some.num_learners, size)
        self._ensembles = self._blocks.split(some.newborn(), simulate.SPECS)
        trees = (some.streams, some.env_params, some.rates)
        rest = list(zip(*(self._blocks.split(tree, sharding.SPLIT) for tree in trees), strict=True))
        static = {**population.program, "num_steps": num_steps}
        self._live = functools.partial(simulate.live_block, self._ensembles, rest, mode="learn", **static)

    def seconds(self) -> float:
        start = time.perf_counter()
        jax.block_until_ready((self._blocks.compute(self._live), self._ensembles))
        return time.perf_counter() - start
