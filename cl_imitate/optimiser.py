"""How an imitator's weights move: AdamW, and the rates that can differ from imitator to imitator."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cl_imitate import config


@struct.dataclass(kw_only=True)
class TrainRates:
    """What a sweep can give each imitator, float32 [] for one, [M] for an ensemble."""

    learning_rate: jax.Array  # the highest
    final_share: jax.Array  # the last, as a share of the highest


def rates_of(training: config.Training, num_members: int) -> TrainRates:
    """The rates of a config, the same for each of `num_members` imitators, float32 [M]."""
    rates = training.learning_rate, training.final_learning_rate / training.learning_rate
    learning_rate, final_share = (jnp.full((num_members,), rate, jnp.float32) for rate in rates)
    return TrainRates(learning_rate=learning_rate, final_share=final_share)


LEAVES = ("learning_rate", "final_learning_rate", "first_seed")
"""The fields of `config.Training` that are leaves: rates, and (by way of keys) the imitators' numbers."""


def without_rates(training: config.Training) -> config.Training:
    """The config with its leaves at their defaults: equal for all imitators that one compiled program serves."""
    defaults = {field.name: field.default for field in dataclasses.fields(training)}
    return dataclasses.replace(training, **{name: defaults[name] for name in LEAVES})


def warmup_updates(training: config.Training) -> int:
    """Over how many updates the rate rises: as configured, but no more than a quarter of all."""
    return min(training.warmup_updates, training.num_updates // 4)


def make_optimiser(
    training: config.Training, rates: TrainRates | None = None
) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay. Vectors (biases, norms) are not decayed.

    `rates`: of one imitator; None: the config's.
    """
    rates = jax.tree.map(lambda x: x[0], rates_of(training, 1)) if rates is None else rates
    assert rates is not None
    warmup = warmup_updates(training)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, rates.learning_rate, warmup),  # pyright: ignore[reportArgumentType]
            optax.cosine_decay_schedule(
                rates.learning_rate,  # pyright: ignore[reportArgumentType]
                training.num_updates - warmup,
                rates.final_share,  # pyright: ignore[reportArgumentType]
            ),
        ],
        [warmup],
    )
    return optax.chain(
        optax.clip_by_global_norm(training.clip_norm),
        optax.adamw(
            schedule,
            b2=0.99,
            weight_decay=training.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        ),
        optax.stateless(functools.partial(_slow_wide_matrices, reference_width=training.reference_width)),
    )


def _slow_wide_matrices(updates: Any, params: Any, *, reference_width: int) -> Any:
    """Updates of the kernels whose inputs are the network's own features, times reference width over width.

    Adam moves every entry equally far, so what such a matrix adds to its output in one update grows with its inputs.

    Source: Yang et al. (2022), Tensor Programs V (muP), its rules under Adam for hidden and output matrices. The scale
    of attention is left as it is, for heads that keep their size.
    """
    if not reference_width:
        return updates
    factor = reference_width / params["head"]["kernel"].shape[0]

    def scaled(path, update):
        is_inner = path[0].key in ("blocks", "head") and path[-1].key == "kernel"
        return factor * update if is_inner else update

    return jax.tree.map_with_path(scaled, updates)


def narrow_head(params: Any, *, reference_width: int) -> Any:
    """The initial output matrix, whose entries muP scales by one over the width, not by its root."""
    if not reference_width:
        return params
    kernel = params["head"]["kernel"]
    return params | {"head": params["head"] | {"kernel": kernel * (reference_width / kernel.shape[0]) ** 0.5}}
