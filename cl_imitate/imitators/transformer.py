"""A causal transformer over the visible stream, and its memory.

One embedding a step, the sum of what the previous step brought (action, reward, done) and what is seen now;
from it the action logits. Pre-norm blocks, rotary (relative) positions.

The memory's window is training's window, exactly. Acting proceeds in blocks of `block_steps`. Before a block
the last L - block_steps steps are read again from their tokens, as a training window is, and the block's
steps are then added to the key-value cache. So a step sees at least the last L - block_steps and at most the
last L steps, nothing older reaches it through deeper layers, and every step's logits equal those of a full
forward pass over the same window.

Axes in names: B batch, E streams, L context, D width, H heads, K head size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from cl_imitate import config
from cl_imitate.convolution import columns_of, convolve_3x3
from cl_imitate.imitators.attention import attend_cache, causal_attention, rotate
from cl_imitate.imitators.base import Imitator
from cl_imitate.products import columns_product
from cl_imitate.types import NUM_AGES, Observation, ScreenObservation, Spec, StepTokens, VectorObservation

EMBEDDING_STD = 0.3


class Table(nnx.Module):
    """An embedding, read by a matrix product: the gradient of a gather is a scatter, which is slow."""

    def __init__(self, num: int, width: int, *, rngs: nnx.Rngs):
        self.rows = nnx.Param(EMBEDDING_STD * jax.random.normal(rngs.params(), (num, width)))

    def __call__(self, index: jax.Array) -> jax.Array:
        return jax.nn.one_hot(index, self.rows.shape[0]) @ self.rows[...]

    def weighted(self, amount: jax.Array) -> jax.Array:
        """The first row times an amount, [...] -> [..., D]."""
        return amount.astype(jnp.float32)[..., None] @ self.rows[...]


class ObservationEmbedding(nnx.Module):
    """Symbols by table (or by the tables of their two factors), screens by a convolution, vectors linearly."""

    def __init__(self, observation: Observation, imitator: config.Imitator, *, rngs: nnx.Rngs):
        self.observation = observation
        self.factor = imitator.observation_factor
        width = imitator.width
        if isinstance(observation, ScreenObservation):
            cells = (observation.height - 2) * (observation.width - 2)
            self.convolution = nnx.Linear(9 * observation.channels, imitator.conv_features, rngs=rngs)
            self.project = nnx.Linear(cells * imitator.conv_features, width, rngs=rngs)
        elif isinstance(observation, VectorObservation):
            self.project = nnx.Linear(observation.num_values, width, rngs=rngs)
        elif self.factor:
            self.high = Table(-(-observation.num_symbols // self.factor), width, rngs=rngs)
            self.low = Table(self.factor, width, rngs=rngs)
        else:
            self.table = Table(observation.num_symbols, width, rngs=rngs)

    def __call__(self, obs: jax.Array) -> jax.Array:
        if isinstance(self.observation, ScreenObservation):
            screens = columns_of(obs.reshape(-1, obs.shape[-1]), self.observation)
            filtered = convolve_3x3(screens, self.convolution.kernel[...])
            bias_F = self.convolution.bias[...]  # pyright: ignore[reportOptionalSubscript]
            bias = jnp.broadcast_to(bias_F[:, None, None], filtered.shape)
            cells = jax.nn.relu(filtered + bias).reshape(-1, filtered.shape[-1])
            projected = columns_product(cells, self.project.kernel[...]).reshape(*obs.shape[:-1], -1)
            bias = self.project.bias[...]  # pyright: ignore[reportOptionalSubscript]
            return projected + jnp.broadcast_to(bias, projected.shape)
        if isinstance(self.observation, VectorObservation):
            return self.project(self.observation.unpack(obs))
        symbol = obs.astype(jnp.int32)
        if self.factor:
            return self.high(symbol // self.factor) + self.low(symbol % self.factor)
        return self.table(symbol)


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, the residual branches' outputs scaled down with depth."""

    def __init__(self, imitator: config.Imitator, *, rngs: nnx.Rngs):
        width, depth = imitator.width, imitator.num_layers
        small = nnx.initializers.variance_scaling(1.0 / depth**2, "fan_in", "normal")
        self.num_heads = imitator.num_heads
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=small, rngs=rngs)
        self.norm_forward = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, kernel_init=small, rngs=rngs)

    def heads(self, x: jax.Array, position_L: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, L, D] -> queries, keys (both rotated) and values, each [B, L, H, K]."""
        qkv = self.qkv(self.norm_attention(x))
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], 3 * self.num_heads, -1), 3, axis=2)
        return rotate(q, position_L), rotate(k, position_L), v

    def forward(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(self.norm_forward(x))))


class Decoder(nnx.Module):
    """The whole network."""

    def __init__(self, imitator: config.Imitator, spec: Spec, *, rngs: nnx.Rngs):
        width = imitator.width
        self.num_actions = spec.num_actions
        self.obs = ObservationEmbedding(spec.observation, imitator, rngs=rngs)
        self.action = Table(spec.num_actions + 1, width, rngs=rngs)
        self.reward = Table(1, width, rngs=rngs)
        self.done = Table(1, width, rngs=rngs)
        self.begin = Table(1, width, rngs=rngs)
        self.age = Table(NUM_AGES, width, rngs=rngs)
        self.blocks = nnx.List([Block(imitator, rngs=rngs) for _ in range(imitator.num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, spec.num_actions, rngs=rngs)

    def embed(self, tokens: StepTokens) -> jax.Array:
        """Tokens [...] -> [..., D]."""

        return (
            self.obs(tokens.obs)
            + self.action(tokens.prev_action)
            + self.reward.weighted(tokens.prev_reward)
            + self.done.weighted(tokens.prev_done)
            + self.begin.weighted(tokens.is_begin)
            + self.age(tokens.age)
        )

    def logits(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(x)).astype(jnp.float32)


@struct.dataclass(kw_only=True)
class Memory:
    """The window of E streams: its tokens, and the keys and values of those already read."""

    tokens: StepTokens  # [E, L]
    is_there: jax.Array  # bool [E, L]: False where the context holds nothing (yet, or any more)
    keys: tuple[jax.Array, ...]  # a layer each, [E, H, K, L]
    values: tuple[jax.Array, ...]  # a layer each, [E, H, L, K]
    slot: jax.Array  # int32 []: where the next step goes, the same for all streams


def empty_tokens(lead: tuple[int, ...], spec: Spec) -> StepTokens:
    """Tokens of leading shape `lead` that say nothing."""
    return StepTokens(
        obs=jnp.zeros((*lead, *spec.observation.shape), jnp.uint8),
        prev_action=jnp.full(lead, spec.num_actions, jnp.int32),
        prev_reward=jnp.zeros(lead, jnp.float32),
        prev_done=jnp.zeros(lead, bool),
        is_begin=jnp.zeros(lead, bool),
        age=jnp.zeros(lead, jnp.int32),
    )


def _dropout(x: jax.Array, key: jax.Array | None, rate: float) -> jax.Array:
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def _mask_inputs(tokens: StepTokens, key: jax.Array, rate: float, num_actions: int) -> StepTokens:
    """Hide a share of the previous actions and rewards."""
    if rate == 0.0:
        return tokens
    action_key, reward_key = jax.random.split(key)
    shape = tokens.prev_action.shape
    return tokens.replace(
        prev_action=jnp.where(jax.random.bernoulli(action_key, rate, shape), num_actions, tokens.prev_action),
        prev_reward=jnp.where(jax.random.bernoulli(reward_key, rate, shape), 0.0, tokens.prev_reward),
    )


def make_transformer(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> Imitator:
    """The transformer of `imitator` with a window of `context_steps`.

    Raises:
      ValueError: the heads do not divide the width evenly, or the refill leaves no context.
    """
    refill = imitator.refill_steps or context_steps // 2
    if not 0 < refill < context_steps:
        raise ValueError(
            f"imitator.refill_steps = {refill} must lie between 1 and context_steps - 1 = {context_steps - 1}"
        )
    if imitator.width % (2 * imitator.num_heads):
        raise ValueError(
            f"imitator.width = {imitator.width} must be a multiple of 2 * num_heads = {2 * imitator.num_heads}"
        )
    keep = context_steps - refill
    head_size = imitator.width // imitator.num_heads

    def build(key: jax.Array) -> Decoder:
        return Decoder(imitator, spec, rngs=nnx.Rngs(params=key))

    graph = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))))[0]

    def merge(params: Any) -> Decoder:
        return nnx.merge(graph, nnx.State(params))

    def init(key):
        return nnx.to_pure_dict(nnx.split(build(key))[1])

    def read(model: Decoder, tokens: StepTokens, is_there, key=None):
        """A window in one pass: [B, L, D], and each layer's keys and values [B, L, H, K]."""
        dropout_keys = [None] * (1 + 2 * imitator.num_layers)
        if key is not None:
            key, mask_key = jax.random.split(key)
            tokens = _mask_inputs(tokens, mask_key, imitator.mask_inputs, spec.num_actions)
            dropout_keys = list(jax.random.split(key, len(dropout_keys)))
        x = _dropout(model.embed(tokens), dropout_keys[0], imitator.dropout)
        position = jnp.arange(x.shape[1])
        cache = []
        for block, first, second in zip(model.blocks, dropout_keys[1::2], dropout_keys[2::2], strict=True):
            q, k, v = block.heads(x, position)
            cache.append((k, v))
            mixed = block.out(causal_attention(q, k, v, is_there).reshape(x.shape))
            x = x + _dropout(mixed, first, imitator.dropout)
            x = x + _dropout(block.forward(x), second, imitator.dropout)
        return x, cache

    def logits(params, tokens, key):
        model = merge(params)
        return model.logits(read(model, tokens, None, key)[0])

    def init_memory(num_streams):
        heads = imitator.num_heads
        keys = jnp.zeros((num_streams, heads, head_size, context_steps))
        values = jnp.zeros((num_streams, heads, context_steps, head_size))
        return Memory(
            tokens=empty_tokens((num_streams, context_steps), spec),
            is_there=jnp.zeros((num_streams, context_steps), bool),
            keys=(keys,) * imitator.num_layers,
            values=(values,) * imitator.num_layers,
            slot=jnp.int32(context_steps),
        )

    def prompt(params, memory, tokens, is_there):
        del params  # the tokens are read by the next `begin_block`

        def append(old, new):
            return jnp.concatenate([old, new], axis=1)[:, -context_steps:]

        return memory.replace(
            tokens=jax.tree.map(append, memory.tokens, tokens),
            is_there=append(memory.is_there, is_there),
            slot=jnp.int32(context_steps),
        )

    def begin_block(params, memory):
        model = merge(params)

        def shift(x):
            return jnp.concatenate([x[:, refill:], jnp.zeros_like(x[:, :refill])], axis=1)

        tokens, is_there = jax.tree.map(shift, memory.tokens), shift(memory.is_there)
        kept = jax.tree.map(lambda x: x[:, :keep], tokens)
        cache = read(model, kept, is_there[:, :keep])[1]
        rest = (0, refill)
        pad_keys, pad_values = ((0, 0), (0, 0), (0, 0), rest), ((0, 0), (0, 0), rest, (0, 0))
        return Memory(
            tokens=tokens,
            is_there=is_there,
            keys=tuple(jnp.pad(jnp.transpose(k, (0, 2, 3, 1)), pad_keys) for k, _ in cache),
            values=tuple(jnp.pad(jnp.swapaxes(v, 1, 2), pad_values) for _, v in cache),
            slot=jnp.int32(keep),
        )

    def act(params, memory, tokens):
        model, slot = merge(params), memory.slot

        def put(buffer, new):
            return jax.lax.dynamic_update_slice_in_dim(
                buffer, new[:, None].astype(buffer.dtype), slot, axis=1
            )

        is_there = put(memory.is_there, jnp.ones_like(memory.is_there[:, 0]))
        x = model.embed(tokens)[:, None]
        keys, values = [], []
        for block, old_keys, old_values in zip(model.blocks, memory.keys, memory.values, strict=True):
            q, k, v = block.heads(x, slot[None])
            new_keys = jax.lax.dynamic_update_slice_in_dim(old_keys, k[:, 0, :, :, None], slot, axis=3)
            new_values = jax.lax.dynamic_update_slice_in_dim(old_values, v[:, 0, :, None], slot, axis=2)
            mixed = attend_cache(q[:, 0], new_keys, new_values, is_there)
            x = x + block.out(mixed.reshape(x.shape))
            x = x + block.forward(x)
            keys.append(new_keys)
            values.append(new_values)
        memory = Memory(
            tokens=jax.tree.map(put, memory.tokens, tokens),
            is_there=is_there,
            keys=tuple(keys),
            values=tuple(values),
            slot=slot + 1,
        )
        return model.logits(x[:, 0]), memory

    def forget(memory, where):
        return memory.replace(is_there=memory.is_there & ~where[:, None])

    return Imitator(
        init=init,
        logits=logits,
        init_memory=init_memory,
        prompt=prompt,
        begin_block=begin_block,
        act=act,
        forget=forget,
        block_steps=refill,
        num_actions=spec.num_actions,
    )
