"""A transformer's memory whose window is training's window, exactly.

Acting proceeds in blocks of `refill` steps. Before a block the last L - refill steps are read again from their
tokens, as a training window is, and the block's steps are then added to the key-value cache. So a step sees at least
the last L - refill and at most the last L steps, nothing older reaches it through deeper layers, and every step's
logits equal those of a full forward pass over the same window.

Axes in names: E streams, L context, H heads, K head size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.transformer import Transformer
from cl_imitate.types import StepTokens


@struct.dataclass(kw_only=True)
class Memory:
    """The window of E streams: its tokens, and the keys and values of those already read."""

    tokens: StepTokens  # [E, L]
    is_there: jax.Array  # bool [E, L]: False where the context holds nothing (yet, or any more)
    keys: tuple[jax.Array, ...]  # a layer each, [E, H, K, L]
    values: tuple[jax.Array, ...]  # a layer each, [E, H, L, K]
    slot: jax.Array  # int32 []: where the next step goes, the same for all streams


@dataclasses.dataclass(frozen=True)
class RefillMemory:
    """`transformer` acting, its memory read again every `refill` steps.

    Raises:
      ValueError: the refill leaves no context.
    """

    transformer: Transformer
    refill: int

    def __post_init__(self):
        most = self.transformer.context_steps - 1
        if not 0 < self.refill <= most:
            raise ValueError(
                f"imitator.refill_steps = {self.refill} must lie between 1 and context_steps - 1 = {most}"
            )

    def init_memory(self, num_streams: int) -> Memory:
        of, length = self.transformer, self.transformer.context_steps
        heads, layers = of.imitator.num_heads, of.imitator.num_layers
        return Memory(
            tokens=empty_tokens((num_streams, length), of.spec, of.imitator),
            is_there=jnp.zeros((num_streams, length), bool),
            keys=(jnp.zeros((num_streams, heads, of.head_size, length), of.cache_dtype),) * layers,
            values=(jnp.zeros((num_streams, heads, length, of.head_size), of.cache_dtype),) * layers,
            slot=jnp.int32(length),
        )

    def prompt(self, params: Any, memory: Memory, tokens: StepTokens, is_there: jax.Array) -> Memory:
        del params  # the tokens are read by the next `begin_block`
        length = self.transformer.context_steps

        def append(old, new):
            return jnp.concatenate([old, new], axis=1)[:, -length:]

        return memory.replace(
            tokens=jax.tree.map(append, memory.tokens, tokens),
            is_there=append(memory.is_there, is_there),
            slot=jnp.int32(length),
        )

    def begin_block(self, params: Any, memory: Memory) -> Memory:
        model, refill = self.transformer.merge(params), self.refill
        keep = self.transformer.context_steps - refill

        def shift(x):
            return jnp.concatenate([x[:, refill:], jnp.zeros_like(x[:, :refill])], axis=1)

        tokens, is_there = jax.tree.map(shift, memory.tokens), shift(memory.is_there)
        kept = jax.tree.map(lambda x: x[:, :keep], tokens)
        cache = self.transformer.read(model, kept, is_there[:, :keep])[1]
        rest = (0, refill)
        pad_keys, pad_values = ((0, 0), (0, 0), (0, 0), rest), ((0, 0), (0, 0), rest, (0, 0))
        return Memory(
            tokens=tokens,
            is_there=is_there,
            keys=tuple(jnp.pad(jnp.transpose(k, (0, 2, 3, 1)), pad_keys) for k, _ in cache),
            values=tuple(jnp.pad(jnp.swapaxes(v, 1, 2), pad_values) for _, v in cache),
            slot=jnp.int32(keep),
        )

    def act(self, params: Any, memory: Memory, tokens: StepTokens) -> tuple[jax.Array, Memory]:
        slot = memory.slot

        def put(buffer, new):
            return jax.lax.dynamic_update_slice_in_dim(
                buffer, new[:, None].astype(buffer.dtype), slot, axis=1
            )

        is_there = put(memory.is_there, jnp.ones_like(memory.is_there[:, 0]))
        logits, keys, values = self.transformer.act_on_cache(
            params, tokens, memory.keys, memory.values, is_there, step=slot, slot=slot
        )
        memory = Memory(
            tokens=jax.tree.map(put, memory.tokens, tokens),
            is_there=is_there,
            keys=keys,
            values=values,
            slot=slot + 1,
        )
        return logits, memory

    def forget(self, memory: Memory, where: jax.Array) -> Memory:
        return memory.replace(is_there=memory.is_there & ~where[:, None])
