"""Marks on a board of 10 x 10 cells, made by comparing instead of by writing to an index.

A write to an index that differs between learners is a scatter: a kernel of its own on a GPU, a loop on a CPU.
"""

import jax
import jax.numpy as jnp

SIZE = 10
LAST = SIZE - 1


def line(index: jax.Array) -> jax.Array:
    """bool [..., 10]: True at the index, nowhere if it is off the board."""
    places = jnp.arange(SIZE).reshape(*[1] * jnp.ndim(index), SIZE)
    return places == jnp.asarray(index)[..., None]


def cell(row: jax.Array, column: jax.Array) -> jax.Array:
    """bool [10, 10]: True in one cell."""
    return line(row)[:, None] & line(column)[None, :]


def walk(
    place: jax.Array, back: jax.Array, ahead: jax.Array, *, first: int = 0, last: int = LAST
) -> jax.Array:
    """One cell back, or ahead, or neither, but not past the ends."""
    return jnp.clip(place + ahead.astype(jnp.int32) - back.astype(jnp.int32), first, last)
