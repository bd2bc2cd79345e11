"""Bandit: Bernoulli arms with hidden probabilities; with several contexts, one is shown and drawn anew each step.

Probabilities lie on a lattice of 256 levels. Held-out are the bandits whose levels sum to 0 modulo 8: an eighth, with
the same uniform distribution of each arm.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.config import Bandit, Shapes
from cl_imitate.envs.splits import Split, with_digit_sum
from cl_imitate.envs.tabular import Layout, TabularParams, make_params

NUM_LEVELS = 256
HELD_OUT_MODULUS = 8


@struct.dataclass(kw_only=True)
class BanditTask:
    """What is hidden."""

    levels: jax.Array  # int32 [contexts, A]: an arm pays with probability (level + 0.5) / 256

    @property
    def probability(self) -> jax.Array:
        return (self.levels.astype(jnp.float32) + 0.5) / NUM_LEVELS


def layout(config: Bandit, shapes: Shapes) -> Layout:
    """One state a context; the next context is one of as many outcomes."""
    return Layout(
        family="bandit",
        num_states=config.num_contexts,
        num_symbols=config.num_contexts,
        num_family_symbols=config.num_contexts,
        mirrored=tuple(reversed(range(config.num_contexts))),
        num_outcomes=config.num_contexts,
    ).check(shapes)


def sample_task(key: jax.Array, config: Bandit, shapes: Shapes, split: Split) -> BanditTask:
    """Levels uniform over the split's."""
    level_key, sum_key = jax.random.split(key)
    shape = (config.num_contexts, shapes.num_actions)
    levels = jax.random.randint(level_key, shape, 0, NUM_LEVELS)
    return BanditTask(levels=with_digit_sum(sum_key, levels.ravel(), HELD_OUT_MODULUS, split).reshape(shape))


def tabulate(task: BanditTask, config: Bandit, shapes: Shapes) -> TabularParams:
    """Contexts as states; an episode's first context is uniform too."""
    shape = (config.num_contexts, shapes.num_actions, config.num_contexts)
    return make_params(
        shapes=shapes,
        next_state=jnp.broadcast_to(jnp.arange(config.num_contexts), shape),
        outcome_probability=jnp.full(shape, 1.0 / config.num_contexts),
        reward_probability=jnp.broadcast_to(task.probability[..., None], shape),
        observation=jnp.arange(config.num_contexts),
        num_start_states=config.num_contexts,
        horizon_steps=config.episode_steps,
    )
