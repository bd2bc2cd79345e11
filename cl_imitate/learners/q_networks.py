"""Q-networks: an MLP for symbols, the MinAtar convolution for screens. Parameters are plain pytrees."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cl_imitate.convolution import patches_3x3
from cl_imitate.types import ScreenObservation, Spec, SymbolObservation


class QNetwork(NamedTuple):
    """init(key) -> params; apply(params, obs [..., obs shape]) -> action values float32 [..., A]."""

    init: Callable
    apply: Callable


class SymbolFeatures(nnx.Module):
    """One row of a table for each symbol: a linear layer on the one-hot symbol, without the padding's cost.

    The rows have standard deviation 0.5 whatever the padded vocabulary, so an unused symbol changes nothing.
    """

    def __init__(self, num_symbols: int, width: int, *, rngs: nnx.Rngs):
        self.num_symbols = num_symbols
        self.table = nnx.Param(0.5 * jax.random.normal(rngs.params(), (num_symbols, width)))
        self.bias = nnx.Param(jnp.zeros((width,)))

    def __call__(self, obs: jax.Array) -> jax.Array:
        one_hot = jax.nn.one_hot(obs, self.num_symbols)
        return one_hot @ self.table[...] + jnp.broadcast_to(self.bias[...], (*obs.shape, self.bias.shape[-1]))


class ScreenFeatures(nnx.Module):
    """One 3 x 3 convolution of stride 1, as patches times a matrix.

    Under a `vmap` over learners' weights a `lax.conv` becomes a grouped convolution, which is several times
    slower; a batched matrix product is not.
    """

    def __init__(self, observation: ScreenObservation, features: int, *, rngs: nnx.Rngs):
        self.observation = observation
        self.linear = _torch_linear(9 * observation.channels, features, rngs=rngs)

    @property
    def num_features(self) -> int:
        return (self.observation.height - 2) * (self.observation.width - 2) * self.linear.out_features

    def __call__(self, obs: jax.Array) -> jax.Array:
        patches = patches_3x3(self.observation.unpack(obs))
        return self.linear(patches).reshape(*obs.shape[:-1], self.num_features)


class QModule(nnx.Module):
    """Features, then a multi-layer perceptron with rectified units."""

    def __init__(self, spec: Spec, hidden: tuple[int, ...], conv_features: int, *, rngs: nnx.Rngs):
        if isinstance(spec.observation, SymbolObservation):
            self.features = SymbolFeatures(spec.observation.num_symbols, hidden[0], rngs=rngs)
            sizes, out_std = hidden, 0.1
        else:
            self.features = ScreenFeatures(spec.observation, conv_features, rngs=rngs)
            sizes, out_std = (self.features.num_features, *hidden), None
        self.layers = nnx.List(
            [_torch_linear(n_in, n_out, rngs=rngs) for n_in, n_out in zip(sizes, sizes[1:], strict=False)]
        )
        self.head = _torch_linear(sizes[-1], spec.num_actions, rngs=rngs, std=out_std)

    def __call__(self, obs: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.features(obs))
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.head(x)


def _torch_linear(n_in: int, n_out: int, *, rngs: nnx.Rngs, std: float | None = None) -> nnx.Linear:
    """A linear layer with PyTorch's default initialisation, which the published MinAtar DQN used."""
    if std is not None:
        return nnx.Linear(n_in, n_out, kernel_init=nnx.initializers.normal(std), rngs=rngs)
    bound = 1.0 / math.sqrt(n_in)

    def uniform(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(n_in, n_out, kernel_init=uniform, bias_init=uniform, rngs=rngs)


def make_q_network(spec: Spec, *, hidden: tuple[int, ...], conv_features: int) -> QNetwork:
    """The network for a kind of observation.

    Source: Young & Tian (2019): convolution of 16 filters, 128 hidden units. We use the same for all games
    (channels padded); for symbols an MLP whose first layer reads the one-hot symbol.
    """

    def build(key: jax.Array) -> QModule:
        return QModule(spec, hidden, conv_features, rngs=nnx.Rngs(params=key))

    graph = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))))[0]

    def init(key):
        return nnx.to_pure_dict(nnx.split(build(key))[1])

    def apply(params, obs):
        return nnx.merge(graph, nnx.State(params))(obs)

    return QNetwork(init=init, apply=apply)
