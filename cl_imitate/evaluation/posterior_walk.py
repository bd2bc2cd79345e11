"""One walk of a mixture of learners along a stream: the programs behind reading a life and acting in one.

In both, every particle goes on learning, and every action is evidence.

Axes: N streams, T steps, H hypotheses, P particles, A actions.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate import keys, simulate
from cl_imitate.envs.base import Env
from cl_imitate.evaluation import summary as summary_lib
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
    causes: lib.Causes
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
    replay_keys: tuple[jax.Array, ...]  # [G, N] of each group
    act_keys: jax.Array  # [N]
    env_keys: jax.Array  # [N]
    env_params: Any  # [N, ...]
    rates: dqn_lib.DQNHyperparams  # [N]: the observed learner's own


@struct.dataclass(kw_only=True)
class Reading:
    """What a step of reading tells, [N]."""

    log_loss: jax.Array  # nats: of the learner's action under the mixture
    distance: jax.Array  # total variation to the learner's own policy; NaN where it explored, which hides it
    fits: jax.Array  # bool: the world shows what the history tells


class _Program(NamedTuple):
    """What is static of a walk."""

    mixture: lib.Mixture
    env: Env
    truth: int  # a particle of the truth
    power: float
    resample_below: float
    block_steps: int


def begin(population: Population, ensemble: Ensemble, log_prior: np.ndarray) -> Walk:
    """A walk at the start of the learners' lives; `log_prior` [N, H]."""
    newborn = population.newborn()
    causes = jax.tree.map(jax.random.clone, ensemble.causes)
    prior = jnp.asarray(log_prior.T, jnp.float32)
    posterior = _init(causes, newborn.obs, prior, mixture=ensemble.mixture)
    return Walk(
        posterior=posterior,
        env_state=newborn.env_state,
        obs=newborn.obs,
        differs=jnp.zeros(posterior.log_weights.shape, bool),
        summary=summary_of(population, 1),
    )


@functools.partial(jax.jit, static_argnames="mixture")
def _init(causes, obs, log_prior, *, mixture: lib.Mixture) -> lib.Posterior:
    return lib.init(mixture, causes, obs, log_prior)


def summary_of(population: Population, num_blocks: int) -> Summary:
    """An empty summary of a population's streams."""
    num_places = summary_lib.num_places(population.family.env.spec)
    return summary_lib.init((population.num_learners,), num_blocks=num_blocks, num_places=num_places)


def advance(
    walk: Walk,
    taken: History | None,
    world: World,
    population: Population,
    ensemble: Ensemble,
    num_steps: int,
    block_steps: int,
) -> tuple[Walk, Reading, jax.Array]:
    """`num_steps` steps of a walk, as `_run` tells them; it is consumed."""
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
        fits=_fits(walk.obs, timestep.reward, taken),
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


def _fits(obs: jax.Array, reward: jax.Array, taken: History | None) -> jax.Array:
    if taken is None:
        return jnp.ones(reward.shape, bool)
    same_obs = (obs == taken.obs).reshape(obs.shape[0], -1).all(axis=1)
    return same_obs & (reward.astype(taken.reward.dtype) == taken.reward)


def _resample_key(act_key: jax.Array, step: jax.Array) -> jax.Array:
    return keys.at_step(keys.stream(act_key, keys.Stream.FRESH), step)
