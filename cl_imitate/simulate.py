"""Learners and environments in lockstep: scans of an ensemble, one compiled program a chunk.

    chunk = scan over target periods { scan over iterations { scan over env steps -> replay rows
                                                              scan over gradient steps } ; target copy }

Everything that every learner does at the same time is nested structure, not a batched `cond` (which under
`vmap` runs both branches). So intervals and sizes are static, and the counters are scalars that no `vmap` sees.
"""

import functools
import math
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate import config, keys, sharding
from cl_imitate.blocks import Blocks
from cl_imitate.envs.base import Env
from cl_imitate.learners import replay
from cl_imitate.learners.dqn import DQN, DQNHyperparams, DQNState
from cl_imitate.types import History

Mode = Literal["warm_up", "fill", "learn", "hold"]
"""warm_up: uniformly random actions fill the replay. fill: the learner's own actions do (a transplanted one's).
learn: TD updates. hold: acts, weights and replay fixed."""


@struct.dataclass(kw_only=True)
class Clock:
    """The counters that the ensemble shares, int32 []."""

    step: jax.Array  # env steps lived
    env_step: jax.Array  # the same in this environment: env keys are folded with it
    update: jax.Array  # gradient steps taken
    cursor: replay.Cursor


@struct.dataclass(kw_only=True)
class Ensemble:
    """N learners, each in its environment, at one moment: all that going on bit-exactly needs.

    With the learners' keys and tasks, which do not change, this is the snapshot.
    """

    learner: DQNState  # [N, ...]
    env_state: Any  # [N, ...]
    obs: jax.Array  # [N, ...]
    clock: Clock


@struct.dataclass(kw_only=True)
class Script:
    """What is done in the learners' place, from some step of their lives on: they learn from another's actions."""

    action: jax.Array  # uint8 [N, T]
    first_step: jax.Array  # int32 [N], equal: the age at which column 0 is done


@struct.dataclass(kw_only=True)
class Streams:
    """Each learner's named random streams, keys [N]; step t folds in t."""

    act: jax.Array
    env: jax.Array
    replay: jax.Array
    script: Script | None = None


@struct.dataclass(kw_only=True)
class Followed:
    """What is recorded instead of a history where there is a script."""

    history: History  # what was done, and what came of it; never `explored`
    policy: (
        jax.Array
    )  # float32 [N, T, A]: what the learner would have drawn from, before learning from that step


SPECS = Ensemble(
    learner=sharding.SPLIT,  # pyright: ignore[reportArgumentType]
    env_state=sharding.SPLIT,
    obs=sharding.SPLIT,  # pyright: ignore[reportArgumentType]
    clock=sharding.WHOLE,  # pyright: ignore[reportArgumentType]
)


def make_streams(learner_keys: jax.Array) -> Streams:
    """Streams of learners with keys [N]."""

    def named(name: keys.Stream) -> jax.Array:
        return jax.vmap(lambda key: keys.stream(key, name))(learner_keys)

    return Streams(act=named(keys.Stream.ACT), env=named(keys.Stream.ENV), replay=named(keys.Stream.REPLAY))


@functools.partial(jax.jit, static_argnames=("env", "dqn"))
def init_ensemble(learner_keys: jax.Array, env_params: Any, *, env: Env, dqn: DQN) -> Ensemble:
    """N learners at random initialisation, age 0, from their keys [N] and tasks [N]."""

    def one(key, params):
        env_state, obs = env.init(keys.stream(key, keys.Stream.ENV_INIT), params)
        return dqn.init(keys.stream(key, keys.Stream.LEARNER_INIT), obs), env_state, obs

    learner, env_state, obs = jax.vmap(one)(learner_keys, env_params)
    clock = Clock(step=jnp.int32(0), env_step=jnp.int32(0), update=jnp.int32(0), cursor=replay.first_cursor())
    return Ensemble(learner=learner, env_state=env_state, obs=obs, clock=clock)


