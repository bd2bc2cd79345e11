"""Next-action prediction on learners' histories: the only learning an imitator ever does.

M imitators (seeds x forks) are trained in lockstep as one `vmap`, split over the devices of all processes; with
`training.shard` = "data" or "fsdp" each imitator's batch (and weights) too. Histories stay on the device; an update's
windows are drawn from a key folded with the update's number, so a resume is exact.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from cl_imitate import config, keys, sharding
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.types import Context, History


@struct.dataclass(kw_only=True)
class TrainState:
    """M imitators in training, every leaf [M, ...] but `update`."""

    params: Any
    opt_state: Any
    best_params: Any
    best_loss: jax.Array  # float32 [M]: lowest held-out loss so far
    update: jax.Array  # int32 []


class Progress(NamedTuple):
    """What one chunk of updates measured; arrays on the host."""

    update: int
    train_loss: np.ndarray  # float32 [M, updates of the chunk]
    held_out_loss: np.ndarray  # float32 [M]


Feed = Callable[[int], tuple[History, int]]
"""What an update trains on: update -> a history [N, T] on host or device, and the update at which another comes."""


SPECS = TrainState(
    params=sharding.SPLIT,
    opt_state=sharding.SPLIT,
    best_params=sharding.SPLIT,
    best_loss=sharding.SPLIT,  # pyright: ignore[reportArgumentType]
    update=sharding.WHOLE,  # pyright: ignore[reportArgumentType]
)


def make_optimiser(training: config.Training) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay. Vectors (biases, norms) are not decayed."""
    warmup = min(training.warmup_updates, training.num_updates // 4)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0 if warmup else training.learning_rate,
        training.learning_rate,
        warmup,
        training.num_updates,
        training.final_learning_rate,
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


def _narrow_head(params: Any, *, reference_width: int) -> Any:
    """The initial output matrix, whose entries muP scales by one over the width, not by its root."""
    if not reference_width:
        return params
    kernel = params["head"]["kernel"]
    return params | {"head": params["head"] | {"kernel": kernel * (reference_width / kernel.shape[0]) ** 0.5}}


def next_action_loss(logits: jax.Array, context: Context) -> jax.Array:
    """Mean cross-entropy (nats) of the actions actually taken, over the steps that count."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, context.action)
    return jnp.sum(losses * context.weight) / jnp.maximum(jnp.sum(context.weight), 1.0)


def init_train_state(
    imitator_keys: jax.Array, *, imitator: Imitator, training: config.Training
) -> TrainState:
    """M imitators at initialisation, from their keys [M]."""
    optimiser = make_optimiser(training)

    @jax.jit
    @jax.vmap
    def one(key):
        params = imitator.init(keys.stream(key, keys.Stream.IMITATOR_INIT))
        params = _narrow_head(params, reference_width=training.reference_width)
        return params, optimiser.init(params)

    params, opt_state = one(imitator_keys)
    return TrainState(
        params=params,
        opt_state=opt_state,
        best_params=jax.tree.map(jnp.copy, params),
        best_loss=jnp.full(imitator_keys.shape, jnp.inf, jnp.float32),
        update=jnp.int32(0),
    )


def _update(params, opt_state, key, fork_step, update, history, *, imitator, training, context_steps, mesh):
    """One update of one imitator. With a mesh, its batch is split over `data`, and a compiler sums the gradients."""
    context = contexts.sample_windows(
        contexts.batch_key(key, update),
        history,
        fork_step,
        training=training,
        context_steps=context_steps,
        num_windows=training.batch_size,
        num_actions=imitator.num_actions,
    )
    context = context if mesh is None else sharding.split_batch(context, mesh)
    dropout_key = keys.at_step(keys.stream(key, keys.Stream.DROPOUT), update)

    def loss(params):
        if mesh is not None and training.shard == "fsdp":
            params = sharding.whole_members(params, mesh)
        return next_action_loss(imitator.logits(params, context.tokens, dropout_key), context)

    value, grads = jax.value_and_grad(loss)(params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts
        delta, opt_state = make_optimiser(training).update(grads, opt_state, params)
    return optax.apply_updates(params, delta), opt_state, value


def _held_out(params, key, fork_step, history, *, imitator, training, context_steps, mesh):
    context = contexts.sample_windows(
        contexts.batch_key(key, 0),  # the same windows every time
        history,
        fork_step,
        training=training,
        context_steps=context_steps,
        num_windows=training.evaluate_windows,
        num_actions=imitator.num_actions,
    )
    context = context if mesh is None else sharding.split_batch(context, mesh)
    if mesh is not None and training.shard == "fsdp":
        params = sharding.whole_members(params, mesh)
    return next_action_loss(imitator.logits(params, context.tokens, None), context)


@functools.partial(
    jax.jit,
    static_argnames=("imitator", "training", "context_steps", "num_updates", "mesh"),
    donate_argnames=("state",),
)
def train_chunk(
    state: TrainState,
    imitator_keys: jax.Array,
    fork_steps: jax.Array,
    history: History,
    held_out: History,
    held_out_key: jax.Array,
    *,
    imitator: Imitator,
    training: config.Training,
    context_steps: int,
    num_updates: int,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """`num_updates` updates of M imitators; `state` is donated. Losses [M, num_updates], held-out [M]."""
    static = {"imitator": imitator, "training": training, "context_steps": context_steps}
    chunk = functools.partial(_chunk, num_updates=num_updates, **static)
    arguments = (state, imitator_keys, fork_steps, history, held_out, held_out_key)
    if training.shard != "members":
        return chunk(*arguments, mesh=mesh)
    split, whole = sharding.SPLIT, sharding.WHOLE
    return sharding.over_ensemble(
        chunk,
        mesh,
        in_specs=(SPECS, split, split, whole, whole, whole),
        out_specs=(SPECS, split, split),
    )(*arguments)


def _chunk(
    state, imitator_keys, fork_steps, history, held_out, held_out_key, *, num_updates, mesh=None, **static
):
    """`num_updates` updates. Without a mesh, of one device's members; with one, of all, for a compiler to split."""
    static["mesh"] = mesh
    over_members = functools.partial(jax.vmap, spmd_axis_name=None if mesh is None else sharding.ENSEMBLE)

    def stay(state: TrainState) -> TrainState:
        if mesh is None:
            return state
        shardings = _shardings(state, mesh, static["training"])
        return jax.tree.map(jax.lax.with_sharding_constraint, state, shardings)

    def body(state, _):
        step = over_members(functools.partial(_update, **static), in_axes=(0, 0, 0, 0, None, None))
        params, opt_state, loss = step(
            state.params, state.opt_state, imitator_keys, fork_steps, state.update, history
        )
        return stay(state.replace(params=params, opt_state=opt_state, update=state.update + 1)), loss

    state, losses = jax.lax.scan(body, state, None, num_updates)
    measure = over_members(functools.partial(_held_out, **static), in_axes=(0, None, 0, None))
    loss = measure(state.params, held_out_key, fork_steps, held_out)
    is_best = loss < state.best_loss

    def keep(best, new):
        return jnp.where(is_best.reshape(-1, *[1] * (new.ndim - 1)), new, best)

    state = state.replace(
        best_params=jax.tree.map(keep, state.best_params, state.params),
        best_loss=jnp.minimum(loss, state.best_loss),
    )
    return stay(state), jnp.swapaxes(losses, 0, 1), loss


def _specs(state: TrainState, mesh: jax.sharding.Mesh, training: config.Training) -> TrainState:
    """Where the state lies."""
    if training.shard != "fsdp":
        return SPECS
    return SPECS.replace(
        **{
            name: sharding.sharded_members(getattr(state, name), mesh)
            for name in ("params", "opt_state", "best_params")
        }
    )


def _shardings(state: TrainState, mesh: jax.sharding.Mesh, training: config.Training) -> TrainState:
    specs = jax.tree.broadcast(
        _specs(state, mesh, training), state, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
    )
    return jax.tree.map(
        lambda spec: jax.sharding.NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec),
    )


