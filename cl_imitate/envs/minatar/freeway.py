"""One step of MinAtar's Freeway, on gymnax's state of the game.

Source: Young & Tian (2019), environments/freeway.py of their package. A car is a row of `cars` [8, 4]: column, row,
steps until it moves, speed with its sign. Car i is always in row i + 1.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cl_imitate.envs.minatar.board import SIZE, cell, line, walk

_UP, _DOWN = 2, 4
_COLUMN = 4  # where the chicken is
_START = 9
_PLAYER_SPEED = 3
_NUM_SPEEDS = 5
LIMIT_STEPS = 2501  # then the game is over: its only end


def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
    """The state after an action, the reward, and whether the game is over."""
    is_up = (action == _UP) & (state.move_timer == 0)
    is_down = (action == _DOWN) & (state.move_timer == 0)
    pos = walk(state.pos, is_up, is_down)
    timer = jnp.where(is_up | is_down, _PLAYER_SPEED, state.move_timer)
    wins = pos == 0
    pos = jnp.where(wins, _START, pos)

    column, row, wait, speed = state.cars.T
    drawn = _speeds(key)
    speed, wait = jnp.where(wins, drawn, speed), jnp.where(wins, jnp.abs(drawn), wait)
    is_hit = (column == _COLUMN) & (row == pos)
    moves = wait == 0
    column = jnp.where(moves, (column + jnp.where(speed > 0, 1, -1)) % SIZE, column)
    is_hit |= moves & (column == _COLUMN) & (row == pos)
    wait = jnp.where(moves, jnp.abs(speed), wait - 1)

    time = state.time + 1
    state = state.replace(
        pos=jnp.where(is_hit.any(), _START, pos),
        cars=jnp.stack([column, row, wait, speed], axis=1),
        move_timer=jnp.maximum(timer - 1, 0),
        time=time,
        terminal=jnp.zeros_like(state.terminal),
    )
    return state, wins.astype(jnp.float32), time >= LIMIT_STEPS


def _speeds(key: jax.Array) -> jax.Array:
    """int32 [8]: 1 to 5 columns a step's worth, to either side; drawn as gymnax draws them."""
    size_key, side_key = jax.random.split(key)
    sizes = jax.random.randint(size_key, (8,), 1, _NUM_SPEEDS + 1)
    return sizes * (2 * jax.random.randint(side_key, (8,), 0, 2) - 1)


def layers(state: Any) -> jax.Array:
    """bool [7, 10, 10]: chicken, cars, and in one of five layers, by speed, where a car came from."""
    column, _, _, speed = state.cars.T
    behind = line((column - jnp.where(speed > 0, 1, -1)) % SIZE)
    has_speed = jnp.arange(1, _NUM_SPEEDS + 1)[:, None] == jnp.abs(speed)[None, :]
    trails = has_speed[:, :, None] & behind[None, :, :]
    rows = jnp.concatenate([line(column)[None], trails])
    chicken = cell(state.pos, jnp.int32(_COLUMN))
    return jnp.concatenate([chicken[None], jnp.pad(rows, ((0, 0), (1, 1), (0, 0)))])
