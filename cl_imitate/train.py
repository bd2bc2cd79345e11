"""Next-action prediction on learners' histories: the only learning an imitator ever does.

M imitators (seeds x forks) are trained in lockstep, in blocks on the local devices; those of several runs, each on its
own histories, in the same blocks. (Over the devices of several processes, or with each imitator's batch and weights
split too: `spread`.) Histories stay on the device; an update's windows are drawn from a key folded with the update's
number, so a resume is exact.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from cl_imitate import config, keys, sharding
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.optimiser import make_optimiser, narrow_head, without_rates
from cl_imitate.seating import Seating
from cl_imitate.trainees import Feed, Members, Table, Trainee
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


SPECS = TrainState(
    params=sharding.SPLIT,
    opt_state=sharding.SPLIT,
    best_params=sharding.SPLIT,
    best_loss=sharding.SPLIT,  # pyright: ignore[reportArgumentType]
    update=sharding.WHOLE,  # pyright: ignore[reportArgumentType]
)


def next_action_loss(logits: jax.Array, context: Context) -> jax.Array:
    """Mean cross-entropy (nats) of the actions actually taken, over the steps that count."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, context.action)
    return jnp.sum(losses * context.weight) / jnp.maximum(jnp.sum(context.weight), 1.0)


def init_train_state(
    imitator_keys: jax.Array, *, imitator: Imitator, training: config.Training
) -> TrainState:
    """M imitators at initialisation, from their keys [M]."""
    params, opt_state = _init_params(imitator_keys, imitator=imitator, training=without_rates(training))
    return TrainState(
        params=params,
        opt_state=opt_state,
        best_params=jax.tree.map(jnp.copy, params),
        best_loss=jnp.full(imitator_keys.shape, jnp.inf, jnp.float32),
        update=jnp.int32(0),
    )


@functools.partial(jax.jit, static_argnames=("imitator", "training"))
def _init_params(imitator_keys, *, imitator, training):
    @jax.vmap
    def one(key):
        params = imitator.init(keys.stream(key, keys.Stream.IMITATOR_INIT))
        params = narrow_head(params, reference_width=training.reference_width)
        return params, make_optimiser(training).init(params)

    return one(imitator_keys)


