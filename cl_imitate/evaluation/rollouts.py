"""The arms side by side: every protocol runs through `run_protocol`.

In one cell all arms live in the same tasks, begin a new episode with the same reset keys, and draw the
environment's randomness from the same keys.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from cl_imitate import config, keys, sharding, simulate
from cl_imitate.evaluation import closed_loop, divergence, summary
from cl_imitate.evaluation.closed_loop import Frozen, Prompt
from cl_imitate.evaluation.frozen import digest
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.evaluation.results import Cell
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.histories import contexts
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.populations import Population
from cl_imitate.types import History, age_bucket

Tick = Callable[[int], None]
"""Told how many steps (summed over streams) have just been done."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Where a cell plays: the learners, their snapshot, their past, and the keys that all arms share."""

    protocol: Protocol
    population: Population
    snapshot: simulate.Ensemble  # at protocol.learner_step
    source: Population  # whose history prompts; the population itself but for ELSEWHERE
    past: History | None  # the source's history on the host, [N, T]
    env_keys: jax.Array  # keys [n]
    reset_keys: jax.Array  # keys [n]
    act_key: jax.Array
    block_steps: int
    chunk_steps: int
    best_history: float  # the best recorded learner's return just before the fork
    past_step: Callable[[int], int]  # from a step lived to a step of `past`, which may be thinned


@dataclasses.dataclass
class Count:
    """What was spent."""

    td_updates: int = 0
    imitator_steps: int = 0
    acted: dict[str, set[str]] = dataclasses.field(default_factory=dict)  # imitators -> hashes after acting


def make_scene(
    protocol: Protocol,
    index: int,
    experiment: config.Experiment,
    population: Population,
    snapshot: simulate.Ensemble,
    source: Population,
    past: History | None,
    *,
    chunk_steps: int,
    best_history: float,
    past_step: Callable[[int], int] = int,
) -> Scene:
    """The scene of the protocol at place `index` in `protocols.protocols(experiment)`."""
    root = keys.root(experiment.seed)
    env_key = keys.member(keys.stream(root, keys.Stream.ARM_ENV), index)
    num = population.num_learners
    return Scene(
        protocol=protocol,
        population=population,
        snapshot=snapshot,
        source=source,
        past=past,
        env_keys=keys.members(keys.stream(env_key, keys.Stream.ENV), num),
        reset_keys=keys.members(keys.stream(env_key, keys.Stream.ENV_INIT), num),
        act_key=keys.member(keys.stream(root, keys.Stream.ARM_ACT), index),
        block_steps=experiment.evaluation.block_steps,
        chunk_steps=chunk_steps,
        best_history=best_history,
        past_step=past_step,
    )


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _again(shared_keys: jax.Array) -> jax.Array:
    """The same keys for one more arm: that arms share their resets is the point."""
    return jax.random.clone(shared_keys)


