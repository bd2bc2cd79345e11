"""Environments whose action values are known on sight: each option of the learner must find them.

After the probes of Andy Jones ("Debugging RL, without the agonizing pain") and of rejax's tests.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cl_imitate import config, keys, simulate
from cl_imitate.envs.base import Env, Spec, SymbolObservation, TimeStep
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.learners.q_networks import make_q_network

pytestmark = pytest.mark.unoptimised

DISCOUNT = 0.5


class Probe(NamedTuple):
    """next_symbol, reward, how a step ends (0 goes on, 1 terminated, 2 truncated): [symbol, action]."""

    next_symbol: list
    reward: list
    ends: list
    values: list  # the true action values
    starts: int = 1  # episodes start at a symbol below this


TERMINATES, GOES_ON, TRUNCATES = [[1, 1], [1, 1]], [[0, 0], [1, 1]], [[2, 2], [2, 2]]
PROBES = {
    "one step": Probe([[0, 0], [1, 1]], [[1, 1], [0, 0]], TERMINATES, [[1, 1], [None, None]]),
    "two steps and a discount": Probe([[1, 1], [1, 1]], [[0, 0], [1, 1]], GOES_ON, [[0.5, 0.5], [1, 1]]),
    "the reward depends on the action": Probe(
        [[0, 0], [1, 1]], [[-1, 1], [0, 0]], TERMINATES, [[-1, 1], [None, None]]
    ),
    "the right action depends on the observation": Probe(
        [[0, 0], [1, 1]], [[1, -1], [-1, 1]], TERMINATES, [[1, -1], [-1, 1]], starts=2
    ),
    "the best is found two steps ahead": Probe(
        [[1, 0], [0, 0]], [[0, 0.5], [1, 0]], [[0, 1], [1, 1]], [[0.5, 0.5], [1, 0]]
    ),
    "truncated, so the future counts": Probe(
        [[0, 0], [1, 1]], [[1, 1], [0, 0]], TRUNCATES, [[2, 2], [None, None]]
    ),
}


@struct.dataclass(kw_only=True)
class Params:
    next_symbol: jax.Array
    reward: jax.Array
    ends: jax.Array
    starts: jax.Array


def make_env() -> Env:
    def init(key, params):
        symbol = jax.random.randint(key, (), 0, params.starts)
        return symbol, symbol.astype(jnp.uint8)

    def step(key, params, symbol, action):
        after, ends = params.next_symbol[symbol, action], params.ends[symbol, action]
        start, _ = init(key, params)
        state = jnp.where(ends > 0, start, after)
        return state, TimeStep(
            obs=state.astype(jnp.uint8),
            reward=params.reward[symbol, action],
            terminated=ends == 1,
            truncated=ends == 2,
            final_obs=after.astype(jnp.uint8),
        )

    spec = Spec(
        observation=SymbolObservation(2),
        num_actions=2,
        reward_dtype="float32",
        can_truncate=True,
        episode_steps=None,
    )
    return Env(spec=spec, init=init, reset=lambda key, params, state: init(key, params), step=step)


ENV = make_env()
BASE = config.Learner(
    learning_rate=5e-3,
    discount=DISCOUNT,
    epsilon_start=1.0,
    epsilon_end=1.0,
    hidden=(16, 16),
    batch_size=16,
    replay_capacity=256,
    target_tau=0.1,
)
OPTIONS = {
    "plain": {},
    "double Q": {"double_q": True},
    "Huber": {"loss": "huber"},
    "centred RMSProp": {"optimiser": "rmsprop_centred", "learning_rate": 1e-3},
    "periodic target": {"target_period_updates": 20},
    "no replay": {"replay": "latest"},
    "two steps an update": {"steps_per_update": 2},
    "two updates a step": {"updates_per_iteration": 2},
    "a warm-up": {"learning_starts_steps": 40},
    "bfloat16 products": {"products": "bfloat16"},
}


@functools.cache
def learned(option: str) -> np.ndarray:
    """Action values [probe, symbol, action] after learning; a probe is a learner's task."""
    learner = dataclasses.replace(BASE, **OPTIONS[option])
    dqn = dqn_lib.make_dqn(learner, ENV.spec)
    num = len(PROBES)
    learner_keys = keys.members(keys.root(3), num)
    arrays = [
        [getattr(probe, name) for probe in PROBES.values()] for name in ("next_symbol", "ends", "starts")
    ]
    next_symbol, ends, starts = (jnp.asarray(values, jnp.int32) for values in arrays)
    reward = jnp.asarray([probe.reward for probe in PROBES.values()], jnp.float32)
    params = Params(next_symbol=next_symbol, reward=reward, ends=ends, starts=starts)
    ensemble = simulate.init_ensemble(learner_keys, params, env=ENV, dqn=dqn)
    for ensemble, _ in simulate.advance(
        ensemble,
        simulate.make_streams(learner_keys),
        params,
        dqn_lib.hyperparams(learner, num),
        env=ENV,
        dqn=dqn,
        learner=learner,
        num_steps=2000,
        chunk_steps=40,
        block_size=num,
    ):
        pass
    network = make_q_network(ENV.spec, hidden=learner.hidden, conv_features=learner.conv_features)
    symbols = jnp.arange(2, dtype=jnp.uint8)
    assert ensemble is not None
    return np.asarray(jax.vmap(network.apply, (0, None))(ensemble.learner.params, symbols))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_learner_finds_the_values(option):
    values = learned(option)
    for found, (name, probe) in zip(values, PROBES.items(), strict=True):
        expected = np.array(probe.values, float)
        known = ~np.isnan(expected)
        np.testing.assert_allclose(found[known], expected[known], atol=0.06, err_msg=name)
