"""Next-action prediction on learners' histories: the only learning an imitator ever does.

M imitators (seeds x forks) are trained in lockstep as one `vmap`, split over the local devices; those of several runs,
each on its own histories, in one program. Histories stay on the device; an update's windows are drawn from a key folded
with the update's number, so a resume is exact.
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
from cl_imitate.blocks import Blocks
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.seating import Seating
from cl_imitate.types import Context, History


@struct.dataclass(kw_only=True)
class TrainState:
    """M imitators in training, every leaf [M, ...] but `update`."""

    params: Any
    opt_state: Any
    best_params: Any
    best_loss: jax.Array  # float32 [M]: lowest held-out loss so far
    update: jax.Array  # int32 []


@struct.dataclass(kw_only=True)
class TrainRates:
    """What a sweep can give each imitator, float32 [] for one, [M] for an ensemble."""

    learning_rate: jax.Array  # the highest
    final_share: jax.Array  # the last, as a share of the highest


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


def make_optimiser(
    training: config.Training, rates: TrainRates | None = None
) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay. Vectors (biases, norms) are not decayed.

    `rates`: of one imitator; None: the config's.
    """
    if rates is None:
        rates = jax.tree.map(lambda x: x[0], rates_of(training, 1))
    warmup = min(training.warmup_updates, training.num_updates // 4)
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
        params = _narrow_head(params, reference_width=training.reference_width)
        return params, make_optimiser(training).init(params)

    return one(imitator_keys)


@struct.dataclass(kw_only=True)
class Members:
    """What M imitators differ in, besides their states; all [M]."""

    keys: jax.Array
    fork_steps: jax.Array  # int32
    rates: TrainRates
    held_out_keys: jax.Array
    place: jax.Array  # int32: whose histories it reads, of those that its block has


def _update(params, opt_state, member, update, history, *, imitator, training, context_steps, num_places):
    """One update of one imitator."""
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
    dropout_key = keys.at_step(keys.stream(key, keys.Stream.DROPOUT), update)

    def loss(params):
        return next_action_loss(imitator.logits(params, context.tokens, dropout_key), context)

    value, grads = jax.value_and_grad(loss)(params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer counts
        delta, opt_state = make_optimiser(training, member.rates).update(grads, opt_state, params)
    return optax.apply_updates(params, delta), opt_state, value


def _held_out(params, member, history, *, imitator, training, context_steps, num_places):
    context = contexts.sample_windows(
        contexts.batch_key(member.held_out_keys, 0),  # the same windows every time
        history,
        member.fork_steps,
        place=member.place,
        num_places=num_places,
        training=training,
        context_steps=context_steps,
        num_windows=training.evaluate_windows,
        num_actions=imitator.num_actions,
    )
    return next_action_loss(imitator.logits(params, context.tokens, None), context)


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
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """`num_updates` updates of one block of imitators a device; `state` is donated.

    `history` and `held_out` are [D, N, T], one for each device, of `num_places` runs in turn. `training` is without its
    rates. Returns the state, losses [M, num_updates], held-out losses [M].
    """
    static = {
        "imitator": imitator,
        "training": training,
        "context_steps": context_steps,
        "num_places": num_places,
    }

    def chunk(state, members, history, held_out):
        history, held_out = jax.tree.map(lambda x: x[0], (history, held_out))

        def body(state, _):
            step = jax.vmap(functools.partial(_update, **static), in_axes=(0, 0, 0, None, None))
            params, opt_state, loss = step(state.params, state.opt_state, members, state.update, history)
            return state.replace(params=params, opt_state=opt_state, update=state.update + 1), loss

        state, losses = jax.lax.scan(body, state, None, num_updates)
        measure = jax.vmap(functools.partial(_held_out, **static), in_axes=(0, 0, None))
        loss = measure(state.params, members, held_out)
        is_best = loss < state.best_loss

        def keep(best, new):
            return jnp.where(is_best.reshape(-1, *[1] * (new.ndim - 1)), new, best)

        state = state.replace(
            best_params=jax.tree.map(keep, state.best_params, state.params),
            best_loss=jnp.minimum(loss, state.best_loss),
        )
        return state, jnp.swapaxes(losses, 0, 1), loss

    split = sharding.SPLIT
    return sharding.over_ensemble(
        chunk, mesh, in_specs=(SPECS, split, split, split), out_specs=(SPECS, split, split)
    )(state, members, history, held_out)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trainee:
    """The M imitators of one run.

    Attributes:
      imitator_keys: keys [M]. fork_steps: int [M], where each imitator's data stop.
      feed: the recorded learners' histories [N, T], all at once or some at a time; at most one is on the device.
      held_out: those of learners that are not trained on, by which progress is measured.
    """

    state: TrainState
    imitator_keys: jax.Array
    fork_steps: jax.Array
    feed: Feed
    held_out: History
    held_out_key: jax.Array
    training: config.Training

    @property
    def num_members(self) -> int:
        return self.fork_steps.shape[0]

    def members(self, place: int = 0) -> Members:
        """What its imitators differ in, where it is the `place`-th run of its block."""
        num = self.num_members
        return Members(
            keys=self.imitator_keys,
            fork_steps=self.fork_steps.astype(jnp.int32),
            rates=rates_of(self.training, num),
            held_out_keys=jnp.broadcast_to(self.held_out_key, (num,)),
            place=jnp.full(num, place, jnp.int32),
        )


def block_size(training: config.Training, num_members: int, devices: sharding.Devices | None = None) -> int:
    """How many imitators a device computes together."""
    num_devices = len(jax.local_devices() if devices is None else devices)
    return training.block_size or num_members // math.gcd(num_members, num_devices)


def num_at_once(training: config.Training, num_members: int, devices: sharding.Devices | None = None) -> int:
    """How many runs of `num_members` imitators it takes to give every device a full block."""
    size = block_size(training, num_members, devices)
    num_devices = len(jax.local_devices() if devices is None else devices)
    return max(1, num_devices * size // Seating(num_members, 2, size).width)


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
    """Train the imitators of one run to `training.num_updates`, yielding after every chunk.

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
    """Train the imitators of several runs in one program, yielding after every chunk.

    All trainees have gone equally far, and their configs differ in rates only. A run that diverges does not disturb
    the others; it is for the caller to leave it out of what comes next.

    Args:
      devices: where to train; None: on all local ones.
    """
    training, first = without_rates(trainees[0].training), trainees[0]
    table = _Table(trainees, block_size(training, first.num_members, devices), devices)
    states = table.blocks.split(table.seating.join([trainee.state for trainee in trainees]), SPECS)
    held_out = table.place([trainee.held_out for trainee in trainees])
    histories: list[History] = []
    done, until = int(first.state.update), -1
    while done < training.num_updates:
        if done >= until:
            histories = []  # room for the next
            fed = [trainee.feed(done) for trainee in trainees]
            until = min(end for _, end in fed)
            histories = table.place([history for history, _ in fed])
        num_updates = min(training.evaluate_every_updates, until - done)
        measured = []
        for index in range(table.blocks.num_rounds):
            states[index], *losses = train_chunk(
                states[index],
                table.members[index],
                histories[index],
                held_out[index],
                imitator=imitator,
                training=training,
                context_steps=context_steps,
                num_updates=num_updates,
                num_places=table.num_places,
                mesh=table.blocks.mesh,
            )
            measured.append(losses)
        losses, held_out_losses = (np.asarray(x) for x in table.blocks.on_host(measured))
        done += num_updates
        progress = [
            Progress(done, *(table.seating.part(x, i) for x in (losses, held_out_losses)))
            for i in range(len(trainees))
        ]
        errors = {i: error for i, one in enumerate(progress) if (error := _problem(one))}
        yield Fitted(lambda: table.parts(states), progress, errors)


class _Table:
    """Who is computed where, and whose histories lie there."""

    def __init__(self, trainees: Sequence[Trainee], size: int, devices: sharding.Devices | None):
        num_members = trainees[0].num_members
        self._num = len(trainees)
        self.seating = Seating(num_members, len(trainees), size)
        self.blocks = Blocks(self._num * self.seating.width, size, devices)
        num_rounds, num_devices = self.blocks.num_rounds, self.blocks.mesh.devices.size
        seats = np.arange(num_rounds * num_devices * size).reshape(num_devices, num_rounds, size)
        whose = np.minimum(seats // self.seating.width, self._num - 1)
        at_table = [[list(dict.fromkeys(block.tolist())) for block in one] for one in whose]
        self.num_places = max(len(block) for one in at_table for block in one)
        self._readers = [[_filled(block, self.num_places) for block in one] for one in at_table]
        place = {i: block.index(i) for one in at_table for block in one for i in block}
        members = [trainee.members(place[i]) for i, trainee in enumerate(trainees)]
        self.members = self.blocks.split(self.seating.join(members), sharding.SPLIT)

    def place(self, histories: list[History]) -> list[History]:
        """For each round the histories [D, num_places * N, T] that its blocks read, each on its block's device."""
        devices = self.blocks.mesh.devices.reshape(-1).tolist()
        put: dict[tuple, list[jax.Array]] = {}
        leaves = [jax.tree.leaves(history) for history in histories]

        def on(device, readers: tuple[int, ...]) -> list[jax.Array]:
            if (device, readers) not in put:
                some = zip(*(leaves[i] for i in readers), strict=True)
                joined = [np.concatenate(x) if len(x) > 1 else np.asarray(x[0]) for x in some]
                put[device, readers] = [jax.device_put(x[None], device) for x in joined]
            return put[device, readers]

        sharded = jax.sharding.NamedSharding(self.blocks.mesh, sharding.SPLIT)
        rounds = []
        for index in range(self.blocks.num_rounds):
            parts = [on(device, self._readers[d][index]) for d, device in enumerate(devices)]
            whole = [
                jax.make_array_from_single_device_arrays(
                    (len(devices), *one[0].shape[1:]), sharded, list(one)
                )
                for one in zip(*parts, strict=True)
            ]
            rounds.append(jax.tree.unflatten(jax.tree.structure(histories[0]), whole))
        return rounds

    def parts(self, states: list[TrainState]) -> list[TrainState]:
        """Every trainee's state out of the rounds."""
        whole = self.blocks.join(states, SPECS)
        return [self.seating.part(whole, i) for i in range(self._num)]


def _filled(block: list[int], num: int) -> tuple[int, ...]:
    return tuple(block + block[-1:] * (num - len(block)))


def _problem(progress: Progress) -> FloatingPointError | None:
    losses = progress.train_loss
    if np.isfinite(losses).all():
        return None
    member, offset = np.argwhere(~np.isfinite(losses))[0]
    return FloatingPointError(
        f"the loss of imitator {member} is {losses[member, offset]} at update "
        f"{progress.update - losses.shape[1] + offset}. Usual cause: training.learning_rate is too high. Lower it, or "
        "lower training.clip_norm."
    )


def chosen_params(state: TrainState, training: config.Training) -> Any:
    """The parameters that the config's checkpoint rule picks, [M, ...]."""
    return state.best_params if training.checkpoint_rule == "best_validation" else state.params