def learner_arm(
    scene: Scene,
    *,
    num_steps: int,
    count: Count,
    tick: Tick,
    hold: bool = False,
    epsilon: float | None = None,
    snapshot: simulate.Ensemble | None = None,
    keep: list[History] | None = None,
    visits: np.ndarray | None = None,
) -> np.ndarray:
    """One of the learner's arms: weights changing, or held with `hold`, at its own epsilon or a given one.

    Returns mean returns [1, n, K] over the cell's whole horizon, NaN past `num_steps`. The arm's history is
    appended to `keep` chunk by chunk, if given (it can be millions of steps); its visits are added to `visits`
    [n, V], if given.
    """
    population, protocol = scene.population, scene.protocol
    ensemble = _copy(scene.snapshot if snapshot is None else snapshot)
    ensemble = simulate.begin_episode(
        ensemble,
        _again(scene.reset_keys),
        population.env_params,
        env=population.family.env,
        dqn=population.dqn,
    )
    rates = population.rates
    if hold:
        learning_step = jnp.maximum(ensemble.clock.step - population.learner.learning_starts_steps, 0)
        rates = dqn_lib.hold_epsilon(rates, learning_step)
    if epsilon is not None:
        constant = jnp.full_like(rates.epsilon_start, epsilon)
        rates = rates.replace(epsilon_start=constant, epsilon_end=constant)
    first_update = int(ensemble.clock.update)
    num_blocks = protocol.horizon_steps // scene.block_steps
    blocks = BlockReturns((population.num_learners,), num_steps, scene.block_steps)
    for kept, history in simulate.advance(
        ensemble,
        scene.population.streams.replace(env=scene.env_keys),
        population.env_params,
        rates,
        **population.static,
        num_steps=num_steps,
        chunk_steps=scene.chunk_steps,
        hold=hold,
    ):
        ensemble = ensemble if kept is None else kept
        history = jax.tree.map(np.asarray, history)
        blocks.add(history.reward, history.terminated | history.truncated)
        if keep is not None:
            keep.append(history)
        if visits is not None:
            visits += summary.visits_of(population.family.env.spec, history.obs, history.action)
        tick(history.action.size)
    count.td_updates += (int(ensemble.clock.update) - first_update) * population.num_learners
    returns = np.full((1, population.num_learners, num_blocks), np.nan, np.float32)
    returns[0, :, : blocks.mean.shape[-1]] = blocks.mean
    return returns


def transplanted(scene: Scene, source_snapshot: simulate.Ensemble) -> simulate.Ensemble:
    """The source learners' weights and optimiser in the cell's tasks; replay starts empty, age goes on."""
    newborn = scene.snapshot
    num = scene.population.num_learners

    def first(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:num], tree)

    carried = source_snapshot.learner
    learner = newborn.learner.replace(
        params=first(carried.params),
        target_params=first(carried.target_params),
        opt_state=first(carried.opt_state),
    )
    old = source_snapshot.clock
    clock = newborn.clock.replace(step=old.step, update=old.update)  # env_step: the new environment's
    return newborn.replace(learner=learner, clock=clock)


def last_episode_end(past: History, step: int) -> np.ndarray:
    """For each learner the number of steps up to the end of its last episode before `step`, int32 [N]."""
    done = np.asarray(past.terminated | past.truncated)[:, :step]
    back = np.argmax(done[:, ::-1], axis=1)
    return np.where(done.any(axis=1), step - back, 0).astype(np.int32)


def make_prompt(scene: Scene, step: int, *, length: int) -> Prompt:
    """The scene's source learners' last `length` steps before `step` (of their thinned history, if it is)."""
    if scene.past is None:
        raise ValueError(f"the cell {scene.protocol.label} is prompted but its source has no history")
    num, spec = scene.population.num_learners, scene.source.family.env.spec
    past = jax.tree.map(lambda x: jnp.asarray(x[:num]), scene.past)
    end = jnp.asarray(last_episode_end(past, scene.past_step(step)))
    tokens, is_there = contexts.prompt_windows(
        past,
        end,
        length=length,
        num_actions=spec.num_actions,
        tell_ages=scene.protocol.age_step is not None,
    )
    rows = jnp.arange(num), jnp.maximum(end - 1, 0)
    return Prompt(
        tokens=tokens,
        is_there=is_there,
        last_action=past.action[rows].astype(jnp.int32),
        last_reward=past.reward[rows].astype(jnp.float32),
    )


def frozen_name(context_steps: int, fork_step: int) -> str:
    """How the imitators of one context length and fork are called beside their hash."""
    return f"context {context_steps} fork {fork_step}"