def env_step(
    ensemble: Ensemble,
    streams: Streams,
    env_params: Any,
    rates: DQNHyperparams,
    *,
    env: Env,
    dqn: DQN,
    learner: config.Learner,
    mode: Mode,
) -> tuple[Ensemble, History]:
    """One step of every learner; the record (`Followed` where there is a script) has no time axis."""
    step = ensemble.clock.step
    learning_step = jnp.maximum(step - learner.learning_starts_steps, 0)

    def one(act_key, env_key, state, rates, params, env_state, obs, script):
        act_key, policy = keys.at_step(act_key, step), None
        if script is not None:
            policy = dqn.policy(state, rates, obs, learning_step)
            action, explored = script.action[step - script.first_step].astype(jnp.int32), jnp.bool_(False)
        elif mode == "warm_up":
            action, explored = jax.random.randint(act_key, (), 0, env.spec.num_actions), jnp.bool_(True)
        else:
            action, explored = dqn.act(act_key, state, rates, obs, learning_step)
        env_state, timestep = env.step(
            keys.at_step(env_key, ensemble.clock.env_step), params, env_state, action
        )
        return env_state, timestep, action, explored, policy

    env_state, timestep, action, explored, policy = jax.vmap(one)(
        streams.act,
        streams.env,
        ensemble.learner,
        rates,
        env_params,
        ensemble.env_state,
        ensemble.obs,
        streams.script,
    )
    record: Any = History(
        obs=ensemble.obs,
        action=action.astype(jnp.uint8),
        reward=timestep.reward.astype(env.spec.reward_dtype),
        terminated=timestep.terminated,
        truncated=timestep.truncated,
        explored=explored,
    )
    if policy is not None:
        record = Followed(history=record, policy=policy)
    state, clock = (
        ensemble.learner,
        ensemble.clock.replace(step=step + 1, env_step=ensemble.clock.env_step + 1),
    )
    if mode != "hold":
        rows = dqn.replay.add(
            state.rows,
            clock.cursor,
            timestep.obs,
            action,
            timestep.reward,
            timestep.terminated,
            timestep.final_obs,
        )
        state = state.replace(rows=rows)
        clock = clock.replace(cursor=replay.advance(clock.cursor))
    ensemble = ensemble.replace(learner=state, env_state=env_state, obs=timestep.obs, clock=clock)
    return ensemble, record


def gradient_step(ensemble: Ensemble, streams: Streams, rates: DQNHyperparams, *, dqn: DQN) -> Ensemble:
    """One TD update of every learner."""
    clock = ensemble.clock

    def one(key, state, rates):
        return dqn.update(keys.at_step(key, clock.update), state, rates, clock.cursor)[0]

    state = jax.vmap(one)(streams.replay, ensemble.learner, rates)
    return ensemble.replace(learner=state, clock=clock.replace(update=clock.update + 1))


def _scan(body, carry, length: int):
    """A scan of `length` bodies whose records are joined on one leading axis."""
    if length == 1:
        return body(carry, None)
    carry, records = jax.lax.scan(body, carry, None, length)
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), records)


