"""Random MDP: random transitions to a few outcomes each, random Bernoulli rewards of state and action.

After Duan et al. 2016, "RL^2" (tabular MDPs); here each state and action has a few possible next states, with
probabilities uniform on the simplex, and rewards are 0 or 1, with probabilities on a lattice of 256 levels. Held-out
are the MDPs whose levels sum to 0 modulo 8.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.config import RandomMDP, Shapes
from cl_imitate.envs.splits import Split, with_digit_sum
from cl_imitate.envs.tabular import Layout, TabularParams, make_params

NUM_LEVELS = 256
HELD_OUT_MODULUS = 8


@struct.dataclass(kw_only=True)
class RandomMDPTask:
    """What is hidden."""

    levels: jax.Array  # int32 [S, A]: pays with probability (level + 0.5) / 256
    next_state: jax.Array  # int32 [S, A, O]
    outcome_probability: jax.Array  # float32 [S, A, O]


def layout(config: RandomMDP, shapes: Shapes) -> Layout:
    """States are shown as they are; every episode starts in state 0."""
    return Layout(
        family="random_mdp",
        num_states=config.num_states,
        num_symbols=config.num_states,
        num_family_symbols=config.num_states,
        mirrored=tuple(reversed(range(config.num_states))),
        num_start_choices=config.num_states,
        num_outcomes=config.num_outcomes,
    ).check(shapes)


def sample_task(key: jax.Array, config: RandomMDP, shapes: Shapes, split: Split) -> RandomMDPTask:
    """Reward levels uniform over the split's; transitions are independent of the split."""
    level_key, sum_key, state_key, probability_key = jax.random.split(key, 4)
    shape = (config.num_states, shapes.num_actions)
    outcomes = (*shape, config.num_outcomes)
    levels = jax.random.randint(level_key, shape, 0, NUM_LEVELS)
    weight = jax.random.exponential(probability_key, outcomes)  # normalised: uniform on the simplex
    return RandomMDPTask(
        levels=with_digit_sum(sum_key, levels.ravel(), HELD_OUT_MODULUS, split).reshape(shape),
        next_state=jax.random.randint(state_key, outcomes, 0, config.num_states),
        outcome_probability=weight / weight.sum(axis=-1, keepdims=True),
    )


def tabulate(task: RandomMDPTask, config: RandomMDP, shapes: Shapes) -> TabularParams:
    """Nearly a table already."""
    probability = (task.levels.astype(jnp.float32) + 0.5) / NUM_LEVELS
    return make_params(
        shapes=shapes,
        next_state=task.next_state,
        outcome_probability=task.outcome_probability,
        reward_probability=jnp.broadcast_to(probability[..., None], task.next_state.shape),
        observation=jnp.arange(config.num_states),
        horizon_steps=config.episode_steps,
    )
