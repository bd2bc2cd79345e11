"""Recurrent imitators: a state of fixed size in place of a window, carried for as long as they live.

The transformer's blocks with a recurrence (`recurrence.py`) in attention's place. Training reads windows, each from
an empty state; acting goes on from its own state for ever, so what was seen is forgotten only as the gates choose.

Axes in names: E streams, L context, D width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cl_imitate import config
from cl_imitate.imitators.embedding import StepEmbedding, dropout, training_noise
from cl_imitate.imitators.linear import Linear
from cl_imitate.imitators.recurrence import make_recurrence
from cl_imitate.types import Spec, StepTokens

Memory = tuple[Any, ...]
"""A recurrence's state for each layer, leaves [E, ...]."""


class Block(nnx.Module):
    """Pre-norm recurrence and feed-forward."""

    def __init__(self, imitator: config.Imitator, *, rngs: nnx.Rngs):
        width, depth = imitator.width, imitator.num_layers
        small = nnx.initializers.variance_scaling(1.0 / depth**2, "fan_in", "normal")
        linear = functools.partial(Linear, products=imitator.products)
        self.norm_recurrence = nnx.LayerNorm(width, rngs=rngs)
        self.recurrence = make_recurrence(imitator, rngs=rngs)
        self.norm_forward = nnx.LayerNorm(width, rngs=rngs)
        self.up = linear(width, 4 * width, rngs=rngs)
        self.down = linear(4 * width, width, kernel_init=small, rngs=rngs)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(self.norm_forward(x))))


class Network(StepEmbedding):
    """The whole network."""

    def __init__(self, imitator: config.Imitator, spec: Spec, *, rngs: nnx.Rngs):
        super().__init__(imitator, spec, rngs=rngs)
        self.blocks = nnx.List([Block(imitator, rngs=rngs) for _ in range(imitator.num_layers)])
        self.norm = nnx.LayerNorm(imitator.width, rngs=rngs)
        self.head = Linear(imitator.width, spec.num_actions, products="float32", rngs=rngs)

    def logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(x)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Recurrent:
    """The network of a config, as pure functions of its parameters.

    Raises:
      ValueError: the heads do not divide the width; positions or a window, which a recurrence has not.
    """

    imitator: config.Imitator
    spec: Spec

    def __post_init__(self):
        imitator = self.imitator
        if imitator.width % imitator.num_heads:
            raise ValueError(
                f"imitator.width = {imitator.width} must be a multiple of num_heads = {imitator.num_heads}"
            )
        if imitator.positions == "absolute" or imitator.attention_steps:
            raise ValueError(
                f'imitator.kind = "{imitator.kind}" has no positions and no window: leave imitator.positions and '
                'imitator.attention_steps out, or set imitator.kind = "transformer".'
            )

    def build(self, key: jax.Array) -> Network:
        return Network(self.imitator, self.spec, rngs=nnx.Rngs(params=key))

    def merge(self, params: Any) -> Network:
        return nnx.merge(_graph(self), nnx.State(params))

    def init(self, key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.split(self.build(key))[1])

    def init_memory(self, num_streams: int) -> Memory:
        states = jax.eval_shape(
            lambda: tuple(
                block.recurrence.init_state(num_streams) for block in self.build(jax.random.key(0)).blocks
            )
        )
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), states)

    def read(
        self,
        model: Network,
        tokens: StepTokens,
        is_there: jax.Array | None,
        memory: Memory,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Memory]:
        """A window from a memory on: [E, L, D], and the memory after it. A key means training."""
        imitator = self.imitator
        tokens, dropout_keys = training_noise(tokens, key, imitator, self.spec.num_actions)
        x = dropout(model(tokens), dropout_keys[0], imitator.dropout)
        after = []
        for block, state, *keys in zip(
            model.blocks, memory, dropout_keys[1::2], dropout_keys[2::2], strict=True
        ):
            if imitator.rematerialise and key is not None:
                graph, params = nnx.split(block)
                again = jax.checkpoint(
                    lambda params, *rest, graph=graph: self._layer(nnx.merge(graph, params), *rest)
                )
                x, state = again(params, x, is_there, state, keys)
            else:
                x, state = self._layer(block, x, is_there, state, keys)
            after.append(state)
        return x, tuple(after)

    def _layer(self, block: Block, x, is_there, state, dropout_keys):
        mixed, state = block.recurrence.over(block.norm_recurrence(x), is_there, state)
        x = x + dropout(mixed, dropout_keys[0], self.imitator.dropout)
        return x + dropout(block.forward(x), dropout_keys[1], self.imitator.dropout), state

    def logits(self, params: Any, tokens: StepTokens, key: jax.Array | None) -> jax.Array:
        model, memory = self.merge(params), self.init_memory(tokens.prev_action.shape[0])
        return model.logits(self.read(model, tokens, None, memory, key)[0])

    def prompt(self, params: Any, memory: Memory, tokens: StepTokens, is_there: jax.Array) -> Memory:
        return self.read(self.merge(params), tokens, is_there, memory)[1]

    def begin_block(self, params: Any, memory: Memory) -> Memory:
        del params
        return memory

    def act(self, params: Any, memory: Memory, tokens: StepTokens) -> tuple[jax.Array, Memory]:
        model = self.merge(params)
        x, after = model(tokens), []
        for block, state in zip(model.blocks, memory, strict=True):
            mixed, state = block.recurrence.one(block.norm_recurrence(x), state)
            x = x + mixed
            x = x + block.forward(x)
            after.append(state)
        return model.logits(x), tuple(after)

    def forget(self, memory: Memory, where: jax.Array) -> Memory:
        def keep(x):
            gone = where.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(jnp.broadcast_to(gone, x.shape), jnp.zeros_like(x), x)

        return jax.tree.map(keep, memory)


@functools.cache
def _graph(recurrent: Recurrent):
    """What a network is besides its parameters."""
    return nnx.split(nnx.eval_shape(lambda: recurrent.build(jax.random.key(0))))[0]