@functools.partial(
    jax.jit,
    static_argnames=("env", "dqn", "learner", "num_steps", "mode"),
    donate_argnames=("ensemble",),
)
def run_chunk(
    ensemble: Ensemble,
    streams: Streams,
    env_params: Any,
    rates: DQNHyperparams,
    *,
    env: Env,
    dqn: DQN,
    learner: config.Learner,
    num_steps: int,
    mode: Mode,
) -> tuple[Ensemble, History]:
    """`num_steps` steps of one block of learners; the ensemble is donated, and its replay is written in place. Returns
    it, and the history [N, num_steps].

    How a compiler orders a sum depends on the sizes it sees: a learner's bits depend on the block size, which is N
    here. `num_steps` must be a multiple of `learner.steps_per_update`, and of the target period or the reverse
    (`chunk_plan` sees to it).
    """

    def step(carry, _):
        carry, record = env_step(
            carry, streams, env_params, rates, env=env, dqn=dqn, learner=learner, mode=mode
        )
        return carry, jax.tree.map(lambda x: x[None], record)

    def update(carry, _):
        return gradient_step(carry, streams, rates, dqn=dqn), None

    def iteration(carry, _):
        carry, record = _scan(step, carry, learner.steps_per_update)
        carry, _ = _scan(update, carry, learner.updates_per_iteration)
        return carry, record

    def sync(carry):
        return carry.replace(learner=jax.vmap(dqn.sync)(carry.learner))

    if mode != "learn":
        ensemble, record = _scan(step, ensemble, num_steps)
    else:
        num_iterations = num_steps // learner.steps_per_update
        period = learner.target_period_updates // learner.updates_per_iteration
        if period == 0:
            ensemble, record = _scan(iteration, ensemble, num_iterations)
        elif num_iterations % period == 0:

            def target_period(carry, _):
                carry, record = _scan(iteration, carry, period)
                return sync(carry), record

            ensemble, record = _scan(target_period, ensemble, num_iterations // period)
        else:  # the period is a multiple of the chunk: the copy can only fall on a chunk's end
            ensemble, record = _scan(iteration, ensemble, num_iterations)
            due = ensemble.clock.update % learner.target_period_updates == 0
            synced = sync(ensemble).learner.target_params
            target = jax.tree.map(
                lambda new, old: jnp.where(due, new, old), synced, ensemble.learner.target_params
            )
            ensemble = ensemble.replace(learner=ensemble.learner.replace(target_params=target))
    return ensemble, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), record)


@functools.partial(jax.jit, static_argnames=("env", "dqn"))
def begin_episode(
    ensemble: Ensemble, reset_keys: jax.Array, env_params: Any, *, env: Env, dqn: DQN
) -> Ensemble:
    """The same learners at the start of a new episode; the environments' age goes on. Keys and tasks [N]."""
    env_state, obs = jax.vmap(env.reset)(reset_keys, env_params, ensemble.env_state)
    rows = dqn.replay.restart(ensemble.learner.rows, ensemble.clock.cursor, obs)
    return ensemble.replace(env_state=env_state, obs=obs, learner=ensemble.learner.replace(rows=rows))


def advance(
    ensemble: Ensemble,
    streams: Streams,
    env_params: Any,
    rates: DQNHyperparams,
    *,
    env: Env,
    dqn: DQN,
    learner: config.Learner,
    num_steps: int,
    chunk_steps: int,
    block_size: int,
    hold: bool = False,
    keep_steps: Container[int] = (),
    devices: sharding.Devices | None = None,
    on_diverged: Callable[[np.ndarray, int], None] | None = None,
) -> Iterator[tuple[Ensemble | None, History]]:
    """Live `num_steps` more steps, yielding the ensemble and the history [N, chunk] after every chunk.

    The next chunk is dispatched before a history is yielded, so the device computes it while the host writes.
    Dispatching consumes (donates) the ensemble; so it is yielded only at the last step and at `keep_steps`
    (ages, asked for when a chunk that ends there was dispatched; there the device waits for the caller to come back),
    else None. The ensemble passed in is consumed. With a script in `streams`, `Followed` takes the history's place.

    `chunk_steps` must divide `num_steps` and the rest of the warm-up. Each device (default: all local ones) computes
    blocks of exactly `block_size` learners, one after the other (`Blocks`); how many devices there are changes no bit.

    `on_diverged` is told which learners' weights (bool [N]) are no longer finite after which step, every time that some
    are not; the others live on undisturbed. None: that is an error.

    Raises:
      FloatingPointError: a learner's weights are no longer finite; it names the learner and the step.
    """
    on_diverged = on_diverged or _stop
    first, in_replay = int(ensemble.clock.step), int(ensemble.clock.cursor.num_added) - 1
    blocks = Blocks(ensemble.obs.shape[0], block_size, devices)
    ensembles = blocks.split(ensemble, SPECS)
    del ensemble  # its room is needed
    rest = list(zip(*(blocks.split(x, sharding.SPLIT) for x in (streams, env_params, rates)), strict=True))
    static = {"env": env, "dqn": dqn, "learner": learner, "num_steps": chunk_steps}
    waiting: _Chunk | None = None
    for step in range(first, first + num_steps, chunk_steps):
        mode: Mode = "hold" if hold else "learn"
        if not hold and in_replay + step - first < learner.learning_starts_steps:
            mode = "warm_up" if step < learner.learning_starts_steps else "fill"
        live = functools.partial(live_block, ensembles, rest, mode=mode, **static)
        chunk = _Chunk(step + chunk_steps, *map(list, zip(*blocks.compute(live), strict=True)))
        if waiting is not None:
            yield None, waiting.checked_history(blocks, on_diverged)
        waiting = chunk
        if chunk.end_step in keep_steps or chunk.end_step == first + num_steps:
            history, waiting = chunk.checked_history(blocks, on_diverged), None
            yield blocks.join(ensembles, SPECS), history


