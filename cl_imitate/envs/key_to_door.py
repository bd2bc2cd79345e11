"""Key to Door: a dark room in which arriving on a hidden key pays 1, and then on a hidden door pays 1, once each.

Whether the key has been taken is not shown: the observation is the position alone. After the door nothing more
happens until the episode ends. Source: Laskin et al. 2022 (Dark Key-to-Door); here episodes do not end early.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.config import KeyToDoor, Shapes
from cl_imitate.envs import grid
from cl_imitate.envs.splits import Split, items_of
from cl_imitate.envs.tabular import Layout, TabularParams, make_params

HELD_OUT_SHARE = 1 / 8  # of all ordered pairs of different cells


@struct.dataclass(kw_only=True)
class KeyToDoorTask:
    """What is hidden: two different cells."""

    key_cell: jax.Array  # int32 []
    door_cell: jax.Array  # int32 []


def layout(config: KeyToDoor, shapes: Shapes) -> Layout:
    """The cells without the key, the cells with it, and one last state; shown as the cell index."""
    num_cells = config.size**2
    return Layout(
        family="key_to_door",
        num_states=2 * num_cells + 1,
        num_symbols=num_cells,
        num_family_symbols=num_cells,
        mirrored=grid.mirrored_cells(config.size),
        num_start_choices=num_cells,
        num_actions=len(grid.ACTIONS),
    ).check(shapes)


def sample_task(key: jax.Array, config: KeyToDoor, shapes: Shapes, split: Split) -> KeyToDoorTask:
    """A pair uniform over the split's; an eighth of all pairs is held out."""
    del shapes
    num_cells = config.size**2
    num_pairs = num_cells * (num_cells - 1)
    pairs = jnp.asarray(items_of(num_pairs, round(num_pairs * HELD_OUT_SHARE), split))
    pair = pairs[jax.random.randint(key, (), 0, pairs.shape[0])]
    key_cell, other = pair // (num_cells - 1), pair % (num_cells - 1)
    return KeyToDoorTask(key_cell=key_cell, door_cell=other + (other >= key_cell).astype(jnp.int32))


def tabulate(task: KeyToDoorTask, config: KeyToDoor, shapes: Shapes) -> TabularParams:
    """The two phases and the end as a table."""
    num_cells = config.size**2
    cells = jnp.asarray(grid.next_cells(config.size, shapes.num_actions))
    takes_key, opens_door = cells == task.key_cell, cells == task.door_cell
    before = jnp.where(takes_key, cells + num_cells, cells)
    after = jnp.where(opens_door, 2 * num_cells, cells + num_cells)
    end = jnp.full((1, shapes.num_actions), 2 * num_cells)
    is_paid = jnp.concatenate([takes_key, opens_door, jnp.zeros_like(takes_key[:1])])
    position = jnp.arange(num_cells)
    return make_params(
        shapes=shapes,
        next_state=jnp.concatenate([before, after, end])[..., None],
        reward_probability=is_paid.astype(jnp.float32)[..., None],
        observation=jnp.concatenate([position, position, task.door_cell[None]]),
        start_state=grid.centre(config.size),
        horizon_steps=config.episode_steps,
    )