def fit(
    state: TrainState,
    imitator_keys: jax.Array,
    fork_steps: jax.Array,
    feed: Feed,
    held_out: History,
    held_out_key: jax.Array,
    *,
    imitator: Imitator,
    training: config.Training,
    context_steps: int,
    devices: sharding.Devices | None = None,
) -> Iterator[tuple[TrainState, Progress]]:
    """Train to `training.num_updates`, yielding after every chunk.

    Args:
      imitator_keys: keys [M]. fork_steps: int [M], where each imitator's data stop.
      feed: the recorded learners' histories [N, T], all at once or some at a time; at most one is on the device.
      held_out: those of learners that are not trained on, by which progress is measured.
      devices: where to train; None: on all, of all processes of the job.

    Raises:
      FloatingPointError: a loss is not finite; the message names the imitator and the update.
    """
    mesh = sharding.training_mesh(
        imitator_keys.shape[0],
        training.batch_size,
        splits_batches=training.shard != "members",
        devices=devices,
    )
    state = sharding.place(state, mesh, _specs(state, mesh, training))
    imitator_keys, fork_steps = sharding.place((imitator_keys, fork_steps), mesh, sharding.SPLIT)
    held_out, held_out_key = sharding.place((held_out, held_out_key), mesh, sharding.WHOLE)
    history, until = None, -1
    while (done := int(state.update)) < training.num_updates:
        if done >= until:
            del history  # room for the next
            history, until = feed(done)
            history = sharding.place(history, mesh, sharding.WHOLE)
        num_updates = min(training.evaluate_every_updates, until - done)
        state, losses, held_out_loss = train_chunk(
            state,
            imitator_keys,
            fork_steps,
            history,
            held_out,
            held_out_key,
            imitator=imitator,
            training=training,
            context_steps=context_steps,
            num_updates=num_updates,
            mesh=mesh,
        )
        losses, held_out_loss = sharding.on_host((losses, held_out_loss))
        if not np.isfinite(losses).all():
            member, offset = np.argwhere(~np.isfinite(losses))[0]
            raise FloatingPointError(
                f"the loss of imitator {member} is {losses[member, offset]} at update {done + offset}. "
                "Usual cause: training.learning_rate is too high. Lower it, or lower training.clip_norm."
            )
        yield state, Progress(done + num_updates, losses, held_out_loss)


def chosen_params(state: TrainState, training: config.Training) -> Any:
    """The parameters that the config's checkpoint rule picks, [M, ...]."""
    return state.best_params if training.checkpoint_rule == "best_validation" else state.params