def live_block(
    ensembles: list, rest: list, index: int, *, mode: Mode, **static
) -> tuple[History, jax.Array | None]:
    """A chunk of one block, whose ensemble is replaced. Its history, and whether weights that learned are finite."""
    ensembles[index], history = run_chunk(ensembles[index], *rest[index], mode=mode, **static)
    return history, _is_finite(ensembles[index].learner.params) if mode == "learn" else None


class _Chunk(NamedTuple):
    """A chunk that was dispatched and whose history has not been handed out."""

    end_step: int
    histories: list[History]  # a block each
    is_finite: list[jax.Array | None]  # likewise, bool; None where nothing was learned

    def checked_history(self, blocks: Blocks, on_diverged: Callable[[np.ndarray, int], None]) -> History:
        """The history of the learners that count. Waits for the chunk."""
        if self.is_finite[0] is not None:
            has_diverged = ~np.asarray(blocks.on_host(self.is_finite))
            if has_diverged.any():
                on_diverged(has_diverged, self.end_step)
        return blocks.on_host(self.histories)


def divergence(has_diverged: np.ndarray, step: int) -> FloatingPointError:
    """What to say of learners, bool [N], whose weights are not finite after a step."""
    return FloatingPointError(
        f"the weights of learner {np.flatnonzero(has_diverged)[0]} are not finite after step {step} "
        f"({has_diverged.sum()} of {has_diverged.size} learners). Usual cause: learner.learning_rate is too large, or "
        "learner.discount is 1."
    )


def _stop(has_diverged: np.ndarray, step: int) -> None:
    raise divergence(has_diverged, step)


@jax.jit
def _is_finite(params: Any) -> jax.Array:
    """bool [N]: all of a learner's weights are."""
    leaves = [jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(axis=1) for leaf in jax.tree.leaves(params)]
    return jnp.stack(leaves).all(axis=0)


def chunk_plan(boundaries: Iterable[int], learner: config.Learner, *, at_most: int) -> int:
    """The largest chunk that ends on every boundary (steps) and fits the learner's intervals.

    Raises:
      ValueError: there is none.
    """
    common = math.gcd(*boundaries, learner.learning_starts_steps)
    period = learner.target_period_updates * learner.steps_per_update // learner.updates_per_iteration
    for size in range(min(common, at_most), 0, -1):
        fits_period = period == 0 or size % period == 0 or period % size == 0
        if common % size == 0 and size % learner.steps_per_update == 0 and fits_period:
            return size
    raise ValueError(
        f"no chunk of steps fits: forks, stages, horizons and learner.learning_starts_steps have the common "
        f"divisor {common}, but learner.steps_per_update = {learner.steps_per_update} and "
        f"learner.target_period_updates = {learner.target_period_updates}. Make the former multiples of the latter."
    )
