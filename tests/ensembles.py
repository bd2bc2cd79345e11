"""A tiny ensemble for the tests of learners, simulation and arms; compiled once a session."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, keys, simulate
from cl_imitate.envs import tasks
from cl_imitate.learners import dqn as dqn_lib

SHAPES = config.Shapes(num_symbols=8, num_actions=3, num_states=8)
ENVIRONMENT = config.Lock(num_positions=4, episode_steps=8)
LEARNER = config.Learner(
    learning_rate=5e-3, discount=0.5, hidden=(8,), batch_size=8, replay_capacity=64, epsilon_start=0.3
)


BLOCK_SIZE = 2


class Group(NamedTuple):
    """N learners and what they run with."""

    family: tasks.Family
    dqn: dqn_lib.DQN
    learner: config.Learner
    keys: jax.Array
    streams: simulate.Streams
    env_params: Any
    rates: dqn_lib.DQNHyperparams

    def newborn(self) -> simulate.Ensemble:
        return simulate.init_ensemble(self.keys, self.env_params, env=self.family.env, dqn=self.dqn)

    def advance(self, ensemble, num_steps, *, chunk_steps, **options):
        """Chunk by chunk."""
        return simulate.advance(
            ensemble,
            self.streams,
            self.env_params,
            self.rates,
            env=self.family.env,
            dqn=self.dqn,
            learner=self.learner,
            num_steps=num_steps,
            chunk_steps=chunk_steps,
            **{"block_size": BLOCK_SIZE, **options},
        )

    def live(self, ensemble, num_steps, *, chunk_steps, **options):
        """The ensemble after `num_steps`, and the history on the host."""
        parts = []
        for ensemble, history in self.advance(ensemble, num_steps, chunk_steps=chunk_steps, **options):
            parts.append(jax.tree.map(np.asarray, history))
        return ensemble, jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


@functools.cache
def group(num_learners: int, learner: config.Learner = LEARNER, environment=ENVIRONMENT) -> Group:
    family = tasks.make(environment, shapes=SHAPES)
    learner_keys = keys.members(keys.root(7), num_learners)
    return Group(
        family=family,
        dqn=dqn_lib.make_dqn(learner, family.env.spec),
        learner=learner,
        keys=learner_keys,
        streams=simulate.make_streams(learner_keys),
        env_params=jax.vmap(family.sample)(learner_keys),
        rates=dqn_lib.hyperparams(learner, num_learners),
    )


def assert_same(first: Any, second: Any) -> None:
    """Bit-equal pytrees."""
    one, two = jax.tree.leaves(first), jax.tree.leaves(second)
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)
