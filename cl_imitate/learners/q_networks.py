"""Q-networks: an MLP for symbols and vectors, the MinAtar convolution for screens. Parameters are plain pytrees."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cl_imitate.config import Products
from cl_imitate.convolution import columns_of, convolve_3x3
from cl_imitate.products import columns_product, rows_of, rows_product
from cl_imitate.types import ScreenObservation, Spec, SymbolObservation, VectorObservation


class QNetwork(NamedTuple):
    """init(key) -> params; apply(params, obs [..., obs shape]) -> action values float32 [..., A]."""

    init: Callable
    apply: Callable


class SymbolLayer(nnx.Module):
    """A first layer on the one-hot symbol: one row of a table for each symbol, without the padding's cost.

    The rows have standard deviation 0.5 whatever the padded vocabulary, so an unused symbol changes nothing.
    """

    def __init__(self, num_symbols: int, width: int, products: Products, *, rngs: nnx.Rngs):
        self.products: Products = products
        self.num_symbols = num_symbols
        self.table = nnx.Param(0.5 * jax.random.normal(rngs.params(), (num_symbols, width)))
        self.bias = nnx.Param(jnp.zeros((width,)))

    def __call__(self, obs_B: jax.Array) -> jax.Array:
        return _add(rows_of(self.table[...], obs_B.astype(jnp.int32), self.products), self.bias)


class VectorLayer(nnx.Module):
    """A first layer on real numbers."""

    def __init__(self, observation: VectorObservation, width: int, products: Products, *, rngs: nnx.Rngs):
        self.products: Products = products
        self.observation = observation
        self.dense = _torch_linear(observation.num_values, width, rngs=rngs)

    def __call__(self, obs_BxBytes: jax.Array) -> jax.Array:
        values = self.observation.unpack(obs_BxBytes)
        return _add(rows_product(values, self.dense.kernel[...], self.products), self.dense.bias)


class ScreenLayers(nnx.Module):
    """One 3 x 3 convolution of stride 1, and the layer that reads all its cells.

    The weights are those of all channels, so that a learner can be carried from game to game; channels that a game
    never lights are left out of the sums, to which they would add zeros.
    """

    def __init__(self, spec: Spec, features: int, width: int, products: Products, *, rngs: nnx.Rngs):
        observation = spec.observation
        assert isinstance(observation, ScreenObservation)
        self.products: Products = products
        self.num_lit = spec.num_channels or observation.channels
        self.observation = observation
        cells = (observation.height - 2) * (observation.width - 2)
        self.convolution = _torch_linear(9 * observation.channels, features, rngs=rngs)
        self.dense = _torch_linear(cells * features, width, rngs=rngs)

    def __call__(self, obs_BxBytes: jax.Array) -> jax.Array:
        screens = columns_of(obs_BxBytes, self.observation)[: self.num_lit]
        kernel = self.convolution.kernel[...]
        lit = kernel.reshape(9, -1, kernel.shape[-1])[:, : self.num_lit].reshape(-1, kernel.shape[-1])
        filtered_FxCxB = convolve_3x3(screens, lit, self.products)
        bias_F = self.convolution.bias[...]  # pyright: ignore[reportOptionalSubscript]
        bias = jnp.broadcast_to(bias_F[:, None, None], filtered_FxCxB.shape)
        columns = jax.nn.relu(filtered_FxCxB + bias).reshape(-1, filtered_FxCxB.shape[-1])
        return _add(columns_product(columns, self.dense.kernel[...], self.products), self.dense.bias)


class QModule(nnx.Module):
    """A multi-layer perceptron with rectified units whose first layer depends on the kind of observation."""

    def __init__(
        self, spec: Spec, hidden: tuple[int, ...], conv_features: int, products: Products, *, rngs: nnx.Rngs
    ):
        self.products: Products = products
        self.obs_ndim = len(spec.observation.shape)
        if isinstance(spec.observation, SymbolObservation):
            self.first = SymbolLayer(spec.observation.num_symbols, hidden[0], products, rngs=rngs)
            out_std = 0.1
        elif isinstance(spec.observation, VectorObservation):
            self.first = VectorLayer(spec.observation, hidden[0], products, rngs=rngs)
            out_std = None
        else:
            self.first = ScreenLayers(spec, conv_features, hidden[0], products, rngs=rngs)
            out_std = None
        self.layers = nnx.List(
            [_torch_linear(n_in, n_out, rngs=rngs) for n_in, n_out in itertools.pairwise(hidden)]
        )
        self.head = _torch_linear(hidden[-1], spec.num_actions, rngs=rngs, std=out_std)

    def __call__(self, obs: jax.Array) -> jax.Array:
        lead = obs.shape[: obs.ndim - self.obs_ndim]
        x = self.first(obs.reshape(-1, *obs.shape[len(lead) :]))
        for layer in (*self.layers, self.head):
            x = _add(rows_product(jax.nn.relu(x), layer.kernel[...], self.products), layer.bias)
        return x.reshape(*lead, -1)


def _add(x_BxO: jax.Array, bias: nnx.Param | None) -> jax.Array:
    assert bias is not None  # nnx.Linear's type allows for layers without one
    return x_BxO + jnp.broadcast_to(bias[...], x_BxO.shape)


def _torch_linear(n_in: int, n_out: int, *, rngs: nnx.Rngs, std: float | None = None) -> nnx.Linear:
    """A linear layer with PyTorch's default initialisation, which the published MinAtar DQN used."""
    if std is not None:
        return nnx.Linear(n_in, n_out, kernel_init=nnx.initializers.normal(std), rngs=rngs)
    bound = 1.0 / math.sqrt(n_in)

    def uniform(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nnx.Linear(n_in, n_out, kernel_init=uniform, bias_init=uniform, rngs=rngs)


def make_q_network(
    spec: Spec, *, hidden: tuple[int, ...], conv_features: int, products: Products = "float32"
) -> QNetwork:
    """The network for a kind of observation.

    Source: Young & Tian (2019): convolution of 16 filters, 128 hidden units. We use the same for all games
    (channels padded); for symbols an MLP whose first layer reads the one-hot symbol, for vectors a plain one.
    """

    def build(key: jax.Array) -> QModule:
        return QModule(spec, hidden, conv_features, products, rngs=nnx.Rngs(params=key))

    graph = nnx.split(nnx.eval_shape(lambda: build(jax.random.key(0))))[0]

    def init(key):
        return nnx.to_pure_dict(nnx.split(build(key))[1])

    def apply(params, obs):
        return nnx.merge(graph, nnx.State(params))(obs)

    return QNetwork(init=init, apply=apply)
