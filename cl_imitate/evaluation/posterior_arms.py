"""The learner posterior at work: it reads a recorded life, and it acts in closed loop where an imitator would.

Both are one walk. Reading, the actions are the learner's, and the world is lived again with the learner's own keys, so
that what came of them is all that the learner saw (the observation before a reset is not in a history). Acting, they
are drawn from the mixture. In both, every particle goes on learning, and every action is evidence.

A walk is of one block of learners, on one device: so the truth's bits are the learner's (`imitators.learner_posterior`).

Axes: N streams, T steps, H hypotheses, P particles, A actions, K blocks of returns.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate import keys, simulate
from cl_imitate.envs.base import Env
from cl_imitate.evaluation import summary as summary_lib
from cl_imitate.evaluation.scene import Scene, Tick, again
from cl_imitate.evaluation.summary import Summary
from cl_imitate.imitators import learner_posterior as lib
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.populations import Population
from cl_imitate.types import History

SAME_POLICY = 1e-6
"""Hypotheses whose action probabilities never differ by more are one, for all that a stream can tell."""


class Ensemble(NamedTuple):
    """A mixture, how it is weighed, and what an observer does not see of the learners of its particles."""

    mixture: lib.Mixture
    settings: lib.Settings
    causes: lib.Causes  # keys [P, N]
    truth: int  # which hypothesis the observed learners are
    power: float = 1.0  # of the likelihood
    resample_below: float = 0.0  # of the effective size; 0: never

    def members(self, index: np.ndarray) -> "Ensemble":
        """The same for some of the streams, int [n]."""
        return self._replace(causes=jax.tree.map(lambda leaf: leaf[:, index], self.causes))


@struct.dataclass(kw_only=True)
class Walk:
    """The carry."""

    posterior: lib.Posterior
    env_state: Any  # [N, ...]
    obs: jax.Array  # [N, ...]
    differs: jax.Array  # bool [P, N]: this particle would at some step have acted otherwise than the truth
    summary: Summary  # of what was acted


@struct.dataclass(kw_only=True)
class World:
    """What stays the same during a walk."""

    settings: lib.Settings
    replay_keys: jax.Array  # [P, N]
    act_keys: jax.Array  # [N]
    env_keys: jax.Array  # [N]
    env_params: Any  # [N, ...]
    rates: dqn_lib.DQNHyperparams  # [N]: the observed learner's own


@struct.dataclass(kw_only=True)
class Reading:
    """What a step of reading tells, [N]."""

    log_loss: jax.Array  # nats: of the learner's action under the mixture
    distance: jax.Array  # total variation to the learner's own policy; NaN where it explored, which hides it


class _Program(NamedTuple):
    """What is static of a walk."""

    mixture: lib.Mixture
    env: Env
    truth: int  # a particle of the truth
    power: float
    resample_below: float
    block_steps: int


def _step(
    walk: Walk, taken: History | None, world: World, *, program: _Program, mode: simulate.Mode
) -> tuple[Walk, Reading]:
    """One step of every stream; `taken` is what the learner did [N], or None: the mixture acts."""
    mixture, env, step = program.mixture, program.env, walk.posterior.step
    policy = lib.policies(mixture, walk.posterior, world.settings, walk.obs)
    if mode == "warm_up":
        policy = jnp.full_like(policy, 1.0 / env.spec.num_actions)
    log_mixture = lib.log_mixture(walk.posterior.log_weights, policy)
    if taken is None:
        draw = jax.vmap(lambda key, logits: jax.random.categorical(keys.at_step(key, step), logits))
        action = draw(world.act_keys, log_mixture).astype(jnp.int32)
    else:
        action = taken.action.astype(jnp.int32)
    move = jax.vmap(lambda key, *rest: env.step(keys.at_step(key, step), *rest))
    env_state, timestep = move(world.env_keys, world.env_params, walk.env_state, action)
    likelihood = jnp.take_along_axis(policy, action[None, :, None], axis=2)[..., 0]
    posterior = walk.posterior.replace(
        log_weights=lib.weigh(walk.posterior.log_weights, likelihood, power=program.power)
    )
    posterior = lib.observe(
        mixture,
        posterior,
        obs=timestep.obs,
        action=action,
        reward=timestep.reward,
        terminated=timestep.terminated,
        final_obs=timestep.final_obs,
    )
    reading = Reading(
        log_loss=-jnp.take_along_axis(log_mixture, action[:, None], axis=1)[:, 0],
        distance=_distance(log_mixture, taken, step, world, mixture),
    )
    added = summary_lib.add(
        walk.summary,
        reward=timestep.reward,
        done=timestep.terminated | timestep.truncated,
        cross_entropy=jnp.zeros(action.shape, jnp.float32),
        place=summary_lib.place(env.spec, walk.obs, action),
        block_steps=program.block_steps,
    )
    own = policy[program.truth][None]
    walk = Walk(
        posterior=posterior,
        env_state=env_state,
        obs=timestep.obs,
        differs=walk.differs | (jnp.max(jnp.abs(policy - own), axis=2) > SAME_POLICY),
        summary=added,
    )
    return walk, reading


def _distance(log_mixture, taken: History | None, step, world: World, mixture: lib.Mixture) -> jax.Array:
    """Total variation [N] to the policy of a learner that acted greedily, and so showed what it was."""
    if taken is None:
        return jnp.zeros(log_mixture.shape[0], jnp.float32)
    num_actions = log_mixture.shape[1]
    learning_step = jnp.maximum(step - mixture.learner.learning_starts_steps, 0)
    epsilon = jax.vmap(lambda rates: dqn_lib.epsilon_at(rates, learning_step))(world.rates)[:, None]
    own = epsilon / num_actions + (1.0 - epsilon) * jax.nn.one_hot(taken.action, num_actions)
    distance = 0.5 * jnp.sum(jnp.abs(jnp.exp(log_mixture) - own), axis=1)
    return jnp.where(taken.explored, jnp.nan, distance)


@functools.partial(jax.jit, static_argnames=("program", "num_steps", "mode"), donate_argnames=("walk",))
def _run(
    walk: Walk,
    taken: History | None,
    world: World,
    *,
    program: _Program,
    num_steps: int,
    mode: simulate.Mode,
) -> tuple[Walk, Reading, jax.Array]:
    """`num_steps` steps, the reading of each [N, num_steps], and the posterior on each hypothesis after them [H, N].

    `taken` [N, num_steps]. The walk is donated.
    """
    learner = program.mixture.learner
    step = functools.partial(_step, world=world, program=program, mode=mode)

    def iteration(carry, taken):
        carry, told = jax.lax.scan(step, carry, taken, learner.steps_per_update)
        posterior = carry.posterior
        if mode == "learn":
            for _ in range(learner.updates_per_iteration):
                posterior = lib.learn(program.mixture, posterior, world.settings, world.replay_keys)
        if program.resample_below:
            draws = jax.vmap(lambda key: _resample_key(key, posterior.step))(world.act_keys)
            posterior = lib.resample(program.mixture, posterior, draws, below=program.resample_below)
        return carry.replace(posterior=posterior), told

    def in_order(leaf):  # [N, num_steps, ...] -> [iterations, steps of each, N, ...]
        return jnp.moveaxis(leaf, 1, 0).reshape(-1, learner.steps_per_update, leaf.shape[0], *leaf.shape[2:])

    num_iterations = num_steps // learner.steps_per_update
    walk, told = jax.lax.scan(iteration, walk, jax.tree.map(in_order, taken), num_iterations)
    told = jax.tree.map(lambda leaf: leaf.reshape(num_steps, -1).T, told)
    return walk, told, lib.by_hypothesis(program.mixture, walk.posterior)


def _resample_key(act_key: jax.Array, step: jax.Array) -> jax.Array:
    return keys.at_step(keys.stream(act_key, keys.Stream.FRESH), step)


class Lived(NamedTuple):
    """What reading lives tells."""

    log_loss: np.ndarray  # float32 [N, T]
    distance: np.ndarray  # float32 [N, T]
    weights: np.ndarray  # float32 [N, C, H]: the posterior on each hypothesis after every chunk of steps
    same: np.ndarray  # bool [N, P]: never told from a particle of the truth


def begin(population: Population, ensemble: Ensemble, log_prior: np.ndarray) -> Walk:
    """A walk at the start of the learners' lives; `log_prior` [N, H]."""
    newborn, spec = population.newborn(), population.family.env.spec
    causes = jax.tree.map(jax.random.clone, ensemble.causes)
    prior = jnp.asarray(log_prior.T, jnp.float32)
    posterior = _init(causes, newborn.obs, prior, mixture=ensemble.mixture)
    return Walk(
        posterior=posterior,
        env_state=newborn.env_state,
        obs=newborn.obs,
        differs=jnp.zeros(posterior.log_weights.shape, bool),
        summary=_summary(population, 1),
    )


