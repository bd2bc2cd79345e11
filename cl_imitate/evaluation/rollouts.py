"""The arms side by side: every protocol runs through `run_protocol`.

In one cell all arms live in the same tasks, begin a new episode with the same reset keys, and draw the
environment's randomness from the same keys.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from cl_imitate import config, keys, sharding, simulate
from cl_imitate.evaluation import closed_loop, divergence, metrics, summary
from cl_imitate.evaluation.closed_loop import Frozen, Prompt
from cl_imitate.evaluation.frozen import digest
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.evaluation.results import Cell
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.histories import contexts
from cl_imitate.keeper import Keeper
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.populations import Population
from cl_imitate.types import History, age_bucket, empty_history

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


def part_name(*words: object) -> str:
    """What a keeper calls an arm: a folder's name, another one for any other words."""
    told = " ".join(map(str, words))
    return (
        f"{re.sub(r'[^a-z0-9.+-]+', '_', told.lower())[:80]}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LearnerArm:
    """What a learner did."""

    returns: np.ndarray  # mean returns [1, n, K] over the cell's whole horizon, NaN past the arm's own steps
    visits: np.ndarray  # int [n, V]
    history: History | None  # [n, its steps], if it was to be kept


def learner_arm(
    scene: Scene,
    name: str,
    *,
    num_steps: int,
    count: Count,
    tick: Tick,
    keeper: Keeper | None = None,
    hold: bool = False,
    epsilon: float | None = None,
    snapshot: simulate.Ensemble | None = None,
    keeps_history: bool = False,
) -> LearnerArm:
    """One of the learner's arms: weights changing, or held with `hold`, at its own epsilon or a given one.

    `name` is what the keeper calls it. A history can be millions of steps: think before keeping it.
    """
    population, part = scene.population, part_name(scene.protocol.label, name)
    if keeper is not None and (done := keeper.finished(part)):
        arrays, facts = done
        count.td_updates += facts["td_updates"]
        tick(population.num_learners * num_steps)
        fields: dict[str, Any] = {
            key.removeprefix("history."): value for key, value in arrays.items() if "history." in key
        }
        history = History(**fields) if keeps_history else None
        return LearnerArm(returns=arrays["returns"], visits=arrays["visits"], history=history)
    start = scene.snapshot if snapshot is None else snapshot
    life = _Life.begin(scene, start, num_steps, keeps_history)
    if keeper is not None:
        life.go_on(keeper, part)
    tick(population.num_learners * life.lived)
    for kept, history in simulate.advance(
        life.ensemble,
        population.streams.replace(env=scene.env_keys),
        population.env_params,
        _rates(scene, start, hold=hold, epsilon=epsilon),
        **population.static,
        num_steps=num_steps - life.lived,
        chunk_steps=scene.chunk_steps,
        keep_steps=life.wanted(keeper, part),
        hold=hold,
    ):
        life.add(kept, jax.tree.map(np.asarray, history))
        tick(history.action.size)
        if kept is not None and keeper is not None and life.lived < num_steps:
            keeper.save(part, life.lived, life.tree, life.facts)
    td_updates = (int(life.ensemble.clock.update) - int(start.clock.update)) * population.num_learners
    count.td_updates += td_updates
    arm = life.arm(scene.protocol.horizon_steps // scene.block_steps)
    if keeper is not None:
        fields = {} if arm.history is None else vars(arm.history)
        arrays = {f"history.{key}": np.asarray(value) for key, value in fields.items()}
        keeper.finish(
            part, {"returns": arm.returns, "visits": arm.visits, **arrays}, {"td_updates": td_updates}
        )
    return arm


def _rates(
    scene: Scene, start: simulate.Ensemble, *, hold: bool, epsilon: float | None
) -> dqn_lib.DQNHyperparams:
    rates = scene.population.rates
    if hold:
        learning_step = jnp.maximum(start.clock.step - scene.population.learner.learning_starts_steps, 0)
        rates = dqn_lib.hold_epsilon(rates, learning_step)
    if epsilon is not None:
        constant = jnp.full_like(rates.epsilon_start, epsilon)
        rates = rates.replace(epsilon_start=constant, epsilon_end=constant)
    return rates


@dataclasses.dataclass(kw_only=True, eq=False)
class _Life:
    """A learner's arm under way."""

    scene: Scene
    ensemble: simulate.Ensemble
    blocks: BlockReturns
    visits: np.ndarray
    histories: list[History] | None
    first_step: int
    lived: int = 0

    @classmethod
    def begin(cls, scene: Scene, start: simulate.Ensemble, num_steps: int, keeps_history: bool) -> "_Life":
        population, spec = scene.population, scene.population.family.env.spec
        ensemble = simulate.begin_episode(
            _copy(start),
            _again(scene.reset_keys),
            population.env_params,
            env=population.family.env,
            dqn=population.dqn,
        )
        return cls(
            scene=scene,
            ensemble=ensemble,
            blocks=BlockReturns((population.num_learners,), num_steps, scene.block_steps),
            visits=np.zeros((population.num_learners, summary.num_places(spec)), np.int64),
            histories=[] if keeps_history else None,
            first_step=int(ensemble.clock.step),
        )

    def wanted(self, keeper: Keeper | None, part: str) -> Container[int]:
        """Ages at which the ensemble is wanted whole: when the keeper wants it."""
        return () if keeper is None else keeper.steps(part, from_step=self.first_step)

    def add(self, kept: simulate.Ensemble | None, history: History) -> None:
        self.ensemble = self.ensemble if kept is None else kept
        self.lived += history.action.shape[1]
        self.blocks.add(np.asarray(history.reward), np.asarray(history.terminated | history.truncated))
        self.visits += summary.visits_of(
            self.scene.population.family.env.spec,
            history.obs,
            history.action,  # pyright: ignore
        )
        if self.histories is not None:
            self.histories.append(history)

    @property
    def history(self) -> History | None:
        return (
            jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *self.histories) if self.histories else None
        )

    @property
    def tree(self) -> dict[str, Any]:
        return {
            "ensemble": self.ensemble,
            "blocks": self.blocks.state,
            "visits": self.visits,
            "history": self.history if self.histories else {},
        }

    @property
    def facts(self) -> dict[str, Any]:
        return {"lived": self.lived}

    def go_on(self, keeper: Keeper, part: str) -> None:
        """From what the keeper has, if it has something."""

        def like(facts):
            shape = (self.scene.population.num_learners, facts["lived"])
            spec = self.scene.population.family.env.spec
            return {**self.tree, "history": {} if self.histories is None else empty_history(spec, shape)}

        if (saved := keeper.load(part, like)) is None:
            return
        self.ensemble, self.lived = saved.tree["ensemble"], saved.facts["lived"]
        self.blocks.state, self.visits = saved.tree["blocks"], saved.tree["visits"]
        self.histories = None if self.histories is None else [saved.tree["history"]]

    def arm(self, num_blocks: int) -> LearnerArm:
        mean = self.blocks.mean
        returns = np.full((1, len(mean), num_blocks), np.nan, np.float32)
        returns[0, :, : mean.shape[-1]] = mean
        return LearnerArm(returns=returns, visits=self.visits, history=self.history)


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

    @property
    def flat(self) -> dict[str, np.ndarray]:
        """Every array by "<what>.<way>"."""
        return {
            f"{field.name}.{way}": values
            for field in dataclasses.fields(self)
            for way, values in getattr(self, field.name).items()
        }

    @classmethod
    def from_flat(cls, arrays: dict[str, np.ndarray]) -> "ImitatorArms":
        groups: dict[str, dict[str, np.ndarray]] = {field.name: {} for field in dataclasses.fields(cls)}
        for key, values in arrays.items():
            what, way = key.split(".")
            groups[what][way] = values
        return cls(**groups)


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
    keeper: Keeper | None = None,
) -> ImitatorArms:
    """The frozen imitators' arms over `num_steps`; with `judged`, against the scene's learners, held."""
    protocol, population, env = scene.protocol, scene.population, scene.population.family.env
    num, name = population.num_learners, frozen_name(frozen.context_steps, protocol.fork_step)
    part = part_name(protocol.label, "context", frozen.context_steps, "prompted at", prompt_step, *ways)
    if keeper is not None and (done := keeper.finished(part)):
        arrays, facts = done
        count.imitator_steps += facts["imitator_steps"]
        count.acted.setdefault(name, set()).add(facts["acted"])
        tick(facts["imitator_steps"])
        return ImitatorArms.from_flat(arrays)
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
    first, waiting = 0, None
    a_block = act_keys.size * frozen.imitator.block_steps
    if keeper is not None and (saved := keeper.load(part, lambda _: rollout)):
        rollout, first = closed_loop.place(saved.tree, mesh), saved.facts["blocks"]
        tick(first * a_block)
    num_blocks = -(-num_steps // frozen.imitator.block_steps)
    for block in range(first, num_blocks):
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
        tick(a_block)
        steps = (block + 1) * frozen.imitator.block_steps
        if keeper is not None and block + 1 < num_blocks and keeper.is_due(part, steps):
            keeper.save(part, steps, rollout, {"blocks": block + 1})
    imitator_steps = num_blocks * a_block
    count.imitator_steps += imitator_steps
    after = digest(jax.tree.map(lambda leaf: leaf[: frozen.num_seeds], members.params))
    count.acted.setdefault(name, set()).add(after)

    def by_way(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(ways, values.reshape(len(ways), frozen.num_seeds, num, -1), strict=True))

    found = rollout.summary
    arms = ImitatorArms(
        returns=by_way(summary.block_means(found)),
        cross_entropy=by_way(np.asarray(found.cross_entropy) / scene.block_steps) if judged else {},
        visits=by_way(np.asarray(found.visits)),
    )
    if keeper is not None:
        keeper.finish(part, arms.flat, {"imitator_steps": imitator_steps, "acted": after})
    return arms


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
    scene: Scene,
    source_snapshot: simulate.Ensemble | None,
    *,
    count: Count,
    tick: Tick,
    keeper: Keeper | None = None,
) -> LearnerArms:
    """All arms in which a learner acts."""
    protocol = scene.protocol
    spent = {"count": count, "tick": tick, "keeper": keeper}
    held = learner_arm(
        scene, "learner_held", num_steps=protocol.now_steps, hold=True, keeps_history=True, **spent
    )
    returns, visits = {"learner_held": held.returns}, np.zeros_like(held.visits)
    if protocol.goes_on:
        arm = learner_arm(scene, "learner", num_steps=protocol.horizon_steps, **spent)
        returns["learner"], visits = arm.returns, arm.visits
    if protocol.transplant and source_snapshot is not None:
        snapshot = transplanted(scene, source_snapshot)
        returns["learner_transplanted"] = learner_arm(
            scene, "learner_transplanted", num_steps=protocol.horizon_steps, snapshot=snapshot, **spent
        ).returns
    family, random_level = scene.population.family, None
    if family.exact_return is None and family.random_return is None:
        arm = learner_arm(scene, "random", num_steps=protocol.now_steps, hold=True, epsilon=1.0, **spent)
        random_level = np.nanmean(arm.returns[0], axis=-1)
    assert held.history is not None
    return LearnerArms(returns=returns, visits=visits, held_history=held.history, random_level=random_level)


def run_protocol(
    scene: Scene,
    learners: LearnerArms,
    frozen: Frozen,
    *,
    source_step: int,
    count: Count,
    tick: Tick,
    keeper: Keeper | None = None,
) -> list[Cell]:
    """The cells of one protocol for the imitators of one context length.

    `source_step` is where the prompt from the source task ends (ELSEWHERE with transplant).
    """
    protocol = scene.protocol
    ways = ("imitator", "imitator_argmax")
    ways += ("imitator_wiped",) * protocol.wiped + ("imitator_masked",) * protocol.masked
    spent = {"count": count, "tick": tick, "keeper": keeper}
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
    """Nats: of the held learners' policies, the least that a cross-entropy to them can be."""
    num_actions = scene.population.family.env.spec.num_actions
    return metrics.policy_entropy(_epsilon(scene.population, scene.protocol.learner_step), num_actions)


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
