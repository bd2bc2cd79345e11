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


def _bounds(num_steps: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, num_steps)) for start in range(0, num_steps, BLOCK)]


def _block_weights(
    q_BxHxQxK: jax.Array, k_BxHxKxS: jax.Array, start: int, is_there_BxS: jax.Array | None
) -> jax.Array:
    """Attention weights of the queries from `start` on, [B, H, Q, S], to all keys up to the last of them."""
    scores = jnp.einsum("bhqk,bhks->bhqs", q_BxHxQxK, k_BxHxKxS)
    query = jnp.arange(start, start + scores.shape[2])[:, None]
    key = jnp.arange(scores.shape[3])[None, :]
    allowed = (key <= query)[None, None]
    if is_there_BxS is not None:
        allowed = (allowed & is_there_BxS[:, None, None, :]) | (key == query)[None, None]
    return jax.nn.softmax(jnp.where(jnp.broadcast_to(allowed, scores.shape), scores, -1e9), axis=-1)


@jax.custom_vjp
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention of scaled queries [B, H, L, K], transposed keys [B, H, K, L], values [B, H, L, K]."""
    return _blocked_forward(q, k, v)[0]


def _blocked_forward(q, k, v):
    outputs, weights = [], []
    for start, end in _bounds(q.shape[2]):
        weights.append(_block_weights(q[:, :, start:end], k[..., :end], start, None))
        outputs.append(jnp.einsum("bhqs,bhsk->bhqk", weights[-1], v[:, :, :end]))
    output = jnp.concatenate(outputs, axis=2)
    return output, (q, k, v, output, weights)


def _blocked_backward(saved, grad):
    """The upper triangle is skipped here too, which differentiating the forward pass would not do as cheaply."""
    q, k, v, output, weights = saved
    keys, values = jnp.swapaxes(k, 2, 3), jnp.swapaxes(v, 2, 3)
    mean = jnp.sum(grad * output, axis=-1, keepdims=True)
    dq, dk, dv = [], jnp.zeros_like(k), jnp.zeros_like(values)
    for (start, end), weight in zip(_bounds(q.shape[2]), weights, strict=True):
        rows = grad[:, :, start:end]
        dweight = jnp.einsum("bhqk,bhks->bhqs", rows, values[..., :end])
        dscores = weight * (dweight - jnp.broadcast_to(mean[:, :, start:end], dweight.shape))
        dq.append(jnp.einsum("bhqs,bhsk->bhqk", dscores, keys[:, :, :end]))
        dk = dk.at[..., :end].add(jnp.einsum("bhqk,bhqs->bhks", q[:, :, start:end], dscores))
        dv = dv.at[..., :end].add(jnp.einsum("bhqk,bhqs->bhks", rows, weight))
    return jnp.concatenate(dq, axis=2), dk, jnp.swapaxes(dv, 2, 3)


_blocked.defvjp(_blocked_forward, _blocked_backward)


def causal_attention(
    q_BxLxHxK: jax.Array, k_BxLxHxK: jax.Array, v_BxLxHxK: jax.Array, is_there_BxL: jax.Array | None
) -> jax.Array:
    """Softmax attention of each step to itself and those before it, [B, L, H, K].

    `is_there` False hides a key from every query but its own (a row must attend to something).
    """
    q = jnp.swapaxes(q_BxLxHxK, 1, 2) * q_BxLxHxK.shape[-1] ** -0.5
    k = jnp.transpose(k_BxLxHxK, (0, 2, 3, 1))
    v = jnp.swapaxes(v_BxLxHxK, 1, 2)
    if is_there_BxL is None:
        return jnp.swapaxes(_blocked(q, k, v), 1, 2)
    outputs = []
    for start, end in _bounds(q.shape[2]):
        weight = _block_weights(q[:, :, start:end], k[..., :end], start, is_there_BxL[:, :end])
        outputs.append(jnp.einsum("bhqs,bhsk->bhqk", weight, v[:, :, :end]))
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2)


def attend_cache(
    q_ExHxK: jax.Array, keys_ExHxKxL: jax.Array, values_ExHxLxK: jax.Array, is_there_ExL: jax.Array
) -> jax.Array:
    """One step's attention to a cache in which its own key and value already stand, [E, H, K]."""
    scores = jnp.einsum("ehk,ehks->ehs", q_ExHxK * q_ExHxK.shape[-1] ** -0.5, keys_ExHxKxL)
    allowed = jnp.broadcast_to(is_there_ExL[:, None, :], scores.shape)
    weights = jax.nn.softmax(jnp.where(allowed, scores, -1e9), axis=-1)
    return jnp.einsum("ehs,ehsk->ehk", weights, values_ExHxLxK)
