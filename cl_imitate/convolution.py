"""The 3 x 3 convolution of learners and imitators, as patches times a matrix.

Under a `vmap` over weights a `lax.conv` becomes a grouped convolution, which is several times slower; a
batched matrix product is not. `lax.conv` is the reference in the tests.
"""

import jax
import jax.numpy as jnp


def patches_3x3(screen: jax.Array) -> jax.Array:
    """Screens [..., height, width, channels] -> patches [..., height - 2, width - 2, 9 * channels].

    A patch holds its nine cells row by row, each with its channels: a matrix [9 * channels, features] is a
    kernel [3, 3, channels, features] reshaped.
    """
    height, width = screen.shape[-3] - 2, screen.shape[-2] - 2
    return jnp.concatenate(
        [screen[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)], axis=-1
    )
