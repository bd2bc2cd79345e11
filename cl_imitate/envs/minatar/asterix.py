"""One step of MinAtar's Asterix, on gymnax's state of the game.

Source: Young & Tian (2019), environments/asterix.py of their package. gymnax may delete an entity when it spawns
another while one row or none is free; here, as in the original, an entity spawns into a free row or not at all.

An entity is a row of `entities` [8, 5]: column, row, moves right, is gold, is there. Entity i is always in row i + 1.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cl_imitate.envs.minatar.board import LAST, cell, line, walk

_LEFT, _UP, _RIGHT, _DOWN = 1, 2, 3, 4
_RAMP_INTERVAL = 100


def spawn(key: jax.Array, state: Any) -> Any:
    """If it is due: an entity in a free row, uniformly, from either side, gold in a third of cases."""
    slot_key, direction_key, gold_key = jax.random.split(key, 3)
    is_due = state.spawn_timer == 0
    is_free = state.entities[:, 4] == 0
    slot = jnp.argmax(jnp.where(is_free, jax.random.uniform(slot_key, is_free.shape), -1.0))
    moves_right = jax.random.bernoulli(direction_key, 0.5).astype(jnp.int32)
    is_gold = jax.random.bernoulli(gold_key, 1 / 3).astype(jnp.int32)
    entity = jnp.stack([LAST * (1 - moves_right), slot + 1, moves_right, is_gold, jnp.int32(1)])
    is_new = (jnp.arange(is_free.shape[0]) == slot) & is_due & is_free
    return state.replace(
        entities=jnp.where(is_new[:, None], entity[None, :], state.entities),
        spawn_timer=jnp.where(is_due, state.spawn_speed, state.spawn_timer),
    )


def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
    """The state after an action, the reward, and whether the game is over."""
    _, spawn_key = jax.random.split(key)
    state = spawn(spawn_key, state)
    x = walk(state.player_x, action == _LEFT, action == _RIGHT)
    y = walk(state.player_y, action == _UP, action == _DOWN, first=1, last=LAST - 1)

    entities, gold, enemies = _meet(state.entities, x, y)
    moves = state.move_timer == 0
    moved, later_gold, later_enemies = _meet(_move(entities), x, y)
    over = enemies | (moves & later_enemies)
    reward = gold.astype(jnp.float32) + (moves & later_gold).astype(jnp.float32)
    state = state.replace(
        player_x=x,
        player_y=y,
        entities=jnp.where(moves, moved, entities),
        move_timer=jnp.where(moves, state.move_speed, state.move_timer),
        time=state.time + 1,
        terminal=over,
    )
    return _tick(state), reward, over


def _meet(entities: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the player meets at (x, y): gold is taken away; whether it was gold; whether it was an enemy."""
    is_met = (entities[:, 0] == x) & (entities[:, 1] == y) & (entities[:, 4] != 0)
    is_gold = entities[:, 3] != 0
    takes = is_met & is_gold
    return jnp.where(takes[:, None], 0, entities), takes.any(), (is_met & ~is_gold).any()


def _move(entities: jax.Array) -> jax.Array:
    """Every entity one column on; what leaves the board is gone."""
    column = entities[:, 0] + jnp.where(entities[:, 2] != 0, 1, -1)
    stays = (entities[:, 4] != 0) & (column >= 0) & (column <= LAST)
    moved = jnp.concatenate([column[:, None], entities[:, 1:]], axis=1)
    return jnp.where(stays[:, None], moved, 0)


def _tick(state: Any) -> Any:
    """Timers, and every 100 steps or so more speed: of spawning, and every other time of moving."""
    can_ramp = (state.spawn_speed > 1) | (state.move_speed > 1)
    waits = can_ramp & (state.ramp_timer >= 0)
    ramps = can_ramp & ~waits
    moves_faster = ramps & (state.move_speed > 0) & (state.ramp_index % 2 == 1)
    return state.replace(
        spawn_timer=state.spawn_timer - 1,
        move_timer=state.move_timer - 1,
        ramp_timer=jnp.where(waits, state.ramp_timer - 1, _RAMP_INTERVAL),
        move_speed=state.move_speed - moves_faster.astype(jnp.int32),
        spawn_speed=state.spawn_speed - (ramps & (state.spawn_speed > 1)).astype(jnp.int32),
        ramp_index=state.ramp_index + ramps.astype(jnp.int32),
    )


def layers(state: Any) -> jax.Array:
    """bool [4, 10, 10]: player, enemies, what shows where an entity came from, gold."""
    column, _, moves_right, is_gold, is_there = state.entities.T
    here = line(column) & (is_there != 0)[:, None]
    behind = line(jnp.where(moves_right != 0, column - 1, column + 1)) & (is_there != 0)[:, None]
    rows = jnp.stack([here & (is_gold == 0)[:, None], behind, here & (is_gold != 0)[:, None]])
    player = cell(state.player_y, state.player_x)
    return jnp.concatenate([player[None], jnp.pad(rows, ((0, 0), (1, 1), (0, 0)))])
