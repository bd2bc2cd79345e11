"""A transformer's memory in which every layer keeps the keys and values of its last W steps, in a ring.

Nothing is ever read again, so acting costs the same at every step. Through its layers a step feels what lies up to
num_layers * (W - 1) steps back; training attends in the same way (`reach`), so this is part of what was trained, and
a step's logits equal those of a full forward pass over the whole life.

Axes in names: E streams, P prompt, W attention steps, H heads, K head size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.imitators.transformer import Transformer
from cl_imitate.types import StepTokens


@struct.dataclass(kw_only=True)
class Memory:
    """The rings of E streams."""

    is_there: jax.Array  # bool [E, W]: False where the ring holds nothing (yet, or any more)
    keys: tuple[jax.Array, ...]  # a layer each, [E, H, K, W]
    values: tuple[jax.Array, ...]  # a layer each, [E, H, W, K]
    step: jax.Array  # int32 []: steps read; the next one goes to this, modulo W


@dataclasses.dataclass(frozen=True)
class RingMemory:
    """`transformer` acting on a ring of `imitator.attention_steps`."""

    transformer: Transformer

    @property
    def size(self) -> int:
        return self.transformer.imitator.attention_steps

    def init_memory(self, num_streams: int) -> Memory:
        of = self.transformer
        heads, layers = of.imitator.num_heads, of.imitator.num_layers
        return Memory(
            is_there=jnp.zeros((num_streams, self.size), bool),
            keys=(jnp.zeros((num_streams, heads, of.head_size, self.size), of.cache_dtype),) * layers,
            values=(jnp.zeros((num_streams, heads, self.size, of.head_size), of.cache_dtype),) * layers,
            step=jnp.int32(0),
        )

    def prompt(self, params: Any, memory: Memory, tokens: StepTokens, is_there: jax.Array) -> Memory:
        """In one pass; the memory must be empty."""
        model = self.transformer.merge(params)
        cache = self.transformer.read(model, tokens, is_there)[1]
        num_steps = is_there.shape[1]

        def in_ring(x, axis):
            """The last W of `num_steps` along an axis, each at its step modulo W."""
            missing = max(0, self.size - num_steps)
            last = jax.lax.slice_in_dim(x, max(0, num_steps - self.size), num_steps, axis=axis)
            padding = [(0, missing if i == axis else 0) for i in range(x.ndim)]
            return jnp.roll(jnp.pad(last, padding), 0 if missing else num_steps % self.size, axis=axis)

        return memory.replace(
            is_there=in_ring(is_there, 1),
            keys=tuple(in_ring(jnp.transpose(k, (0, 2, 3, 1)), 3) for k, _ in cache),
            values=tuple(in_ring(jnp.swapaxes(v, 1, 2), 2) for _, v in cache),
            step=jnp.int32(num_steps),
        )

    def begin_block(self, params: Any, memory: Memory) -> Memory:
        del params
        return memory

    def act(self, params: Any, memory: Memory, tokens: StepTokens) -> tuple[jax.Array, Memory]:
        slot = memory.step % self.size
        here = jnp.ones_like(memory.is_there[:, :1])
        is_there = jax.lax.dynamic_update_slice_in_dim(memory.is_there, here, slot, axis=1)
        logits, keys, values = self.transformer.act_on_cache(
            params, tokens, memory.keys, memory.values, is_there, step=memory.step, slot=slot
        )
        return logits, Memory(is_there=is_there, keys=keys, values=values, step=memory.step + 1)

    def forget(self, memory: Memory, where: jax.Array) -> Memory:
        return memory.replace(is_there=memory.is_there & ~where[:, None])
