"""Memories without a window: what a recurrent layer carries from step to step, over a window or one step at a time.

Two kinds behind one interface, each for E streams:

  over(x [E, L, D], is_there [E, L] | None, state) -> (y [E, L, D], state): a window, from a state on.
  one(x [E, D], state) -> (y [E, D], state): the next step.

A step that is not there leaves the state as it was; such steps may only come first.

Axes in names: E streams, L steps, C steps of a chunk, G chunks, D width, H heads, K key size, V value size.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from cl_imitate import config
from cl_imitate.imitators.linear import Linear
from cl_imitate.products import einsum

CHUNK = 64
"""Steps of a linear recurrence whose outputs are computed as one product, as attention's are."""

TAPS = 4
"""Steps that the short convolution before a linear recurrence sees, the present one included."""

HALF_LIVES = (16.0, 16_384.0)
"""Of a linear recurrence's heads at initialisation (steps): shortest and longest, evenly spread in logs."""


GRU_HALF_LIVES = (1.0, 1_024.0)
"""Of a GRU's units at initialisation, likewise: some follow the step, some keep what they are told for a life."""


def _bias_of_half_lives(range_steps: tuple[float, float], num: int) -> jax.Array:
    """Biases [num] at which a sigmoid keeps half of a state for so many steps, evenly spread in logs.

    Source: Tallec & Ollivier (2018), Can recurrent neural networks warp time?, who draw them at random.
    """
    keep = np.exp2(-1.0 / np.geomspace(*range_steps, num))
    return jnp.asarray(np.log(keep / (1.0 - keep)), jnp.float32)


