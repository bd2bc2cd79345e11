"""The target continual learner: a deep Q-network, written for ONE learner.

Source: Mnih et al. (2015); van Hasselt et al. (2016) for double Q; Young & Tian (2019) for the setting on
MinAtar. We differ in that a target may follow by Polyak averaging, replay may be the latest transitions in
order (nothing random), and replay samples with replacement.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cl_imitate import config
from cl_imitate.learners import replay as replay_lib
from cl_imitate.learners import td
from cl_imitate.learners.q_networks import QNetwork, make_q_network
from cl_imitate.learners.rmsprop import scale_by_centred_rms
from cl_imitate.types import Spec, Transition


@struct.dataclass(kw_only=True)
class DQNState:
    """All that a learner is, but for the counters that an ensemble shares."""

    params: Any
    target_params: Any
    opt_state: Any
    rows: jax.Array  # replay, uint8 [capacity, row bytes]


@struct.dataclass(kw_only=True)
class DQNHyperparams:
    """The rates: float32 [] for one learner, [N] for an ensemble."""

    learning_rate: jax.Array
    discount: jax.Array
    epsilon_start: jax.Array
    epsilon_end: jax.Array
    epsilon_decay_steps: jax.Array
    target_tau: jax.Array


class DQN(NamedTuple):
    """Pure functions of one learner.

    init(key, obs) -> DQNState.
    newborn(key) -> (params, opt_state) of `init`; one function for all learners that begin alike.
    policy(state, hyperparams, obs, step) -> action probabilities [A].
    act(key, state, hyperparams, obs, step) -> (action int32 [], explored bool []).
    update(key, state, hyperparams, cursor) -> (DQNState, loss []): one gradient step, the target network
      moved by Polyak averaging or left alone.
    sync(state) -> DQNState: the target network copied.
    replay: the ring's functions (`Replay`).
    """

    init: Callable
    newborn: Callable
    policy: Callable
    act: Callable
    update: Callable
    sync: Callable
    replay: replay_lib.Replay


def hyperparams(learner: config.Learner, num_learners: int) -> DQNHyperparams:
    """The rates of a config, the same for each of `num_learners` learners, float32 [N]."""
    return DQNHyperparams(
        **{
            name: jnp.full((num_learners,), getattr(learner, name), jnp.float32)
            for name in DQNHyperparams.__dataclass_fields__
        }
    )


def without_rates(learner: config.Learner) -> config.Learner:
    """The config with every rate at its default: equal for all learners that one compiled program serves."""
    defaults = {field.name: field.default for field in dataclasses.fields(learner)}
    return dataclasses.replace(
        learner, **{name: defaults[name] for name in DQNHyperparams.__dataclass_fields__}
    )


def epsilon_at(rates: DQNHyperparams, step: jax.Array) -> jax.Array:
    """Epsilon after `step` steps of learning: linear from start to end, then constant."""
    done = jnp.clip(step.astype(jnp.float32) / rates.epsilon_decay_steps, 0.0, 1.0)
    return rates.epsilon_start + (rates.epsilon_end - rates.epsilon_start) * done


def hold_epsilon(rates: DQNHyperparams, step: jax.Array) -> DQNHyperparams:
    """Rates whose epsilon stays what it is at `step`."""
    epsilon = epsilon_at(rates, step)
    return rates.replace(epsilon_start=epsilon, epsilon_end=epsilon)


def make_optimiser(name: str) -> optax.GradientTransformation:
    """The direction of a step; the learning rate, a leaf, is applied by `update`."""
    if name == "adam":
        return optax.scale_by_adam()
    return scale_by_centred_rms(decay=0.95, eps=0.01)


def make_dqn(learner: config.Learner, spec: Spec) -> DQN:
    """The learner that `learner` describes, for environments of `spec`. Its rates, which are leaves, do not matter."""
    return _make_dqn(without_rates(learner), spec)


@functools.cache
def _make_dqn(learner: config.Learner, spec: Spec) -> DQN:
    network, optimiser, newborn = _make_parts(
        spec, learner.hidden, learner.conv_features, learner.products, learner.optimiser
    )
    replay = replay_lib.make_replay(
        spec, capacity=learner.replay_capacity, batch_size=learner.batch_size, kind=learner.replay
    )
    loss_of_error = td.huber_loss if learner.loss == "huber" else td.squared_loss

    def init(key, obs):
        params, opt_state = newborn(key)
        return DQNState(
            params=params,
            target_params=jax.tree.map(jnp.copy, params),
            opt_state=opt_state,
            rows=replay.init(obs),
        )

    def policy(state, rates, obs, step):
        epsilon = epsilon_at(rates, step)
        greedy = jax.nn.one_hot(jnp.argmax(network.apply(state.params, obs)), spec.num_actions)
        return epsilon / spec.num_actions + (1.0 - epsilon) * greedy

    def act(key, state, rates, obs, step):
        coin_key, action_key = jax.random.split(key)
        explored = jax.random.uniform(coin_key) < epsilon_at(rates, step)
        random_action = jax.random.randint(action_key, (), 0, spec.num_actions)
        greedy_action = jnp.argmax(network.apply(state.params, obs)).astype(jnp.int32)
        return jnp.where(explored, random_action, greedy_action), explored

    def loss(params, target_params, rates, batch: Transition, weight):
        q_tm1 = network.apply(params, batch.obs)
        q_target = network.apply(target_params, batch.next_obs)
        q_selector = network.apply(params, batch.next_obs) if learner.double_q else q_target
        discount = rates.discount * (1.0 - batch.terminated.astype(jnp.float32))
        error = jax.vmap(td.q_learning_error)(
            q_tm1, batch.action, batch.reward, discount, q_target, jax.lax.stop_gradient(q_selector)
        )
        return jnp.sum(weight * loss_of_error(error)) / jnp.maximum(jnp.sum(weight), 1.0)

    def update(key, state, rates, cursor):
        batch, weight = replay.sample(key, state.rows, cursor)
        value, grads = jax.value_and_grad(loss)(state.params, state.target_params, rates, batch, weight)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts
            direction, opt_state = optimiser.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, d: p - rates.learning_rate * d, state.params, direction)
        target_params = state.target_params
        if learner.target_period_updates == 0:
            target_params = jax.tree.map(
                lambda old, new: old + rates.target_tau * (new - old), target_params, params
            )
        state = state.replace(params=params, target_params=target_params, opt_state=opt_state)
        return state, value

    def sync(state):
        return state.replace(target_params=jax.tree.map(jnp.copy, state.params))

    return DQN(init=init, newborn=newborn, policy=policy, act=act, update=update, sync=sync, replay=replay)


@functools.cache
def _make_parts(
    spec: Spec, hidden: tuple[int, ...], conv_features: int, products: config.Products, optimiser_name: str
) -> tuple[QNetwork, optax.GradientTransformation, Callable]:
    """A network, its optimiser, and both at random initialisation: shared by all learners that these describe."""
    network = make_q_network(spec, hidden=hidden, conv_features=conv_features, products=products)
    optimiser = make_optimiser(optimiser_name)

    def newborn(key):
        params = network.init(key)
        return params, optimiser.init(params)

    return network, optimiser, newborn
