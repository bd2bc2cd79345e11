"""A causal transformer over the visible stream: the network, and how it reads a window.

Pre-norm blocks, rotary (relative) positions unless the config asks for learned absolute ones. Two kinds of memory act
with it: `refill_memory` (the last steps are read again, as a training window is) and `ring_memory` (each layer keeps
the keys and values of its last steps).

Axes in names: B batch, E streams, L context, D width, H heads, K head size.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cl_imitate import config
from cl_imitate.imitators.attention import (
    CosSin,
    attend_cache,
    causal_attention,
    cos_sin,
    endless_angles,
    rotate,
    window_angles,
)
from cl_imitate.imitators.embedding import StepEmbedding, Table, dropout, training_noise
from cl_imitate.imitators.linear import BranchLinear, Linear, gelu
from cl_imitate.products import branch_dtype
from cl_imitate.types import Spec, StepTokens


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, the residual branches' outputs scaled down with depth."""

    def __init__(self, imitator: config.Imitator, *, rngs: nnx.Rngs):
        width, depth = imitator.width, imitator.num_layers
        small = nnx.initializers.variance_scaling(1.0 / depth**2, "fan_in", "normal")
        linear = functools.partial(BranchLinear, products=imitator.products)
        self.num_heads = imitator.num_heads
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = linear(width, 3 * width, rngs=rngs)
        self.out = linear(width, width, kernel_init=small, rngs=rngs)
        self.norm_forward = nnx.LayerNorm(width, rngs=rngs)
        self.up = linear(width, 4 * width, rngs=rngs)
        self.down = linear(4 * width, width, kernel_init=small, rngs=rngs)

    def heads(self, x: jax.Array, turns: CosSin | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, L, D] -> queries, keys (both rotated by the turns, if any) and values, each [B, L, H, K]."""
        qkv = self.qkv(self.norm_attention(x))
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], 3 * self.num_heads, -1), 3, axis=2)
        return (q, k, v) if turns is None else (rotate(q, turns), rotate(k, turns), v)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.down(gelu(self.up(self.norm_forward(x))))


class Decoder(StepEmbedding):
    """The whole network."""

    def __init__(self, imitator: config.Imitator, spec: Spec, context_steps: int, *, rngs: nnx.Rngs):
        super().__init__(imitator, spec, rngs=rngs)
        width = imitator.width
        self.blocks = nnx.List([Block(imitator, rngs=rngs) for _ in range(imitator.num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = Linear(width, spec.num_actions, products="float32", rngs=rngs)
        is_absolute = imitator.positions == "absolute"
        self.place = Table(context_steps, width, rngs=rngs) if is_absolute else None

    def at_place(self, x: jax.Array, place: jax.Array) -> jax.Array:
        """[..., D] with the vectors of their places in the window, int [...], if the config asks for them."""
        return x if self.place is None else x + self.place(place)

    def logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(x)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The network of a config, as pure functions of its parameters.

    Raises:
      ValueError: the heads do not divide the width evenly; positions that a memory without end does not have.
    """

    imitator: config.Imitator
    spec: Spec
    context_steps: int

    def __post_init__(self):
        imitator = self.imitator
        if imitator.width % (2 * imitator.num_heads):
            raise ValueError(
                f"imitator.width = {imitator.width} must be a multiple of 2 * num_heads = {2 * imitator.num_heads}"
            )
        if imitator.attention_steps and imitator.positions == "absolute":
            raise ValueError(
                'imitator.positions = "absolute" needs a window with an end: set imitator.attention_steps = 0.'
            )

    @property
    def head_size(self) -> int:
        return self.imitator.width // self.imitator.num_heads

    @property
    def reach(self) -> int:
        """How many last steps a layer attends to, its own included."""
        return self.imitator.attention_steps or self.context_steps

    @property
    def cache_dtype(self) -> jnp.dtype:
        """What keys and values are kept in."""
        return branch_dtype(self.imitator.products)

    def build(self, key: jax.Array) -> Decoder:
        return Decoder(self.imitator, self.spec, self.context_steps, rngs=nnx.Rngs(params=key))

    def merge(self, params: Any) -> Decoder:
        return nnx.merge(_graph(self), nnx.State(params))

    def init(self, key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.split(self.build(key))[1])

    def turns(self, step_L: jax.Array | np.ndarray) -> CosSin | None:
        """Rotary turns of steps int32 [L]: counted from the window's start, or without end where the memory is a ring.

        Steps that are known beforehand (numpy) become constants: left in the program, the sines and cosines are
        computed again for every head of every window, in each layer, forwards and backwards.
        """
        if self.imitator.positions == "absolute":
            return None
        angles = endless_angles if self.imitator.attention_steps > 0 else window_angles
        if not isinstance(step_L, np.ndarray):
            return cos_sin(angles(step_L, self.head_size))
        with jax.ensure_compile_time_eval():
            cos, sin = cos_sin(angles(jnp.asarray(step_L), self.head_size))
        return np.asarray(cos), np.asarray(sin)

    def read(
        self,
        model: Decoder,
        tokens: StepTokens,
        is_there: jax.Array | None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        """A window in one pass: [B, L, D], and each layer's keys and values [B, L, H, K]. A key means training."""
        imitator = self.imitator
        tokens, dropout_keys = training_noise(tokens, key, imitator, self.spec.num_actions)
        shape = tokens.prev_action.shape
        position = np.arange(shape[1], dtype=np.int32)
        # a window that begins late is placed as training places a life's beginning: its first step at 0
        place = jnp.broadcast_to(position, shape) if is_there is None else jnp.cumsum(is_there, axis=1) - 1
        x = dropout(model.at_place(model(tokens), place), dropout_keys[0], imitator.dropout)
        layer = functools.partial(self._layer, turns=self.turns(position), is_there=is_there)
        cache = []
        for block, *keys in zip(model.blocks, dropout_keys[1::2], dropout_keys[2::2], strict=True):
            if imitator.rematerialise and key is not None:
                graph, state = nnx.split(block)
                again = jax.checkpoint(
                    lambda state, x, keys, graph=graph: layer(nnx.merge(graph, state), x, keys)
                )
                x, kept = again(state, x, keys)
            else:
                x, kept = layer(block, x, keys)
            cache.append(kept)
        return x, cache

    def _layer(self, block: Block, x, dropout_keys, *, turns, is_there):
        imitator = self.imitator
        q, k, v = block.heads(x, turns)
        attended = causal_attention(q, k, v, is_there, reach=self.reach, products=imitator.products)
        x = _plus(x, block.out(attended.reshape(x.shape)), dropout_keys[0], imitator.dropout)
        return _plus(x, block.forward(x), dropout_keys[1], imitator.dropout), (k, v)

    def act_on_cache(
        self, params: Any, tokens: StepTokens, keys, values, is_there: jax.Array, *, step, slot
    ) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """One step of E streams, its keys and values put into `slot`. Logits [E, A], and each layer's caches."""
        model = self.merge(params)
        x = model.at_place(model(tokens), jnp.sum(is_there, axis=1) - 1)[:, None]
        turns = self.turns(step[None])
        new_keys, new_values = [], []
        for block, old_keys, old_values in zip(model.blocks, keys, values, strict=True):
            q, k, v = block.heads(x, turns)
            all_keys = jax.lax.dynamic_update_slice_in_dim(old_keys, k[:, 0, :, :, None], slot, axis=3)
            all_values = jax.lax.dynamic_update_slice_in_dim(old_values, v[:, 0, :, None], slot, axis=2)
            mixed = attend_cache(q[:, 0], all_keys, all_values, is_there, products=self.imitator.products)
            x = _plus(x, block.out(mixed.reshape(x.shape)))
            x = _plus(x, block.forward(x))
            new_keys.append(all_keys)
            new_values.append(all_values)
        return model.logits(x[:, 0]), tuple(new_keys), tuple(new_values)

    def logits(self, params: Any, tokens: StepTokens, key: jax.Array | None) -> jax.Array:
        model = self.merge(params)
        return model.logits(self.read(model, tokens, None, key)[0])


def _plus(x: jax.Array, branch: jax.Array, key: jax.Array | None = None, rate: float = 0.0) -> jax.Array:
    """The residual stream, float32 whatever its branches are, with dropout on the branch."""
    return x + dropout(branch.astype(x.dtype), key, rate)


@functools.cache
def _graph(transformer: Transformer):
    """What a network is besides its parameters."""
    return nnx.split(nnx.eval_shape(lambda: transformer.build(jax.random.key(0))))[0]
