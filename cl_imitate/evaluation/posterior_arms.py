"""The learner posterior at work: it reads a recorded life, and it acts in closed loop where an imitator would.

Both are one walk. Reading, the actions are the learner's, and the world is lived again with the learner's own keys, so
that what came of them is all that the learner saw (the observation before a reset is not in a history). Acting, they
are drawn from the mixture.

A walk is of one block of learners, on one device: so the truth's bits are the learner's. Several devices walk with a
block each.

Axes: N streams, T steps, C chunks of steps, H hypotheses, P particles, K blocks of returns, V places.
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import keys, sharding
from cl_imitate.blocks import Blocks
from cl_imitate.evaluation import summary as summary_lib
from cl_imitate.evaluation.posterior_walk import Ensemble, Walk, World, advance, summary_of
from cl_imitate.evaluation.scene import Scene, Tick, again
from cl_imitate.imitators import learner_posterior as lib
from cl_imitate.populations import Population
from cl_imitate.types import History


class Lived(NamedTuple):
    """What reading lives tells."""

    log_loss: np.ndarray  # float32 [N, T]
    distance: np.ndarray  # float32 [N, T]
    weights: np.ndarray  # float32 [N, C, H]: the posterior on each hypothesis after every chunk of steps
    same: np.ndarray  # bool [N, P]: never told from a particle of the truth


def read(
    walk: Walk,
    population: Population,
    history: History,
    ensemble: Ensemble,
    *,
    act_keys: jax.Array,
    chunk_steps: int,
    keep_steps: tuple[int, ...] = (),
    tick: Tick,
) -> tuple[Lived, dict[int, Walk]]:
    """Read whole histories [N, T] of newborn learners; also the walk as it was at `keep_steps`. It is consumed.

    Raises:
      ValueError: the world, lived again, does not show what the history tells.
    """
    num, total = history.action.shape
    world = _world(population, ensemble, act_keys, population.streams.env)
    told, weights, kept = [], [], {}
    for first in range(0, total, chunk_steps):
        part = jax.tree.map(lambda leaf, at=first: jnp.asarray(leaf[:, at : at + chunk_steps]), history)
        walk, reading, posterior = advance(walk, part, world, population, ensemble, chunk_steps, chunk_steps)
        told.append(jax.tree.map(np.asarray, reading))
        if not told[-1].fits.all():
            raise ValueError(
                f"steps {first} to {first + chunk_steps}: the world, lived again, is not that of the histories. Usual "
                "cause: they are of another seed, or were made by another version."
            )
        weights.append(np.asarray(posterior).T)
        tick(num * chunk_steps)
        if first + chunk_steps in keep_steps:
            kept[first + chunk_steps] = jax.tree.map(jnp.copy, walk)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *told)
    lived = Lived(
        log_loss=whole.log_loss,
        distance=whole.distance,
        weights=np.stack(weights, axis=1),
        same=~np.asarray(walk.differs).T,
    )
    return lived, kept


class Acted(NamedTuple):
    """What acting in closed loop left."""

    returns: np.ndarray  # float32 [N, K]
    visits: np.ndarray  # int [N, V]
    weights: np.ndarray  # float32 [N, H]: the posterior at the end


def act(
    walk: Walk,
    population: Population,
    ensemble: Ensemble,
    scene: Scene,
    streams: np.ndarray,
    *,
    num_steps: int,
    tick: Tick,
) -> Acted:
    """The mixture's arm of a scene for some of its streams, int [N]: a new episode, with the keys that all arms share.

    `population` is those streams'. The walk is consumed.
    """
    env = population.family.env
    reset_keys = again(scene.reset_keys)[streams]
    env_state, obs = jax.vmap(env.reset)(reset_keys, population.env_params, walk.env_state)
    walk = walk.replace(
        posterior=lib.restart(ensemble.mixture, walk.posterior, obs),
        env_state=env_state,
        obs=obs,
        summary=summary_of(population, num_steps // scene.block_steps),
    )
    act_keys = keys.members(scene.act_key, scene.population.num_learners)[streams]
    world = _world(population, ensemble, act_keys, again(scene.env_keys)[streams])
    posterior = None
    for _ in range(0, num_steps, scene.chunk_steps):
        walk, _, posterior = advance(
            walk, None, world, population, ensemble, scene.chunk_steps, scene.block_steps
        )
        jax.block_until_ready(posterior)
        tick(population.num_learners * scene.chunk_steps)
    return Acted(
        returns=summary_lib.block_means(walk.summary),
        visits=np.asarray(walk.summary.visits),
        weights=np.asarray(posterior).T,
    )


def _world(population: Population, ensemble: Ensemble, act_keys: jax.Array, env_keys: jax.Array) -> World:
    return World(
        settings=ensemble.settings,
        replay_keys=ensemble.causes.replay,
        act_keys=act_keys,
        env_keys=env_keys,
        env_params=population.env_params,
        rates=population.rates,
    )


def by_block(
    num: int,
    size: int,
    one: Callable[[np.ndarray, int], Any],
    devices: sharding.Devices | None = None,
) -> list[Any]:
    """What `one` finds of the streams int [size] of each block, of which so many count: the last block is padded with
    its last stream.

    Blocks are dealt out to the devices (default: all local ones), which work side by side; no bit depends on how many
    there are.
    """
    dealt = Blocks(num, size, devices)

    def at(index: int) -> Any:
        streams = np.arange(index * size, (index + 1) * size)
        with jax.default_device(dealt.devices[index]):
            return one(np.minimum(streams, num - 1), min(size, num - index * size))

    return dealt.compute_and_wait(at)


def both(
    num_blocks: int, first: Callable[[sharding.Devices], Any], second: Callable[[sharding.Devices], Any]
) -> tuple[Any, Any]:
    """What two find that walk with so many blocks each. They are told on which devices: where the local ones have room
    for both, each has half of them and they work side by side, else one after the other on all."""
    if 2 * num_blocks > jax.local_device_count():
        return first(jax.local_devices()), second(jax.local_devices())
    here, there = sharding.halves()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        later = pool.submit(second, there)
        return first(here), later.result()
