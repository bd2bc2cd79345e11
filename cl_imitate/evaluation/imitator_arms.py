"""The arms in which frozen imitators act, every seed and every way of acting at once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from cl_imitate import keys, sharding
from cl_imitate.evaluation import closed_loop, summary
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.frozen import digest
from cl_imitate.evaluation.scene import Count, Scene, Tick, again, coin_rates, part_name, prompt_for
from cl_imitate.keeper import Keeper
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.types import age_bucket


def frozen_name(context_steps: int, fork_step: int) -> str:
    """How the imitators of one context length and fork are called beside their hash."""
    return f"context {context_steps} fork {fork_step}"


def _members(frozen: Frozen, ways: tuple[str, ...]) -> closed_loop.Members:
    """One member for each way of acting and seed, ways outermost."""

    def flags(*names: str) -> jax.Array:
        return jnp.repeat(jnp.array([way in names for way in ways]), frozen.num_seeds)

    return closed_loop.Members(
        params=_tiled(frozen.params, len(ways)),
        is_argmax=flags("imitator_argmax"),
        wipes=flags("imitator_wiped"),
        masks=flags("imitator_masked"),
    )


@functools.partial(jax.jit, static_argnames=("times",))
def _tiled(tree: Any, times: int) -> Any:
    """Leaves [S, ...] -> [times * S, ...], one whole after the other."""
    return jax.tree.map(lambda leaf: leaf[np.tile(np.arange(leaf.shape[0]), times)], tree)


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


def _epsilon(scene: Scene, lived: int, num_steps: int, mesh: Mesh) -> jax.Array:
    """How often the learners explore at each step after so many of the arm, float32 [E, num_steps]."""
    rates = coin_rates(scene.population, scene.protocol.learner_step + lived, num_steps)
    return sharding.place(jnp.tile(rates, (scene.population.num_learners, 1)), mesh, sharding.SPLIT)


AfterBlock = Callable[[Any, closed_loop.Record], Any]
"""(the members' weights [M, ...], what they did in a block, recorded whole) -> the weights that they go on with."""


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
    after_block: AfterBlock | None = None,
) -> ImitatorArms:
    """The frozen imitators' arms over `num_steps`; with `judged`, against the scene's learners, held.

    `after_block` is for the controls: it is shown every block, and what weights it returns are acted with from there
    on. Nothing is kept of such an arm, which is not these imitators' alone.
    """
    keeper = None if after_block else keeper
    protocol, population = scene.protocol, scene.population
    num, name = population.num_learners, frozen_name(frozen.context_steps, protocol.fork_step)
    part = part_name(protocol.label, "context", frozen.context_steps, "prompted at", prompt_step, *ways)
    if keeper is not None and (done := keeper.finished(part)):
        arrays, facts = done
        count.imitator_steps += facts["imitator_steps"]
        count.acted.setdefault(name, set()).add(facts["acted"])
        tick(facts["imitator_steps"])
        return ImitatorArms.from_flat(arrays)
    mesh = sharding.ensemble_mesh(num)
    cast = _enter(scene, frozen, ways, prompt_step, num_steps, mesh, judged=judged)
    rollout, members, first, waiting = cast.rollout, cast.members, 0, None
    size = frozen.imitator.block_steps
    a_block = cast.act_keys.size * size
    if keeper is not None and (saved := keeper.load(part, lambda _: cast.rollout)):
        rollout, first = closed_loop.place(saved.tree, mesh), saved.facts["blocks"]
        tick(first * a_block)
    num_blocks, since = -(-num_steps // size), count.clock()
    for block in range(first, num_blocks):
        rollout, record = closed_loop.run_block(
            rollout,
            members,
            cast.act_keys,
            cast.env_keys,
            cast.env_params,
            cast.age,
            cast.learners,
            _epsilon(scene, block * size, size, mesh) if frozen.imitator.sees_coin else (),
            cast.causes,
            imitator=frozen.imitator,
            env=population.family.env,
            judge=_judge(population.dqn) if judged else None,
            block_steps=scene.block_steps,
            mesh=mesh,
            whole_record=after_block is not None,
        )
        if after_block is not None:
            params = after_block(members.params, record)
            members = members.replace(params=sharding.place(params, mesh, sharding.WHOLE))
        if waiting is not None:  # the device is one block ahead of the host
            jax.block_until_ready(waiting.done)
            if keeper is not None:
                keeper.attempt.stepped()
        waiting = record
        tick(a_block)
        steps = (block + 1) * size
        if keeper is not None and block + 1 < num_blocks and keeper.is_due(part, steps):
            keeper.save(part, steps, rollout, {"blocks": block + 1})
    imitator_steps = num_blocks * a_block
    count.imitator_steps += imitator_steps
    after = digest(jax.tree.map(lambda leaf: np.asarray(leaf)[: frozen.num_seeds], members.params))
    count.acted.setdefault(name, set()).add(after)
    arms = _arms_of(rollout, scene, ways, frozen.num_seeds, judged=judged)
    count.time(f"imitator, context {frozen.context_steps}", since, (num_blocks - first) * a_block)
    if keeper is not None:
        keeper.finish(part, arms.flat, {"imitator_steps": imitator_steps, "acted": after})
    return arms


class _Cast(NamedTuple):
    """Who acts in an arm and where, on the devices: what `closed_loop.run_block` takes."""

    rollout: closed_loop.Rollout
    members: closed_loop.Members
    act_keys: jax.Array  # [M, E]
    env_keys: jax.Array  # [E]
    env_params: Any  # [E, ...]
    age: jax.Array
    learners: Any
    causes: Any


def _enter(
    scene: Scene,
    frozen: Frozen,
    ways: tuple[str, ...],
    prompt_step: int,
    num_steps: int,
    mesh: Mesh,
    *,
    judged: bool,
) -> _Cast:
    """The imitators in a new episode of the scene's environments, prompted or with an empty context."""
    protocol, population, env = scene.protocol, scene.population, scene.population.family.env
    num = population.num_learners
    members = _members(frozen, ways)
    env_state, obs = jax.vmap(env.reset)(
        again(scene.reset_keys), population.env_params, scene.snapshot.env_state
    )
    prompt = prompt_for(frozen, scene, prompt_step) if prompt_step else None
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
    env_keys, env_params = sharding.place((scene.env_keys, population.env_params), mesh, sharding.SPLIT)
    seed_keys = keys.members(scene.act_key, frozen.num_seeds)
    act_keys = jax.vmap(lambda key: keys.members(key, num, first=scene.first))(_tiled(seed_keys, len(ways)))
    age = jnp.int32(0) if protocol.age_step is None else age_bucket(jnp.int32(protocol.age_step))
    return _Cast(
        rollout=closed_loop.place(rollout, mesh),
        members=sharding.place(members, mesh, sharding.WHOLE),
        act_keys=sharding.place(act_keys, mesh, PartitionSpec(None, sharding.ENSEMBLE)),
        env_keys=env_keys,
        env_params=env_params,
        age=sharding.place(age, mesh, sharding.WHOLE),
        learners=sharding.place(_judges(scene) if judged else (), mesh, sharding.SPLIT),
        causes=sharding.place(scene.causes, mesh, sharding.SPLIT) if frozen.imitator.sees_replay else None,
    )


def _arms_of(
    rollout: closed_loop.Rollout, scene: Scene, ways: tuple[str, ...], num_seeds: int, *, judged: bool
) -> ImitatorArms:
    """What a rollout's summary holds, by way of acting."""

    def by_way(values: np.ndarray) -> dict[str, np.ndarray]:
        num = scene.population.num_learners
        return dict(zip(ways, values.reshape(len(ways), num_seeds, num, -1), strict=True))

    found = rollout.summary
    return ImitatorArms(
        returns=by_way(summary.block_means(found)),
        cross_entropy=by_way(summary.block_cross_entropy(found, scene.block_steps)) if judged else {},
        visits=by_way(np.asarray(found.visits)),
    )
