"""Whose hidden causes an imitator is shown: a population's, made again from its keys. See `causes` for what is shown.

**Seed.** A learner's initialisation is shown as what it does: the action values of the untrained network on every
symbol, less their mean over actions (only differences act), multiplied by one random matrix, the same in all runs. The
bits of the key would name it exactly and tell nothing, for no learner that is met has a key seen before; these numbers
are alike for learners that begin alike, so what is learned from recorded learners holds for others. They do not tell
the hidden layer: two networks of equal values can learn differently.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, keys, populations
from cl_imitate.learners.q_networks import make_q_network
from cl_imitate.populations import Population
from cl_imitate.types import NUM_SEED_FEATURES, Causes, History, ReplayTimes, Spec, SymbolObservation


def replay_times(learner: config.Learner) -> ReplayTimes:
    """When learners of this config update, and from what they draw."""
    return ReplayTimes(
        starts_steps=learner.learning_starts_steps,
        every_steps=learner.steps_per_update,
        capacity=learner.replay_capacity,
        batch_size=learner.batch_size,
        kind=learner.replay,
    )


def causes_of(population: Population, imitator: config.Imitator) -> Causes | None:
    """What the imitator is shown of these learners' causes, on the host; None: no more than their coins."""
    if not imitator.shows("replay"):
        return None
    seed = None
    if imitator.shows("seed"):
        spec = population.family.env.spec
        seed = np.asarray(_seed_features(population.learner_keys, learner=population.learner, spec=spec))
    return Causes(
        replay_key_data=np.asarray(jax.random.key_data(population.streams.replay)),  # pyright: ignore
        seed=seed,  # pyright: ignore[reportArgumentType]
        times=replay_times(population.learner),
    )


def show(history: History, name: str, experiment: config.Experiment) -> History:
    """The history [N, T] of the population `name`, with what the imitator is shown of its causes."""
    if not experiment.imitator.shows("replay"):
        return history
    return history.replace(causes=causes_of(populations.make(name, experiment), experiment.imitator))


@functools.partial(jax.jit, static_argnames=("learner", "spec"))
def _seed_features(learner_keys: jax.Array, *, learner: config.Learner, spec: Spec) -> jax.Array:
    """float32 [N, NUM_SEED_FEATURES]."""
    assert isinstance(spec.observation, SymbolObservation)  # `load_config` lets no other family through
    network = make_q_network(
        spec, hidden=learner.hidden, conv_features=learner.conv_features, products=learner.products
    )
    symbols = jnp.arange(spec.observation.num_symbols, dtype=jnp.uint8)
    shape = (symbols.size * spec.num_actions, NUM_SEED_FEATURES)
    projection = jax.random.normal(keys.stream(keys.root(0), keys.Stream.SEEN), shape) / jnp.sqrt(
        1.0 * shape[0]
    )

    def one(key):
        values = network.apply(network.init(keys.stream(key, keys.Stream.LEARNER_INIT)), symbols)
        return (values - jnp.mean(values, axis=1, keepdims=True)).reshape(-1)

    return jax.vmap(one)(learner_keys) @ projection
