"""Causal attention in two forms that agree: over a whole window, and one step against a cache.

Over a window each step attends to itself and those before it, or to the last `reach` of them ("sliding"). On a CPU
the queries are taken in blocks, and keys that no query of a block may see are never touched, forwards or backwards.
On a GPU, in bfloat16, cuDNN's fused kernel does the same.

Positions are relative (rotary), so an age beyond those of training is not a position never seen.

Axes: B batch (or E streams), L context, H heads, K head size, F = K / 2 frequencies. The cache keeps keys transposed,
[E, H, K, L], and values [E, H, L, K]: the layout in which a step's two products read contiguous memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate.config import Products
from cl_imitate.products import einsum

BLOCK = 128
"""Queries a block: keys after the block's last query, or out of all its queries' reach, are never touched."""

_BASE = 10_000.0


def window_angles(position_L: jax.Array, head_size: int) -> jax.Array:
    """Rotary angles [L, F] (radians) of positions inside a window.

    Source: Su et al. (2021), RoFormer; base 10,000.
    """
    half = head_size // 2
    frequency = _BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return position_L.astype(jnp.float32)[:, None] * frequency[None, :]


def endless_angles(step_L: jax.Array, head_size: int) -> jax.Array:
    """The same for steps int32 [L] of a life without end: differences stay exact, however old it is.

    A frequency is a whole number of 2^-32 turns, so that steps times frequency, wrapped, is exact in uint32. In
    float32 an angle is off by a tenth of a radian after a million steps.
    """
    half = head_size // 2
    turns = _BASE ** (-np.arange(half) / half) / (2 * np.pi)
    per_step = jnp.asarray(np.round(turns * 2**32).astype(np.uint32))
    phase = step_L.astype(jnp.uint32)[:, None] * per_step[None, :]
    return phase.astype(jnp.float32) * np.float32(2 * np.pi / 2**32)


CosSin = tuple[jax.Array | np.ndarray, jax.Array | np.ndarray]
"""Cosines and sines of rotary angles, [L, F] each."""


def cos_sin(angle_LxF: jax.Array) -> CosSin:
    """Of rotary angles."""
    return jnp.cos(angle_LxF), jnp.sin(angle_LxF)


def rotate(x_BxLxHxK: jax.Array, cos_sin_LxF: CosSin) -> jax.Array:
    """Rotary position embedding: pairs of features (the two halves of a head) turned by angles."""
    x = x_BxLxHxK.astype(jnp.float32)
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = (jnp.broadcast_to(part[None, :, None, :], first.shape) for part in cos_sin_LxF)
    turned = jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    return turned.astype(x_BxLxHxK.dtype)


def block_bounds(num_steps: int, reach: int) -> list[tuple[int, int, int]]:
    """Of every block: its first query, its end, and the first key that any of its queries sees."""
    return [
        (start, min(start + BLOCK, num_steps), max(0, start + 1 - reach))
        for start in range(0, num_steps, BLOCK)
    ]


def _block_weights(
    q_BxHxQxK: jax.Array,
    k_BxHxKxS: jax.Array,
    start: int,
    first: int,
    reach: int,
    is_there_BxS: jax.Array | None,
    products: Products,
) -> jax.Array:
    """Attention weights [B, H, Q, S] of the queries from `start` on to the keys from `first` on."""
    scores = einsum("bhqk,bhks->bhqs", q_BxHxQxK, k_BxHxKxS, products)
    query = jnp.arange(start, start + scores.shape[2])[:, None]
    key = jnp.arange(first, first + scores.shape[3])[None, :]
    allowed = ((key <= query) & (key > query - reach))[None, None]
    if is_there_BxS is not None:
        allowed = (allowed & is_there_BxS[:, None, None, :]) | (key == query)[None, None]
    return jax.nn.softmax(jnp.where(jnp.broadcast_to(allowed, scores.shape), scores, -1e9), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, reach: int, products: Products) -> jax.Array:
    """Causal attention of scaled queries [B, H, L, K], transposed keys [B, H, K, L], values [B, H, L, K]."""
    return _blocked_forward(q, k, v, reach, products)[0]


def _blocked_forward(q, k, v, reach, products):
    outputs, weights = [], []
    for start, end, first in block_bounds(q.shape[2], reach):
        keys, values = k[..., first:end], v[:, :, first:end]
        weights.append(_block_weights(q[:, :, start:end], keys, start, first, reach, None, products))
        outputs.append(einsum("bhqs,bhsk->bhqk", weights[-1], values, products))
    output = jnp.concatenate(outputs, axis=2)
    return output, (q, k, v, output, weights)


def _blocked_backward(reach, products, saved, grad):
    """The upper triangle is skipped here too, which differentiating the forward pass would not do as cheaply."""
    q, k, v, output, weights = saved
    keys, values = jnp.swapaxes(k, 2, 3), jnp.swapaxes(v, 2, 3)
    mean = jnp.sum(grad * output, axis=-1, keepdims=True)
    bounds = block_bounds(q.shape[2], reach)
    dq, dk, dv = [], [], []
    for (start, end, first), weight in zip(bounds, weights, strict=True):
        rows = grad[:, :, start:end]
        dweight = einsum("bhqk,bhks->bhqs", rows, values[..., first:end], products)
        dscores = weight * (dweight - jnp.broadcast_to(mean[:, :, start:end], dweight.shape))
        dq.append(einsum("bhqs,bhsk->bhqk", dscores, keys[:, :, first:end], products))
        dk.append(einsum("bhqk,bhqs->bhks", q[:, :, start:end], dscores, products))
        dv.append(einsum("bhqk,bhqs->bhks", rows, weight, products))
    return jnp.concatenate(dq, axis=2), _sum_of_keys(dk, bounds), jnp.swapaxes(_sum_of_keys(dv, bounds), 2, 3)


def _sum_of_keys(parts: list[jax.Array], bounds: list[tuple[int, int, int]]) -> jax.Array:
    """[B, H, K, L] from what each block of queries gives to the keys it sees, [B, H, K, S].

    Every block of keys is summed by itself and the sums are joined once: added up in place, they would be scattered.
    Zeros stand for a block's keys that are out of reach.
    """
    sums = []
    for start, end, _ in bounds:
        total = None
        for part, (_, last, first) in zip(parts, bounds, strict=True):
            if last < end or first >= end:
                continue
            begin = max(start, first)
            piece = part[..., begin - first : end - first]
            piece = jnp.pad(piece, [(0, 0)] * 3 + [(begin - start, 0)]) if begin > start else piece
            total = piece if total is None else total + piece
        sums.append(total)
    return jnp.concatenate(sums, axis=3)


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _in_blocks(q, k, v, *, reach: int, products: Products) -> jax.Array:
    """`causal_attention` of heads [B, L, H, K] where every step is there."""
    q = jnp.swapaxes(q, 1, 2) * q.shape[-1] ** -0.5
    k, v = jnp.transpose(k, (0, 2, 3, 1)), jnp.swapaxes(v, 1, 2)
    return jnp.swapaxes(_blocked(q, k, v, reach, products), 1, 2)


def _fused(q, k, v, *, reach: int) -> jax.Array:
    """The same by cuDNN, which takes bfloat16 only."""
    window = None if reach >= q.shape[1] else (reach - 1, 0)
    short = (x.astype(jnp.bfloat16) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        *short, is_causal=True, local_window_size=window, implementation="cudnn"
    )
    return out.astype(q.dtype)


def causal_attention(
    q_BxLxHxK: jax.Array,
    k_BxLxHxK: jax.Array,
    v_BxLxHxK: jax.Array,
    is_there_BxL: jax.Array | None,
    *,
    reach: int | None = None,
    products: Products = "float32",
) -> jax.Array:
    """Softmax attention of each step to itself and those before it, [B, L, H, K].

    Args:
      is_there: False hides a key from every query but its own (a row must attend to something).
      reach: how many last steps a step attends to, itself included; None: all of the window.
    """
    dtype, reach = q_BxLxHxK.dtype, reach or q_BxLxHxK.shape[1]
    if is_there_BxL is None and products == "bfloat16" and jax.default_backend() == "gpu":
        return _fused(q_BxLxHxK, k_BxLxHxK, v_BxLxHxK, reach=reach)
    q, k, v = (x.astype(jnp.float32) for x in (q_BxLxHxK, k_BxLxHxK, v_BxLxHxK))
    if is_there_BxL is None:
        return _in_blocks(q, k, v, reach=reach, products=products).astype(dtype)
    q = jnp.swapaxes(q, 1, 2) * q.shape[-1] ** -0.5
    k = jnp.transpose(k, (0, 2, 3, 1))
    v = jnp.swapaxes(v, 1, 2)
    outputs = []
    for start, end, first in block_bounds(q.shape[2], reach):
        is_there = is_there_BxL[:, first:end]
        keys = k[..., first:end]
        weight = _block_weights(q[:, :, start:end], keys, start, first, reach, is_there, products)
        outputs.append(einsum("bhqs,bhsk->bhqk", weight, v[:, :, first:end], products))
    return jnp.swapaxes(jnp.concatenate(outputs, axis=2), 1, 2).astype(dtype)


def attend_cache(
    q_ExHxK: jax.Array,
    keys_ExHxKxL: jax.Array,
    values_ExHxLxK: jax.Array,
    is_there_ExL: jax.Array,
    *,
    products: Products = "float32",
) -> jax.Array:
    """One step's attention to a cache in which its own key and value already stand, float32 [E, H, K]."""
    scaled = q_ExHxK.astype(jnp.float32) * q_ExHxK.shape[-1] ** -0.5
    scores = einsum("ehk,ehks->ehs", scaled, keys_ExHxKxL, products)
    allowed = jnp.broadcast_to(is_there_ExL[:, None, :], scores.shape)
    weights = jax.nn.softmax(jnp.where(allowed, scores, -1e9), axis=-1)
    return einsum("ehs,ehsk->ehk", weights, values_ExHxLxK, products)
