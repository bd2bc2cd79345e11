"""What an imitator is told at a step, as one vector: the sum of what the previous step brought and what is seen now.

Every kind of imitator reads the stream through this, so that kinds differ in their memories alone. Parts can be
left out by the config, to measure what they are worth; a part that is left out has no weights.

Axes in names: B batch, L context, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cl_imitate import config
from cl_imitate.convolution import columns_of, convolve_3x3
from cl_imitate.imitators.linear import Linear
from cl_imitate.products import columns_product, einsum
from cl_imitate.types import (
    NUM_AGES,
    NUM_REPLAY_FEATURES,
    NUM_SEED_FEATURES,
    Observation,
    ScreenObservation,
    Spec,
    StepTokens,
    VectorObservation,
)

EMBEDDING_STD = 0.3


class Table(nnx.Module):
    """An embedding, read by a matrix product: the gradient of a gather is a scatter, which is slow."""

    def __init__(self, num: int, width: int, *, rngs: nnx.Rngs):
        self.rows = nnx.Param(EMBEDDING_STD * jax.random.normal(rngs.params(), (num, width)))

    def __call__(self, index: jax.Array) -> jax.Array:
        return einsum("...s,sd->...d", jax.nn.one_hot(index, self.rows.shape[0]), self.rows[...], "float32")

    def weighted(self, amount: jax.Array) -> jax.Array:
        """The first row times an amount, [...] -> [..., D]."""
        return einsum("...s,sd->...d", amount.astype(jnp.float32)[..., None], self.rows[...], "float32")


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
            self.project = Linear(observation.num_values, width, products="float32", rngs=rngs)
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


class StepEmbedding(nnx.Module):
    """Tokens [...] -> [..., D]."""

    def __init__(self, imitator: config.Imitator, spec: Spec, *, rngs: nnx.Rngs):
        width = imitator.width
        self.obs = ObservationEmbedding(spec.observation, imitator, rngs=rngs)
        self.action = Table(spec.num_actions + 1, width, rngs=rngs)
        self.reward = Table(1, width, rngs=rngs) if imitator.reads_reward else None
        self.done = Table(1, width, rngs=rngs) if imitator.reads_done else None
        self.begin = Table(1, width, rngs=rngs)
        self.age = Table(NUM_AGES, width, rngs=rngs) if imitator.reads_age else None
        self.sees = imitator.sees
        self.coin = Table(1, width, rngs=rngs) if imitator.shows("coin") else None
        self.replay = _features(NUM_REPLAY_FEATURES, width, rngs) if imitator.shows("replay") else None
        self.seed = _features(NUM_SEED_FEATURES, width, rngs) if imitator.shows("seed") else None

    def __call__(self, tokens: StepTokens) -> jax.Array:
        x = self.obs(tokens.obs) + self.action(tokens.prev_action)
        if self.reward is not None:
            x = x + self.reward.weighted(tokens.prev_reward)
        if self.done is not None:
            x = x + self.done.weighted(tokens.prev_done)
        x = x + self.begin.weighted(tokens.is_begin)
        if self.coin is not None:
            x = x + self.coin.weighted(self._given(tokens, "coin"))
        if self.replay is not None:
            x = x + self.replay(self._given(tokens, "replay"))
        if self.seed is not None:
            x = x + self.seed(self._given(tokens, "seed"))
        return x if self.age is None else x + self.age(tokens.age)

    def _given(self, tokens: StepTokens, part: str) -> jax.Array:
        if (found := getattr(tokens, part)) is None:
            raise ValueError(f'imitator.sees = "{self.sees}", but the tokens carry no {part}')
        return found


def _features(num: int, width: int, rngs: nnx.Rngs) -> Linear:
    """Numbers that stand for one thing, as a vector; zeros stay nothing."""
    return Linear(num, width, products="float32", use_bias=False, rngs=rngs)


def empty_tokens(lead: tuple[int, ...], spec: Spec, imitator: config.Imitator | None = None) -> StepTokens:
    """Tokens of leading shape `lead` that say nothing; for an imitator that sees more than the stream, name it."""
    shows = (lambda _: False) if imitator is None else imitator.shows
    return StepTokens(
        obs=jnp.zeros((*lead, *spec.observation.shape), jnp.uint8),
        prev_action=jnp.full(lead, spec.num_actions, jnp.int32),
        prev_reward=jnp.zeros(lead, jnp.float32),
        prev_done=jnp.zeros(lead, bool),
        is_begin=jnp.zeros(lead, bool),
        age=jnp.zeros(lead, jnp.int32),
        coin=jnp.zeros(lead, bool) if shows("coin") else None,
        replay=jnp.zeros((*lead, NUM_REPLAY_FEATURES), jnp.float32) if shows("replay") else None,
        seed=jnp.zeros((*lead, NUM_SEED_FEATURES), jnp.float32) if shows("seed") else None,
    )


def dropout(x: jax.Array, key: jax.Array | None, rate: float) -> jax.Array:
    """Inverted dropout; nothing without a key."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0)


def training_noise(
    tokens: StepTokens, key: jax.Array | None, imitator: config.Imitator, num_actions: int
) -> tuple[StepTokens, list[jax.Array | None]]:
    """Tokens with a share of their actions and rewards hidden, and keys for dropout: one for the embedding, then two
    a layer. Without a key, the tokens as they are and no keys."""
    num_keys = 1 + 2 * imitator.num_layers
    if key is None:
        return tokens, [None] * num_keys
    dropout_key, mask_key = jax.random.split(key)
    tokens = _mask_inputs(tokens, mask_key, imitator.mask_inputs, num_actions)
    return tokens, list(jax.random.split(dropout_key, num_keys))


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
