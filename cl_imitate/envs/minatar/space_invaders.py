"""One step of MinAtar's Space Invaders, on gymnax's state of the game.

Source: Young & Tian (2019), environments/space_invaders.py of their package. Maps are float32 [10, 10] of 0 and 1.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cl_imitate.envs.minatar.board import LAST, SIZE, cell, line, walk

_LEFT, _RIGHT, _FIRE = 1, 3, 5
_COOL_DOWN, _ENEMY_SHOT_INTERVAL, _FASTEST = 5, 10, 6


def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
    """The state after an action, the reward, and whether the game is over. Nothing is random."""
    del key
    fires = (action == _FIRE) & (state.shot_timer == 0)
    own = (state.f_bullet_map > 0) | (fires & cell(jnp.int32(LAST), state.pos))
    own = jnp.pad(own[1:], ((0, 1), (0, 0)))
    shots = jnp.pad((state.e_bullet_map > 0)[:-1], ((1, 0), (0, 0)))
    pos = walk(state.pos, action == _LEFT, action == _RIGHT)

    aliens = state.alien_map > 0
    over = shots[LAST, :] | aliens[LAST, :]
    moves = state.alien_move_timer == 0
    move_timer = jnp.where(
        moves, jnp.minimum(aliens.sum(), state.enemy_move_interval), state.alien_move_timer
    )
    is_border = (aliens[:, 0].any() & (state.alien_dir < 0)) | (aliens[:, LAST].any() & (state.alien_dir > 0))
    turns = moves & is_border
    direction = jnp.where(turns, -state.alien_dir, state.alien_dir)
    lands = turns & aliens[LAST, :].any()
    aside = jnp.where(direction > 0, jnp.roll(aliens, 1, axis=1), jnp.roll(aliens, -1, axis=1))
    aliens = jnp.where(moves, jnp.where(turns, jnp.roll(aliens, 1, axis=0), aside), aliens)
    over = ((over | (moves & aliens[LAST, :])) & line(pos)).any() | lands | state.terminal

    shoots = state.alien_shot_timer == 0
    shots |= shoots & _nearest(aliens, pos)
    killed = aliens & own
    aliens, own = aliens & ~killed, own & ~killed

    is_cleared = ~aliens.any()
    ramps = is_cleared & state.ramping & (state.enemy_move_interval > _FASTEST)
    shot_timer = jnp.where(fires, _COOL_DOWN, state.shot_timer)
    state = state.replace(
        pos=pos,
        f_bullet_map=own.astype(jnp.float32),
        e_bullet_map=shots.astype(jnp.float32),
        alien_map=jnp.where(is_cleared, _wave(), aliens).astype(jnp.float32),
        alien_dir=direction,
        enemy_move_interval=state.enemy_move_interval - ramps.astype(jnp.int32),
        alien_move_timer=move_timer - 1,
        alien_shot_timer=jnp.where(shoots, _ENEMY_SHOT_INTERVAL, state.alien_shot_timer) - 1,
        ramp_index=state.ramp_index + ramps.astype(jnp.int32),
        shot_timer=jnp.maximum(shot_timer - 1, 0),
        time=state.time + 1,
        terminal=over,
    )
    return state, killed.sum().astype(jnp.float32), over


def _wave() -> jax.Array:
    """bool [10, 10]: where aliens start."""
    place = jnp.arange(SIZE)
    return (place < 4)[:, None] & ((place >= 2) & (place < 8))[None, :]


def _nearest(aliens: jax.Array, pos: jax.Array) -> jax.Array:
    """bool [10, 10]: the lowest alien of the nearest column that has any, of two as near the left one; or none."""
    place = jnp.arange(SIZE)
    distance = jnp.where(aliens.any(axis=0), SIZE * jnp.abs(place - pos) + place, SIZE * SIZE)
    row = jnp.broadcast_to(place[:, None], aliens.shape)
    lowest = aliens & (row == jnp.where(aliens, row, -1).max(axis=0, keepdims=True))
    return lowest & (distance == distance.min())[None, :]


def layers(state: Any) -> jax.Array:
    """bool [6, 10, 10]: cannon, aliens, aliens if they move left, if right, own bullets, theirs."""
    cannon, aliens = cell(jnp.int32(LAST), state.pos), state.alien_map > 0
    bullets = [state.f_bullet_map > 0, state.e_bullet_map > 0]
    return jnp.stack(
        [cannon, aliens, aliens & (state.alien_dir < 0), aliens & (state.alien_dir >= 0), *bullets]
    )