def _orthogonal_parts(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """A kernel [D, n D] whose n square parts are each orthogonal."""
    width, parts = shape[0], shape[1] // shape[0]
    of = nnx.initializers.orthogonal()
    return jnp.concatenate([of(one, (width, width), dtype) for one in jax.random.split(key, parts)], axis=1)


@struct.dataclass(kw_only=True)
class LinearState:
    """What a linear recurrence remembers."""

    matrix: jax.Array  # float32 [E, H, K, V]: values by keys
    recent: jax.Array  # float32 [E, TAPS - 1, 3 D]: the last inputs of the short convolution


class LinearRecurrence(nnx.Module):
    """Gated linear attention: a matrix a head, S_t = a_t S_{t-1} + b_t k_t v_t^T, read as q_t S_t.

    The forget gate a_t and the write gate b_t, both in (0, 1), depend on the input, one number a head each. Keys have
    unit length. A window is computed in chunks: within one as masked attention is, between them by an associative scan.

    Source: Yang et al. (2023), Gated linear attention; Dao & Gu (2024), Mamba-2, whose scalar gate and short
    convolution are taken. We differ in the write gate and in the keys' normalisation, as delta-rule models have them.
    """

    def __init__(self, imitator: config.Imitator, *, rngs: nnx.Rngs):
        width, depth = imitator.width, imitator.num_layers
        small = nnx.initializers.variance_scaling(1.0 / depth**2, "fan_in", "normal")
        linear = functools.partial(Linear, products=imitator.products)
        self.num_heads = imitator.num_heads
        self.products: config.Products = imitator.products
        self.qkv = linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.taps = nnx.Param(jax.random.normal(rngs.params(), (TAPS, 3 * width)) * TAPS**-0.5)
        self.gates = linear(width, 2 * self.num_heads, rngs=rngs)
        self.gates.bias[...] = jnp.concatenate(  # pyright: ignore[reportOptionalSubscript]
            [_bias_of_half_lives(HALF_LIVES, self.num_heads), jnp.zeros(self.num_heads)]
        )
        self.norm = nnx.RMSNorm(width // self.num_heads, rngs=rngs)
        self.open = linear(width, width, rngs=rngs)
        self.out = linear(width, width, kernel_init=small, rngs=rngs)

    def init_state(self, num_streams: int) -> LinearState:
        width = self.out.in_features
        size = width // self.num_heads
        return LinearState(
            matrix=jnp.zeros((num_streams, self.num_heads, size, size)),
            recent=jnp.zeros((num_streams, TAPS - 1, 3 * width)),
        )

    def over(
        self, x: jax.Array, is_there: jax.Array | None, state: LinearState
    ) -> tuple[jax.Array, LinearState]:
        inputs = self.qkv(x)
        if is_there is not None:
            inputs = jnp.where(jnp.broadcast_to(is_there[..., None], inputs.shape), inputs, 0.0)
        seen = jnp.concatenate([state.recent, inputs], axis=1)
        num_steps = x.shape[1]
        q, k, v = self._heads([seen[:, tap : tap + num_steps] for tap in range(TAPS)])
        log_keep, write = self._gates(x)
        if is_there is not None:
            there = jnp.broadcast_to(is_there[..., None], write.shape)
            log_keep, write = jnp.where(there, log_keep, 0.0), jnp.where(there, write, 0.0)
        k = k * jnp.broadcast_to(write[..., None], k.shape)
        read, matrix = chunked_recurrence(q, k, v, log_keep, state.matrix, products=self.products)
        return self._close(x, read), LinearState(matrix=matrix, recent=seen[:, num_steps:])

    def one(self, x: jax.Array, state: LinearState) -> tuple[jax.Array, LinearState]:
        seen = jnp.concatenate([state.recent, self.qkv(x)[:, None]], axis=1)
        q, k, v = self._heads([seen[:, tap] for tap in range(TAPS)])
        log_keep, write = self._gates(x)
        k = k * jnp.broadcast_to(write[..., None], k.shape)
        keep = jnp.broadcast_to(jnp.exp(log_keep)[..., None, None], state.matrix.shape)
        matrix = keep * state.matrix + einsum("ehk,ehv->ehkv", k, v, self.products)
        read = einsum("ehk,ehkv->ehv", q, matrix, self.products)
        return self._close(x, read), LinearState(matrix=matrix, recent=seen[:, 1:])

    def _heads(self, taps: list[jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The convolution's inputs [..., 3 D], oldest first -> queries, unit keys, values, each [..., H, K]."""
        mixed = jnp.zeros_like(taps[0])
        for weight, x in zip(self.taps[...], taps, strict=True):
            mixed = mixed + x * jnp.broadcast_to(weight, x.shape)
        split = jax.nn.silu(mixed).reshape(*mixed.shape[:-1], 3 * self.num_heads, -1)
        q, k, v = jnp.split(split, 3, axis=-2)
        length = jnp.sqrt(jnp.sum(k * k, axis=-1, keepdims=True) + 1e-6)
        return q * q.shape[-1] ** -0.5, k / jnp.broadcast_to(length, k.shape), v

    def _gates(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The log of what is kept, and how much is written, each [..., H]."""
        keep, write = jnp.split(self.gates(x), 2, axis=-1)
        return jax.nn.log_sigmoid(keep), jax.nn.sigmoid(write)

    def _close(self, x: jax.Array, read: jax.Array) -> jax.Array:
        """Every head's output at unit scale, let through by a gate."""
        return self.out(self.norm(read).reshape(x.shape) * jax.nn.silu(self.open(x)))


def chunked_recurrence(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    log_keep: jax.Array,
    matrix: jax.Array,
    *,
    products: config.Products,
) -> tuple[jax.Array, jax.Array]:
    """S_t = exp(log_keep_t) S_{t-1} + k_t v_t^T and q_t S_t for all steps at once.

    Args:
      q, k, v: [E, L, H, K]. log_keep: [E, L, H], at most 0. matrix: [E, H, K, V], the state before.

    Returns what is read [E, L, H, V], and the state after.
    """
    num_steps = q.shape[1]
    size = min(CHUNK, num_steps)
    missing = -num_steps % size  # steps that keep everything, write nothing

    def chunks(x):
        x = jnp.pad(x, [(0, missing if axis == 1 else 0) for axis in range(x.ndim)])
        x = x.reshape(x.shape[0], -1, size, *x.shape[2:])
        return jnp.moveaxis(x, 3, 2)  # [E, G, H, C, ...]

    q, k, v, log_keep = chunks(q), chunks(k), chunks(v), chunks(log_keep)
    kept = jnp.cumsum(log_keep, axis=-1)  # log of what is left of the chunk's start, [E, G, H, C]
    whole = kept[..., -1]
    gap = kept[..., :, None] - kept[..., None, :]
    is_past = jnp.broadcast_to(jnp.tril(jnp.ones((size, size), bool)), gap.shape)
    decay = jnp.exp(jnp.where(is_past, gap, -jnp.inf))
    inside = einsum("eghqk,eghsk->eghqs", q, k, products) * decay
    read = einsum("eghqs,eghsv->eghqv", inside, v, products)

    left = jnp.exp(whole[..., None] - kept)
    written = einsum("eghsk,eghsv->eghkv", k * jnp.broadcast_to(left[..., None], k.shape), v, products)

    def join(one, two):
        keep = jnp.broadcast_to(jnp.exp(two[0])[..., None, None], two[1].shape)
        return one[0] + two[0], keep * one[1] + two[1]

    keeps, after = jax.lax.associative_scan(
        join, (whole, written), axis=1
    )  # from the window's start, from zero
    since = jnp.broadcast_to(jnp.exp(keeps)[..., None, None], after.shape)
    after = after + since * jnp.broadcast_to(matrix[:, None], after.shape)
    before = jnp.concatenate([matrix[:, None], after[:, :-1]], axis=1)
    from_before = q * jnp.broadcast_to(jnp.exp(kept)[..., None], q.shape)
    read = read + einsum("eghqk,eghkv->eghqv", from_before, before, products)
    read = jnp.moveaxis(read, 2, 3).reshape(read.shape[0], -1, read.shape[2], read.shape[4])
    return read[:, :num_steps], after[:, -1]


class GRU(nnx.Module):
    """A gated recurrent unit, one step after the other; what does not depend on the state is computed beforehand.

    Source: Cho et al. (2014), with the reset gate after the product, as cuDNN has it.
    """

    def __init__(self, imitator: config.Imitator, *, rngs: nnx.Rngs):
        width, depth = imitator.width, imitator.num_layers
        small = nnx.initializers.variance_scaling(1.0 / depth**2, "fan_in", "normal")
        linear = functools.partial(Linear, products=imitator.products)
        self.from_input = linear(width, 3 * width, rngs=rngs)
        self.from_state = linear(width, 3 * width, kernel_init=_orthogonal_parts, rngs=rngs)
        self.from_state.bias[...] = jnp.concatenate(  # pyright: ignore[reportOptionalSubscript]
            [jnp.zeros(width), _bias_of_half_lives(GRU_HALF_LIVES, width), jnp.zeros(width)]
        )
        self.out = linear(width, width, kernel_init=small, rngs=rngs)

    def init_state(self, num_streams: int) -> jax.Array:
        return jnp.zeros((num_streams, self.out.in_features))

    def over(self, x: jax.Array, is_there: jax.Array | None, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        graph, params = nnx.split(self.from_state)
        there = jnp.ones(x.shape[:2], bool) if is_there is None else is_there

        def step(state, inputs):
            from_input, here = inputs
            new = _gru(from_input, nnx.merge(graph, params)(state), state)
            state = jnp.where(jnp.broadcast_to(here[:, None], new.shape), new, state)
            return state, state

        inputs = (jnp.swapaxes(self.from_input(x), 0, 1), there.T)
        state, hidden = jax.lax.scan(step, state, inputs)
        return self.out(jnp.swapaxes(hidden, 0, 1)), state

    def one(self, x: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = _gru(self.from_input(x), self.from_state(state), state)
        return self.out(state), state


def _gru(from_input: jax.Array, from_state: jax.Array, state: jax.Array) -> jax.Array:
    """The next state [E, D] from the reset, update and candidate parts [E, 3 D] of input and state."""
    reset_i, update_i, new_i = jnp.split(from_input, 3, axis=-1)
    reset_s, update_s, new_s = jnp.split(from_state, 3, axis=-1)
    reset, update = jax.nn.sigmoid(reset_i + reset_s), jax.nn.sigmoid(update_i + update_s)
    new = jnp.tanh(new_i + reset * new_s)
    return new + update * (state - new)


def make_recurrence(imitator: config.Imitator, *, rngs: nnx.Rngs) -> Any:
    """The recurrent layer that the config's kind names."""
    kinds = {"linear_recurrence": LinearRecurrence, "gru": GRU}
    return kinds[imitator.kind](imitator, rngs=rngs)