@functools.partial(jax.jit, static_argnames="mixture")
def _init(causes, obs, log_prior, *, mixture: lib.Mixture) -> lib.Posterior:
    return lib.init(mixture, causes, obs, log_prior)


def _summary(population: Population, num_blocks: int) -> Summary:
    num_places = summary_lib.num_places(population.family.env.spec)
    return summary_lib.init((population.num_learners,), num_blocks=num_blocks, num_places=num_places)


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
        if not np.array_equal(np.asarray(walk.obs), np.asarray(part.obs[:, 0])):
            raise ValueError(
                f"step {first}: the world, lived again, shows other observations than the histories tell of. They are "
                "of another seed, or were made by another version."
            )
        walk, reading, posterior = _advance(walk, part, world, population, ensemble, chunk_steps, chunk_steps)
        told.append(jax.tree.map(np.asarray, reading))
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
        summary=_summary(population, num_steps // scene.block_steps),
    )
    act_keys = keys.members(scene.act_key, scene.population.num_learners)[streams]
    world = _world(population, ensemble, act_keys, again(scene.env_keys)[streams])
    posterior = None
    for _ in range(0, num_steps, scene.chunk_steps):
        walk, _, posterior = _advance(
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


def _advance(
    walk: Walk,
    taken: History | None,
    world: World,
    population: Population,
    ensemble: Ensemble,
    num_steps: int,
    block_steps: int,
) -> tuple[Walk, Reading, jax.Array]:
    mixture = ensemble.mixture
    mode = "learn" if int(walk.posterior.step) >= mixture.learner.learning_starts_steps else "warm_up"
    program = _Program(
        mixture=mixture,
        env=population.family.env,
        truth=int(np.flatnonzero(mixture.hypothesis_of == ensemble.truth)[0]),
        power=ensemble.power,
        resample_below=ensemble.resample_below,
        block_steps=block_steps,
    )
    return _run(walk, taken, world, program=program, num_steps=num_steps, mode=mode)


def blocks(num: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Streams int [size] of each block and how many of them count: the last block is padded with its last stream."""
    for first in range(0, num, size):
        yield np.minimum(np.arange(first, first + size), num - 1), min(size, num - first)
