"""The 3 x 3 convolution of learners and imitators, as patches times a matrix, the batch innermost.

Under a `vmap` over weights a `lax.conv` becomes a grouped convolution, which is several times slower; a
batched matrix product is not. With the batch innermost, unpacking bits and cutting patches move whole runs of
memory. `lax.conv` is the reference in the tests.

Axes in names: B batch, C channels, F filters.
"""

import jax
import jax.numpy as jnp

from cl_imitate.config import Products
from cl_imitate.products import filters_product
from cl_imitate.types import ScreenObservation


def columns_of(packed_Bx: jax.Array, observation: ScreenObservation) -> jax.Array:
    """Bit-packed screens uint8 [B, num_bytes] -> uint8 0/1 screens [C, height, width, B]."""
    bits = (packed_Bx.T[:, None, :] >> jnp.arange(8, dtype=jnp.uint8)[None, :, None]) & jnp.uint8(1)
    bits = bits.reshape(-1, packed_Bx.shape[0])[: observation.num_bits]
    screens = bits.reshape(observation.height, observation.width, observation.channels, -1)
    return jnp.moveaxis(screens, 2, 0)


def convolve_3x3(
    screen_CxHxWxB: jax.Array, kernel_9CxF: jax.Array, products: Products = "float32"
) -> jax.Array:
    """Valid convolution of stride 1, [F, (height - 2) * (width - 2), B].

    The kernel is [3, 3, C, F] reshaped to a matrix. Patches are cut in two steps, columns and then rows, and from
    bytes: nine cuts of float32 screens move several times as much memory.
    """
    channels, height, width, batch = screen_CxHxWxB.shape
    height, width = height - 2, width - 2
    columns = [screen_CxHxWxB[:, :, j : j + width] for j in range(3)]
    beside = jnp.concatenate(columns, axis=0).reshape(3 * channels, -1)
    rows = [beside[:, i * width * batch : (i + height) * width * batch] for i in range(3)]
    patches = jnp.concatenate(rows, axis=0).astype(jnp.float32)
    filtered = filters_product(patches, kernel_9CxF, products)
    return filtered.reshape(-1, height * width, batch)
