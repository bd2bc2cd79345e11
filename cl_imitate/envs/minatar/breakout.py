"""One step of MinAtar's Breakout, on gymnax's state of the game.

Source: Young & Tian (2019), environments/breakout.py of their package. Directions are numbered clockwise from up-left:
0 up-left, 1 up-right, 2 down-right, 3 down-left; so a bounce off a side is `^ 1`, off top or bottom `^ 3`, and straight
back `^ 2`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cl_imitate.envs.minatar.board import LAST, SIZE, cell, walk

_LEFT, _RIGHT = 1, 3


def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
    """The state after an action, the reward, and whether the game is over. Nothing is random."""
    del key
    pos = walk(state.pos, action == _LEFT, action == _RIGHT)
    direction = state.ball_dir
    moves_right = (direction == 1) | (direction == 2)
    x, y = state.ball_x + jnp.where(moves_right, 1, -1), state.ball_y + jnp.where(direction < 2, -1, 1)

    direction = jnp.where((x < 0) | (x > LAST), direction ^ 1, direction)
    x = jnp.clip(x, 0, LAST)
    is_above = y < 0
    direction = jnp.where(is_above, direction ^ 3, direction)
    y = jnp.maximum(y, 0)

    hit = cell(y, x)
    is_brick = ~is_above & (hit & (state.brick_map > 0)).any()
    breaks = is_brick & ~state.strike  # two bricks in a row are never broken
    bricks = jnp.where(breaks & hit, 0.0, state.brick_map)
    y = jnp.where(breaks, state.ball_y, y)
    direction = jnp.where(breaks, direction ^ 3, direction)

    is_low = ~is_brick & (y == LAST)
    is_new_wall = (jnp.arange(SIZE) >= 1) & (jnp.arange(SIZE) <= 3) & is_low & ~(bricks > 0).any()
    bricks = jnp.where(jnp.broadcast_to(is_new_wall[:, None], bricks.shape), 1.0, bricks)
    meets_before = is_low & (state.ball_x == pos)
    meets_after = is_low & ~meets_before & (x == pos)
    direction = jnp.where(meets_before, direction ^ 3, jnp.where(meets_after, direction ^ 2, direction))
    over = is_low & ~meets_before & ~meets_after
    state = state.replace(
        ball_y=jnp.where(meets_before | meets_after, state.ball_y, y),
        ball_x=x,
        ball_dir=direction,
        pos=pos,
        brick_map=bricks,
        strike=is_brick,
        last_y=state.ball_y,
        last_x=state.ball_x,
        time=state.time + 1,
        terminal=over,
    )
    return state, breaks.astype(jnp.float32), over


def layers(state: Any) -> jax.Array:
    """bool [4, 10, 10]: paddle, ball, where it was before, bricks."""
    paddle, ball = cell(jnp.int32(LAST), state.pos), cell(state.ball_y, state.ball_x)
    return jnp.stack([paddle, ball, cell(state.last_y, state.last_x), state.brick_map > 0])