def _members(frozen: Frozen, ways: tuple[str, ...]) -> closed_loop.Members:
    """One member for each way of acting and seed, ways outermost."""

    def flags(*names: str) -> jax.Array:
        return jnp.repeat(jnp.array([way in names for way in ways]), frozen.num_seeds)

    def tile(leaf):
        return jnp.concatenate([leaf] * len(ways))

    return closed_loop.Members(
        params=jax.tree.map(tile, frozen.params),
        is_argmax=flags("imitator_argmax"),
        wipes=flags("imitator_wiped"),
        masks=flags("imitator_masked"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImitatorArms:
    """What the frozen imitators did, by way of acting."""

    returns: dict[str, np.ndarray]  # mean returns [S, n, K]
    cross_entropy: dict[
        str, np.ndarray
    ]  # [S, n, K]: nats an action, of the held learner's; empty if not judged
    visits: dict[str, np.ndarray]  # int [S, n, V]


@functools.cache
def _judge(dqn: dqn_lib.DQN) -> closed_loop.Judge:
    """The held learner's policy; cached, because a new function would compile anew."""

    def judge(learner, obs):
        state, rates, step = learner
        return dqn.policy(state, rates, obs, step)

    return judge


def _judges(scene: Scene) -> Any:
    """What `_judge` reads: the learners at the start of the cell, held; without what a policy does not need."""
    step = max(0, scene.protocol.learner_step - scene.population.learner.learning_starts_steps)
    state = scene.snapshot.learner.replace(target_params=None, opt_state=None, rows=None)
    return state, scene.population.rates, jnp.full(scene.population.num_learners, step, jnp.int32)


def imitator_arms(
    scene: Scene,
    frozen: Frozen,
    *,
    ways: tuple[str, ...],
    prompt_step: int,
    num_steps: int,
    judged: bool = False,
    count: Count,
    tick: Tick,
) -> ImitatorArms:
    """The frozen imitators' arms over `num_steps`; with `judged`, against the scene's learners, held."""
    protocol, population, env = scene.protocol, scene.population, scene.population.family.env
    num = population.num_learners
    members = _members(frozen, ways)
    env_state, obs = jax.vmap(env.reset)(
        _again(scene.reset_keys), population.env_params, scene.snapshot.env_state
    )
    prompt = make_prompt(scene, prompt_step, length=frozen.context_steps) if prompt_step else None
    mesh = sharding.ensemble_mesh(num)
    rollout = closed_loop.start(
        members,
        env_state,
        obs,
        prompt,
        imitator=frozen.imitator,
        spec=env.spec,
        start_step=protocol.learner_step,
        num_blocks=num_steps // scene.block_steps,
    )
    rollout = closed_loop.place(rollout, mesh)
    members = sharding.place(members, mesh, sharding.WHOLE)
    env_keys, env_params = sharding.place((scene.env_keys, population.env_params), mesh, sharding.SPLIT)
    seed_keys = keys.members(scene.act_key, frozen.num_seeds)
    act_keys = jax.vmap(lambda key: keys.members(key, num))(
        seed_keys[jnp.tile(jnp.arange(frozen.num_seeds), len(ways))]
    )
    act_keys = sharding.place(act_keys, mesh, PartitionSpec(None, sharding.ENSEMBLE))
    age = jnp.int32(0) if protocol.age_step is None else age_bucket(jnp.int32(protocol.age_step))
    age = sharding.place(age, mesh, sharding.WHOLE)
    learners = sharding.place(_judges(scene) if judged else (), mesh, sharding.SPLIT)
    waiting = None
    for _ in range(-(-num_steps // frozen.imitator.block_steps)):
        rollout, record = closed_loop.run_block(
            rollout,
            members,
            act_keys,
            env_keys,
            env_params,
            age,
            learners,
            imitator=frozen.imitator,
            env=env,
            judge=_judge(population.dqn) if judged else None,
            block_steps=scene.block_steps,
            mesh=mesh,
        )
        if waiting is not None:  # the device is one block ahead of the host
            jax.block_until_ready(waiting.done)
        waiting = record
        count.imitator_steps += record.action.size
        tick(record.action.size)
    after = digest(jax.tree.map(lambda leaf: leaf[: frozen.num_seeds], members.params))
    count.acted.setdefault(frozen_name(frozen.context_steps, protocol.fork_step), set()).add(after)

    def by_way(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(ways, values.reshape(len(ways), frozen.num_seeds, num, -1), strict=True))

    found = rollout.summary
    return ImitatorArms(
        returns=by_way(summary.block_means(found)),
        cross_entropy=by_way(np.asarray(found.cross_entropy) / scene.block_steps) if judged else {},
        visits=by_way(np.asarray(found.visits)),
    )


def levels(
    population: Population, epsilon: float, age: int, random_level: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Random, optimal and ceiling returns of each task, [n]; NaN where not known.

    By dynamic programming where the task is tabular; else as published, and random as measured if it was.
    """
    family, num = population.family, population.num_learners
    if family.exact_return is not None:
        random, optimal, ceiling = (
            family.exact_return(population.env_params, level, age=age) for level in (1.0, 0.0, epsilon)
        )
    else:
        random = np.full(num, family.random_return) if random_level is None else random_level
        level = np.nan if family.published_return is None else family.published_return
        optimal, ceiling = np.full(num, np.nan), np.full(num, level)
    return {"random_return": random, "optimal_return": optimal, "ceiling_return": ceiling}


def _epsilon(population: Population, step: int) -> float:
    learning_step = max(0, step - population.learner.learning_starts_steps)
    return float(dqn_lib.epsilon_at(population.rates, jnp.int32(learning_step))[0])


def _cell(
    scene: Scene,
    frozen: Frozen,
    name: str,
    returns: dict,
    random_level: np.ndarray | None,
    scalars: dict | None = None,
) -> Cell:
    protocol, population = scene.protocol, scene.population
    span = protocol.horizon_steps if "learner" in returns else 0
    epsilon = _epsilon(population, protocol.learner_step + span)  # there the reference is measured
    known = levels(population, epsilon, protocol.learner_step, random_level)
    num_blocks = next(iter(returns.values())).shape[-1]
    random = np.repeat(known["random_return"][None, :, None], num_blocks, axis=2).astype(np.float32)
    rung = protocol.rung
    return Cell(
        protocol=name,  # pyright: ignore[reportArgumentType]
        name=f"{protocol.label} {name} context {frozen.context_steps}",
        context_steps=frozen.context_steps,
        fork_step=protocol.fork_step,
        start_step=protocol.prompt_step,
        target_step=protocol.age_step,
        rung=rung.rung if rung else None,
        rung_name=rung.name if rung else None,
        split=protocol.split,
        block_steps=scene.block_steps,
        epsilon=epsilon,
        epsilon_at_start=_epsilon(population, protocol.learner_step),
        ceiling_is_exact=population.family.exact_return is not None,
        task=population.task,
        **known,
        returns={**returns, "random": random},
        scalars=scalars or {},
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LearnerArms:
    """The learner's arms of one scene, which imitators of every context length are compared with."""

    returns: dict[str, np.ndarray]  # arm -> [1, n, K]
    visits: np.ndarray  # int [n, V]: of the learner that goes on
    held_history: History  # [n, now_steps]
    random_level: np.ndarray | None  # [n]: the random policy's return where only running it can tell


def learner_arms(
    scene: Scene, source_snapshot: simulate.Ensemble | None, *, count: Count, tick: Tick
) -> LearnerArms:
    """All arms in which a learner acts."""
    protocol = scene.protocol
    spent = {"count": count, "tick": tick}
    kept: list[History] = []
    returns = {
        "learner_held": learner_arm(scene, num_steps=protocol.now_steps, hold=True, keep=kept, **spent)
    }
    places = summary.num_places(scene.population.family.env.spec)
    visits = np.zeros((scene.population.num_learners, places), np.int64)
    if protocol.goes_on:
        returns["learner"] = learner_arm(scene, num_steps=protocol.horizon_steps, visits=visits, **spent)
    if protocol.transplant and source_snapshot is not None:
        snapshot = transplanted(scene, source_snapshot)
        returns["learner_transplanted"] = learner_arm(
            scene, num_steps=protocol.horizon_steps, snapshot=snapshot, **spent
        )
    held_history = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *kept)
    family, random_level = scene.population.family, None
    if family.exact_return is None and family.random_return is None:
        blocks = learner_arm(scene, num_steps=protocol.now_steps, hold=True, epsilon=1.0, **spent)[0]
        random_level = np.nanmean(blocks, axis=-1)
    return LearnerArms(returns=returns, visits=visits, held_history=held_history, random_level=random_level)


def run_protocol(
    scene: Scene, learners: LearnerArms, frozen: Frozen, *, source_step: int, count: Count, tick: Tick
) -> list[Cell]:
    """The cells of one protocol for the imitators of one context length.

    `source_step` is where the prompt from the source task ends (ELSEWHERE with transplant).
    """
    protocol = scene.protocol
    ways = ("imitator", "imitator_argmax")
    ways += ("imitator_wiped",) * protocol.wiped + ("imitator_masked",) * protocol.masked
    spent = {"count": count, "tick": tick}
    arms = imitator_arms(
        scene,
        frozen,
        ways=ways,
        prompt_step=protocol.prompt_step if protocol.name != "elsewhere" else 0,
        num_steps=protocol.horizon_steps,
        judged=protocol.name == "now_and_later",
        **spent,
    )
    returns = {**learners.returns, **arms.returns}
    if protocol.transplant:
        prompted = imitator_arms(
            scene,
            frozen,
            ways=("imitator",),
            prompt_step=source_step,
            num_steps=protocol.horizon_steps,
            **spent,
        )
        returns["imitator_prompted"] = prompted.returns["imitator"]
    occupancy = _occupancy(arms, learners) if protocol.goes_on else {}
    if protocol.name != "now_and_later":
        return [_cell(scene, frozen, protocol.name, returns, learners.random_level, occupancy)]
    num_now = protocol.now_steps // scene.block_steps
    now = {arm: values[..., :num_now] for arm, values in returns.items() if arm != "learner"}
    scalars = {
        **_divergence(scene, learners.held_history, frozen),
        "closed_loop_cross_entropy": arms.cross_entropy["imitator"][..., :num_now].mean(axis=-1),
        "held_entropy": np.full((1, scene.population.num_learners), _policy_entropy(scene)),
    }
    best = {"best_history_return": np.array(scene.best_history)}
    return [
        _cell(scene, frozen, "now", now, learners.random_level, scalars),
        _cell(scene, frozen, "later", returns, learners.random_level, {**best, **occupancy}),
    ]


def _occupancy(arms: ImitatorArms, learners: LearnerArms) -> dict[str, np.ndarray]:
    """How differently from the learner that goes on each way of acting spent its time, [S, n]."""
    return {
        f"{way}_occupancy_distance": summary.occupancy_distance(visits, learners.visits[None])
        for way, visits in arms.visits.items()
    }


def _policy_entropy(scene: Scene) -> float:
    """Nats: of the held learners' epsilon-greedy policies, the least that a cross-entropy to them can be."""
    num_actions = scene.population.family.env.spec.num_actions
    explores = _epsilon(scene.population, scene.protocol.learner_step) / num_actions
    shares = np.array([1.0 - (num_actions - 1) * explores, *[explores] * (num_actions - 1)])
    return float(-np.sum(shares * np.log(np.maximum(shares, 1e-30))))


def _divergence(scene: Scene, held: History, frozen: Frozen) -> dict[str, np.ndarray]:
    population, step = scene.population, scene.protocol.prompt_step
    return divergence.teacher_forced(
        frozen.imitator,
        frozen.params,
        make_prompt(scene, step, length=frozen.context_steps),
        held,
        scene.snapshot.learner,
        population.rates,
        jnp.int32(max(0, step - population.learner.learning_starts_steps)),
        dqn=population.dqn,
    )
