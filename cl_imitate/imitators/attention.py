"""Causal attention in two forms that agree: over a whole window, and one step against a cache.

Positions are relative (rotary), so an age beyond those of training is not a position never seen.

Axes: B batch (or E streams), L context, H heads, K head size. The cache keeps keys transposed, [E, H, K, L],
and values [E, H, L, K]: the layout in which a step's two products read contiguous memory.
"""

import jax
import jax.numpy as jnp

BLOCK = 128
"""Queries a block: keys after the block's last query are never touched."""


def rotate(x_BxLxHxK: jax.Array, position_L: jax.Array) -> jax.Array:
    """Rotary position embedding: pairs of features turned by an angle in proportion to the position.

    Source: Su et al. (2021), RoFormer. Base 10,000; the two halves of a head form the pairs.
    """
    half = x_BxLxHxK.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position_L.astype(jnp.float32)[:, None] * frequency[None, :]
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]
    first, second = x_BxLxHxK[..., :half], x_BxLxHxK[..., half:]
    shape = first.shape
    cos, sin = jnp.broadcast_to(cos, shape), jnp.broadcast_to(sin, shape)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def causal_attention(
    q_BxLxHxK: jax.Array, k_BxLxHxK: jax.Array, v_BxLxHxK: jax.Array, is_there_BxL: jax.Array | None
) -> jax.Array:
    """Softmax attention of each step to itself and those before it, [B, L, H, K].

    `is_there` False hides a key from every query but its own (a row must attend to something).
    """
    num_steps = q_BxLxHxK.shape[1]
    q = jnp.swapaxes(q_BxLxHxK, 1, 2) * q_BxLxHxK.shape[-1] ** -0.5
    k = jnp.transpose(k_BxLxHxK, (0, 2, 3, 1))
    v = jnp.swapaxes(v_BxLxHxK, 1, 2)
    outputs = []
    for start in range(0, num_steps, BLOCK):
        end = min(start + BLOCK, num_steps)
        scores = jnp.einsum("bhqk,bhks->bhqs", q[:, :, start:end], k[..., :end])
        query, key = jnp.arange(start, end)[:, None], jnp.arange(end)[None, :]
        allowed = (key <= query)[None, None]
        if is_there_BxL is not None:
            allowed = (allowed & is_there_BxL[:, None, None, :end]) | (key == query)[None, None]
        scores = jnp.where(jnp.broadcast_to(allowed, scores.shape), scores, -1e9)
        outputs.append(jnp.einsum("bhqs,bhsk->bhqk", jax.nn.softmax(scores, axis=-1), v[:, :, :end]))
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2)


def attend_cache(
    q_ExHxK: jax.Array, keys_ExHxKxL: jax.Array, values_ExHxLxK: jax.Array, is_there_ExL: jax.Array
) -> jax.Array:
    """One step's attention to a cache in which its own key and value already stand, [E, H, K]."""
    scores = jnp.einsum("ehk,ehks->ehs", q_ExHxK * q_ExHxK.shape[-1] ** -0.5, keys_ExHxKxL)
    allowed = jnp.broadcast_to(is_there_ExL[:, None, :], scores.shape)
    weights = jax.nn.softmax(jnp.where(allowed, scores, -1e9), axis=-1)
    return jnp.einsum("ehs,ehsk->ehk", weights, values_ExHxLxK)
