"""Dark Room: an N x N room with one hidden goal; every step that arrives on it, or stays on it, pays 1.

Source: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation". At 9 x 9 with 20 steps
and a centre start, the mean optimum over all 81 goals (the centre is one of them) is 16.54, as published.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.config import DarkRoom, Shapes
from cl_imitate.envs import grid
from cl_imitate.envs.splits import Split, items_of
from cl_imitate.envs.tabular import Layout, TabularParams, make_params


@struct.dataclass(kw_only=True)
class DarkRoomTask:
    """What is hidden: the goal. The start is seen, but differs between tasks if the config says so."""

    goal: jax.Array  # int32 []: cell index, row * N + column
    start: jax.Array  # int32 []


def layout(config: DarkRoom, shapes: Shapes) -> Layout:
    """N * N states, shown as their cell index."""
    num_cells = config.size**2
    return Layout(
        family="dark_room",
        num_states=num_cells,
        num_symbols=num_cells,
        num_family_symbols=num_cells,
        mirrored=grid.mirrored_cells(config.size),
        num_start_choices=num_cells,
        num_actions=len(grid.ACTIONS),
    ).check(shapes)


def sample_task(key: jax.Array, config: DarkRoom, shapes: Shapes, split: Split) -> DarkRoomTask:
    """A goal uniform over the split's; `num_held_out_goals` of the N * N cells are held out."""
    del shapes
    goal_key, start_key = jax.random.split(key)
    num_cells = config.size**2
    goals = jnp.asarray(items_of(num_cells, config.num_held_out_goals, split))
    start = jnp.int32(grid.centre(config.size))
    if config.start == "random_per_task":
        start = jax.random.randint(start_key, (), 0, num_cells)
    return DarkRoomTask(goal=goals[jax.random.randint(goal_key, (), 0, goals.shape[0])], start=start)


def tabulate(task: DarkRoomTask, config: DarkRoom, shapes: Shapes) -> TabularParams:
    """The room as a table."""
    cells = jnp.asarray(grid.next_cells(config.size, shapes.num_actions, torus=config.torus))
    return make_params(
        shapes=shapes,
        next_state=cells[..., None],
        reward_probability=(cells == task.goal).astype(jnp.float32)[..., None],
        observation=jnp.arange(config.size**2),
        start_state=task.start,
        horizon_steps=config.episode_steps,
    )
