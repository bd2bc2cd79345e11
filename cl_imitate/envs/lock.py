"""Lock: a ring of positions, each with one right action, which is hidden.

The right action pays 1 and moves on; a wrong one stays, moves on unpaid, or goes back to position 0. The position
is shown as a symbol. There are A^K tasks; held-out are those whose code sums to 0 modulo A. The perfect policy
earns 1 a step.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.config import Lock, Shapes
from cl_imitate.envs.splits import Split, with_digit_sum
from cl_imitate.envs.tabular import Layout, TabularParams, make_params


@struct.dataclass(kw_only=True)
class LockTask:
    """What is hidden."""

    code: jax.Array  # int32 [K]: the right action at each position
    symbols: jax.Array  # int32 [K]: what each position shows, all different


def layout(config: Lock, shapes: Shapes) -> Layout:
    """K states, K symbols (all of the vocabulary's, over tasks, if they are drawn for each task)."""
    num_positions = config.num_positions
    if config.initial_positions > num_positions:
        raise ValueError(
            f"lock: initial_positions = {config.initial_positions}; allowed: 0 to num_positions = {num_positions}. "
            f"Fix: num_positions is what the ring grows to; raise it."
        )
    if config.grow_every_steps and not config.initial_positions:
        raise ValueError(
            f"lock: grow_every_steps = {config.grow_every_steps}, and the ring has all of its num_positions = "
            f"{num_positions} from birth (initial_positions = 0), so that it never grows. Fix: set initial_positions "
            "to what it begins with, or grow_every_steps to 0."
        )
    num_start_choices = config.initial_positions or num_positions
    return Layout(
        family="lock",
        num_states=num_positions,
        num_symbols=num_positions,
        num_family_symbols=shapes.num_symbols if config.symbols == "per_task" else num_positions,
        mirrored=tuple(reversed(range(num_positions))),
        num_start_choices=num_start_choices if config.resets else 0,
    ).check(shapes)


def sample_task(key: jax.Array, config: Lock, shapes: Shapes, split: Split) -> LockTask:
    """A code uniform over the split's; symbols 0 .. K - 1, or drawn without replacement."""
    digit_key, sum_key, symbol_key = jax.random.split(key, 3)
    digits = jax.random.randint(digit_key, (config.num_positions,), 0, shapes.num_actions)
    symbols = jnp.arange(config.num_positions)
    if config.symbols == "per_task":
        symbols = jax.random.permutation(symbol_key, shapes.num_symbols)[: config.num_positions]
    return LockTask(
        code=with_digit_sum(sum_key, digits, shapes.num_actions, split), symbols=symbols.astype(jnp.int32)
    )


def tabulate(task: LockTask, config: Lock, shapes: Shapes) -> TabularParams:
    """The ring as a table."""
    position = jnp.arange(config.num_positions)
    advanced = (position + 1) % config.num_positions
    after_wrong = {"stay": position, "advance": advanced, "reset": jnp.zeros_like(position)}[config.on_wrong]
    is_right = jnp.arange(shapes.num_actions)[None, :] == task.code[:, None]
    next_state = jnp.where(is_right, advanced[:, None], after_wrong[:, None])
    return make_params(
        shapes=shapes,
        next_state=next_state[..., None],
        reward_probability=is_right.astype(jnp.float32)[..., None],
        observation=task.symbols,
        horizon_steps=config.episode_steps,
        resets=config.resets,
        initial_states=config.initial_positions,
        grow_every_steps=config.grow_every_steps,
        grow_from_step=config.grow_from_step,
    )