def _update(
    params, opt_state, member, update, history, *, imitator, training, context_steps, num_places, mesh
):
    """One update of one imitator. With a mesh, its batch is split over `data`, and a compiler sums the gradients."""
    key = member.keys
    context = contexts.sample_windows(
        contexts.batch_key(key, update),
        history,
        member.fork_steps,
        place=member.place,
        num_places=num_places,
        training=training,
        context_steps=context_steps,
        num_windows=training.batch_size,
        num_actions=imitator.num_actions,
    )
    context = context if mesh is None else sharding.split_batch(context, mesh)
    dropout_key = keys.at_step(keys.stream(key, keys.Stream.DROPOUT), update)

    def loss(params):
        params = _gathered(params, training, mesh)
        return next_action_loss(imitator.logits(params, context.tokens, dropout_key), context)

    value, grads = jax.value_and_grad(loss)(params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts
        delta, opt_state = make_optimiser(training, member.rates).update(grads, opt_state, params)
    return optax.apply_updates(params, delta), opt_state, value


def _held_out(params, member, history, *, imitator, training, context_steps, num_places, mesh):
    context = contexts.sample_windows(
        contexts.batch_key(member.held_out_keys, 0),  # the same windows every time
        history,
        member.fork_steps,
        place=member.place,
        num_places=num_places,
        training=dataclasses.replace(training, skip_ahead=0.0),  # lives as they were lived
        context_steps=context_steps,
        num_windows=training.evaluate_windows,
        num_actions=imitator.num_actions,
    )
    context = context if mesh is None else sharding.split_batch(context, mesh)
    params = _gathered(params, training, mesh)
    return next_action_loss(imitator.logits(params, context.tokens, None), context)


def _gathered(params: Any, training: config.Training, mesh: jax.sharding.Mesh | None) -> Any:
    """One imitator's weights whole, where each device holds a part of them."""
    return params if mesh is None or training.shard != "fsdp" else sharding.whole_members(params, mesh)


@functools.partial(
    jax.jit,
    static_argnames=("imitator", "training", "context_steps", "num_updates", "num_places", "mesh"),
    donate_argnames=("state",),
)
def train_chunk(
    state: TrainState,
    members: Members,
    history: History,
    held_out: History,
    *,
    imitator: Imitator,
    training: config.Training,
    context_steps: int,
    num_updates: int,
    num_places: int = 1,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """`num_updates` updates of one block of imitators, or with a mesh of one over many devices (see `spread`); `state`
    is donated.

    `history` and `held_out` are [N, T], of `num_places` runs in turn; with a mesh on every device. `training` is
    without its rates. Returns the state, losses [M, num_updates], held-out losses [M].
    """
    chunk = functools.partial(
        _chunk,
        imitator=imitator,
        training=training,
        context_steps=context_steps,
        num_updates=num_updates,
        num_places=num_places,
    )
    if mesh is None or training.shard != "members":
        return chunk(state, members, history, held_out, mesh=mesh)
    split, whole = sharding.SPLIT, sharding.WHOLE
    return sharding.over_ensemble(
        functools.partial(chunk, mesh=None),
        mesh,
        in_specs=(SPECS, split, whole, whole),
        out_specs=(SPECS, split, split),
    )(state, members, history, held_out)


def _chunk(state, members, history, held_out, *, num_updates, mesh, **static):
    """`num_updates` updates. Without a mesh, of one device's members; with one, of all, for a compiler to split."""
    static["mesh"] = mesh
    over_members = functools.partial(jax.vmap, spmd_axis_name=None if mesh is None else sharding.ENSEMBLE)

    def stay(state: TrainState) -> TrainState:
        if mesh is None:
            return state
        return jax.tree.map(
            jax.lax.with_sharding_constraint,
            state,
            sharding.shardings(state, mesh, specs(state, mesh, static["training"])),
        )

    def body(state, _):
        step = over_members(functools.partial(_update, **static), in_axes=(0, 0, 0, None, None))
        params, opt_state, loss = step(state.params, state.opt_state, members, state.update, history)
        return stay(state.replace(params=params, opt_state=opt_state, update=state.update + 1)), loss

    state, losses = jax.lax.scan(body, state, None, num_updates)
    measure = over_members(functools.partial(_held_out, **static), in_axes=(0, 0, None))
    loss = measure(state.params, members, held_out)
    is_best = loss < state.best_loss

    def keep(best, new):
        return jnp.where(is_best.reshape(-1, *[1] * (new.ndim - 1)), new, best)

    state = state.replace(
        best_params=jax.tree.map(keep, state.best_params, state.params),
        best_loss=jnp.minimum(loss, state.best_loss),
    )
    return stay(state), jnp.swapaxes(losses, 0, 1), loss


def specs(state: TrainState, mesh: jax.sharding.Mesh, training: config.Training) -> TrainState:
    """How the state is split over the mesh."""
    if training.shard != "fsdp":
        return SPECS
    return SPECS.replace(
        **{
            name: sharding.sharded_members(getattr(state, name), mesh)
            for name in ("params", "opt_state", "best_params")
        }
    )


def block_size(training: config.Training, num_members: int, devices: sharding.Devices | None = None) -> int:
    """How many imitators a device computes together."""
    num_devices = len(jax.local_devices() if devices is None else devices)
    return training.block_size or num_members // math.gcd(num_members, num_devices)


def num_at_once(training: config.Training, num_members: int, devices: sharding.Devices | None = None) -> int:
    """How many runs of `num_members` imitators fill the blocks that one takes alone."""
    size = block_size(training, num_members, devices)
    return max(1, size // Seating(num_members, 2, size).width)


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
    """Train the imitators of one run to `training.num_updates`, by member, yielding after every chunk.

    For the arguments see `Trainee` and `fit_together`.

    Raises:
      FloatingPointError: a loss is not finite; the message names the imitator and the update.
    """
    trainee = Trainee(
        state=state,
        imitator_keys=imitator_keys,
        fork_steps=fork_steps,
        feed=feed,
        held_out=held_out,
        held_out_key=held_out_key,
        training=training,
    )
    for fitted in fit_together([trainee], imitator=imitator, context_steps=context_steps, devices=devices):
        if error := fitted.errors.get(0):
            raise error
        yield fitted.states()[0], fitted.progress[0]


class Fitted(NamedTuple):
    """Several runs' imitators after a chunk of updates."""

    states: Callable[[], list[TrainState]]  # valid until the next chunk is asked for
    progress: list[Progress]
    errors: dict[int, FloatingPointError]  # by run: a loss of it is not finite


def fit_together(
    trainees: Sequence[Trainee],
    *,
    imitator: Imitator,
    context_steps: int,
    devices: sharding.Devices | None = None,
) -> Iterator[Fitted]:
    """Train the imitators of several runs side by side, by member, yielding after every chunk.

    All trainees have gone equally far, and their configs differ in rates only. A run that diverges does not disturb
    the others; it is for the caller to leave it out of what comes next.

    Args:
      devices: where to train; None: on all local ones.
    """
    first = trainees[0]
    training = dataclasses.replace(without_rates(first.training), shard="members")
    table = Table(trainees, block_size(training, first.num_members, devices), devices)
    states = table.split(SPECS)
    held_out = table.place([trainee.held_out for trainee in trainees])
    histories: list[History] = []
    done, until = int(first.state.update), -1
    while done < training.num_updates:
        if done >= until:
            histories.clear()  # room for the next
            fed = [trainee.feed(done) for trainee in trainees]
            until = min(end for _, end in fed)
            histories.extend(table.place([history for history, _ in fed]))
        num_updates = min(training.evaluate_every_updates, until - done)
        learn = functools.partial(
            _learn,
            states,
            table,
            (histories, held_out),
            imitator=imitator,
            training=training,
            context_steps=context_steps,
            num_updates=num_updates,
        )
        losses, held_out_losses = table.blocks.on_host(table.blocks.compute(learn))
        done += num_updates
        progress = [
            Progress(done, *(table.seating.part(x, i) for x in (losses, held_out_losses)))
            for i in range(len(trainees))
        ]
        errors = {i: error for i, one in enumerate(progress) if (error := problem(one))}
        yield Fitted(lambda: table.parts(states, SPECS), progress, errors)


def _learn(
    states: list, table: Table, histories: tuple[list, list], index: int, **static
) -> tuple[jax.Array, ...]:
    """A chunk of one block, whose state is replaced: its losses, in training and held out."""
    read = [some[index] for some in histories]
    states[index], *losses = train_chunk(
        states[index], table.members[index], *read, num_places=table.num_places, **static
    )
    return tuple(losses)


def problem(progress: Progress) -> FloatingPointError | None:
    """What to say of losses that are not all finite: those of the updates, then the held-out loss after them, which
    alone sees what the last update left."""
    losses = progress.train_loss
    if not np.isfinite(losses).all():
        member, offset = np.argwhere(~np.isfinite(losses))[0]
        found = f"the loss of imitator {member} is {losses[member, offset]} at update "
        found += str(progress.update - losses.shape[1] + offset)
    elif not np.isfinite(progress.held_out_loss).all():
        member = int(np.argmin(np.isfinite(progress.held_out_loss)))
        found = f"the held-out loss of imitator {member} is {progress.held_out_loss[member]} after "
        found += f"{progress.update} updates"
    else:
        return None
    return FloatingPointError(
        f"{found}. Usual cause: training.learning_rate is too high. Lower it, or lower training.clip_norm."
    )


def chosen_params(state: TrainState, training: config.Training) -> Any:
    """The parameters that the config's checkpoint rule picks, [M, ...]."""
    return state.best_params if training.checkpoint_rule == "best_validation" else state.params
