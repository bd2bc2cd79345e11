"""Frozen imitators acting in closed loop: no optimiser, no gradient, weights passed in and never out.

M members (seeds x decoding x wiping) act in E environments each, with the same env keys; the environments are
split over the local devices. One compiled program a shape: a block of the imitator's `block_steps` steps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from cl_imitate import causes as causes_lib
from cl_imitate import keys, sharding
from cl_imitate.envs.base import Env
from cl_imitate.evaluation import prompts
from cl_imitate.evaluation import summary as summary_lib
from cl_imitate.evaluation.prompts import Prompt
from cl_imitate.evaluation.summary import Summary
from cl_imitate.imitators.base import Imitator
from cl_imitate.types import Causes, Spec, StepTokens


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frozen:
    """Imitators of one context length trained up to one fork: S seeds."""

    imitator: Imitator
    context_steps: int
    params: Any  # [S, ...]
    num_seeds: int


@struct.dataclass(kw_only=True)
class Members:
    """How each of M members acts, [M]."""

    params: Any  # [M, ...]
    is_argmax: jax.Array  # bool [M]: argmax instead of sampling
    wipes: jax.Array  # bool [M]: memory cleared at every episode, begin token given
    masks: jax.Array  # bool [M]: earlier episodes hidden, no begin token


@struct.dataclass(kw_only=True)
class Rollout:
    """The carry: M members in E environments."""

    env_state: Any  # [M, E, ...]
    obs: jax.Array  # [M, E, ...]
    prev_action: jax.Array  # int32 [M, E]
    prev_reward: jax.Array  # float32 [M, E]
    prev_done: jax.Array  # bool [M, E]
    is_begin: jax.Array  # bool [M, E]: the next step is the first of an empty context
    memory: Any  # [M, E, ...], scalars shared
    step: jax.Array  # int32 []: the age, which env keys are folded with
    summary: Summary  # of [M, E] streams since the start


@struct.dataclass(kw_only=True)
class Record:
    """A block's steps, [M, E, block_steps], for who wants to see them; what is measured is in the summary."""

    action: jax.Array  # uint8
    reward: jax.Array  # the spec's reward type
    done: jax.Array  # bool
    obs: jax.Array | None = None  # [M, E, block_steps, ...], if asked for
    log_probs: jax.Array | None = (
        None  # float32 [M, E, block_steps, A], likewise: what actions were drawn from
    )


def _specs(tree: Any) -> Any:
    """[M, E, ...] leaves are split over E; scalars are whole."""
    return jax.tree.map(
        lambda leaf: PartitionSpec(None, sharding.ENSEMBLE) if leaf.ndim > 1 else PartitionSpec(), tree
    )


def start(
    members: Members,
    env_state: Any,
    obs: jax.Array,
    prompt: Prompt | None,
    *,
    imitator: Imitator,
    spec: Spec,
    start_step: int,
    num_blocks: int,
) -> Rollout:
    """A rollout about to begin in environments [E, ...] freshly reset, the same for all members.

    Where a context is empty, without a prompt or because it holds no step, the first token says so. The summary counts
    `num_blocks` blocks.
    """
    num_members, num_envs = members.is_argmax.shape[0], obs.shape[0]
    memory = prompts.empty_memory(imitator, num_members, num_envs)
    is_empty = jnp.ones(num_envs, bool)
    last_action, last_reward = jnp.zeros(num_envs, jnp.int32), jnp.zeros(num_envs, jnp.float32)
    if prompt is not None:
        memory = prompts.read(members.params, memory, prompt, imitator=imitator)
        is_empty = prompt.is_empty
        last_action = jnp.where(is_empty, last_action, prompt.last_action)
        last_reward = jnp.where(is_empty, last_reward, prompt.last_reward)
    same = _spread((env_state, obs, last_action, last_reward, ~is_empty, is_empty), num_members=num_members)
    env_state, obs, last_action, last_reward, is_done, is_begin = same
    return Rollout(
        env_state=env_state,
        obs=obs,
        prev_action=last_action,
        prev_reward=last_reward,
        prev_done=is_done,
        is_begin=is_begin,
        memory=memory,
        step=jnp.int32(start_step),
        summary=summary_lib.init(
            (num_members, num_envs), num_blocks=num_blocks, num_places=summary_lib.num_places(spec)
        ),
    )


@functools.partial(jax.jit, static_argnames=("num_members",))
def _spread(tree: Any, *, num_members: int) -> Any:
    """Leaves [...] -> [M, ...]: the same for all members."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (num_members, *leaf.shape)), tree)


Judge = Callable[[Any, jax.Array], jax.Array]
"""(a learner, obs) -> its action probabilities [A], which the members' are measured against."""


def _cross_entropy(judge: Judge | None, learners: Any, obs: jax.Array, logits: jax.Array) -> jax.Array:
    """Nats [M, E] of the learners' actions under the members' predictions; 0 without a judge."""
    if judge is None:
        return jnp.zeros(logits.shape[:-1], jnp.float32)
    policy = jax.vmap(jax.vmap(judge), (None, 0))(learners, obs)
    return -jnp.sum(policy * jax.nn.log_softmax(logits), axis=-1)


def _coins(act_keys: jax.Array, step: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Whether each member explores at this step, bool [M, E]: its own coin, as often as the learner's."""

    def one(key, epsilon):
        coin_key = keys.at_step(keys.stream(key, keys.Stream.ACT), step)
        return jax.random.uniform(coin_key) < epsilon

    return jax.vmap(jax.vmap(one), (0, None))(act_keys, epsilon)


def _shown_causes(causes: Causes | None, step: jax.Array, is_begin: jax.Array, imitator: Imitator) -> dict:
    """What the tokens of this step [M, E] show beyond the coin: what each environment's own learner drew after the step
    before, had it gone on (nothing where a context begins), and how it was initialised."""
    if not imitator.sees_replay:
        return {}
    if causes is None:
        raise ValueError("the imitator sees replay indices, and the loop was given no learners' causes")
    num_members, num_envs = is_begin.shape
    replay, seed = jax.vmap(lambda learner: causes_lib.shown(causes, learner, step[None]))(
        jnp.arange(num_envs)
    )
    spread = jnp.broadcast_to(replay[None, :, 0], (num_members, num_envs, replay.shape[-1]))
    told = {"replay": jnp.where(is_begin[..., None], 0.0, spread)}
    if imitator.sees_seed:
        assert seed is not None
        told["seed"] = jnp.broadcast_to(seed[None, :, 0], (num_members, num_envs, seed.shape[-1]))
    return told


def _look(
    rollout: Rollout,
    members: Members,
    act_keys: jax.Array,
    age: jax.Array,
    epsilon: Any,
    causes: Causes | None,
    imitator: Imitator,
) -> tuple[Any, StepTokens]:
    """What the members remember, less what they forget at an episode's end, and the step that they see [M, E]."""
    wipes = jnp.broadcast_to(members.wipes[:, None], rollout.prev_done.shape)
    masks = jnp.broadcast_to(members.masks[:, None], rollout.prev_done.shape)
    axes = prompts.memory_axes(rollout.memory)
    memory = jax.vmap(imitator.forget, (axes, 0), axes)(rollout.memory, (wipes | masks) & rollout.prev_done)
    is_begin = rollout.is_begin | (wipes & rollout.prev_done)
    tokens = StepTokens(
        obs=rollout.obs,
        prev_action=jnp.where(is_begin, imitator.num_actions, rollout.prev_action),
        prev_reward=jnp.where(is_begin, 0.0, rollout.prev_reward),
        prev_done=~is_begin & rollout.prev_done,
        is_begin=is_begin,
        age=jnp.broadcast_to(age, is_begin.shape),
        coin=_coins(act_keys, rollout.step, epsilon) if imitator.sees_coin else None,
        **_shown_causes(causes, rollout.step, is_begin, imitator),
    )
    return memory, tokens


def _step(
    rollout,
    epsilon,
    members,
    act_keys,
    env_keys,
    env_params,
    age,
    learners,
    causes,
    *,
    imitator,
    env,
    judge,
    block_steps,
    whole_record,
):
    memory, tokens = _look(rollout, members, act_keys, age, epsilon, causes, imitator)
    axes = prompts.memory_axes(memory)
    logits, memory = jax.vmap(imitator.act, (0, axes, 0), (0, axes))(members.params, memory, tokens)

    def choose(key, logits, is_argmax):
        sampled = jax.random.categorical(keys.at_step(key, rollout.step), logits)
        return jnp.where(is_argmax, jnp.argmax(logits), sampled).astype(jnp.int32)

    action = jax.vmap(jax.vmap(choose, (0, 0, None)))(act_keys, logits, members.is_argmax)

    def move(env_key, params, state, action):
        return env.step(keys.at_step(env_key, rollout.step), params, state, action)

    across_envs = jax.vmap(move, (0, 0, 0, 0))
    env_state, timestep = jax.vmap(across_envs, (None, None, 0, 0))(
        env_keys, env_params, rollout.env_state, action
    )
    done = timestep.terminated | timestep.truncated
    summary = summary_lib.add(
        rollout.summary,
        reward=timestep.reward,
        done=done,
        cross_entropy=_cross_entropy(judge, learners, rollout.obs, logits),
        place=summary_lib.place(env.spec, rollout.obs, action),
        block_steps=block_steps,
    )
    record = Record(
        action=action.astype(jnp.uint8),
        reward=timestep.reward.astype(env.spec.reward_dtype),
        done=done,
        obs=rollout.obs if whole_record else None,
        log_probs=jax.nn.log_softmax(logits) if whole_record else None,
    )
    rollout = Rollout(
        env_state=env_state,
        obs=timestep.obs,
        prev_action=action,
        prev_reward=timestep.reward,
        prev_done=done,
        is_begin=jnp.zeros_like(tokens.is_begin),
        memory=memory,
        step=rollout.step + 1,
        summary=summary,
    )
    return rollout, record


@functools.partial(
    jax.jit,
    static_argnames=("imitator", "env", "judge", "block_steps", "mesh", "whole_record"),
    donate_argnames=("rollout",),
)
def run_block(
    rollout: Rollout,
    members: Members,
    act_keys: jax.Array,
    env_keys: jax.Array,
    env_params: Any,
    age: jax.Array,
    learners: Any = (),
    epsilon: Any = (),
    causes: Causes | None = None,
    *,
    imitator: Imitator,
    env: Env,
    judge: Judge | None = None,
    block_steps: int,
    mesh: Mesh,
    whole_record: bool = False,
) -> tuple[Rollout, Record]:
    """`imitator.block_steps` steps; the rollout is donated.

    Args:
      act_keys: keys [M, E] for sampling. env_keys: keys [E], shared by the members and the learner's arms.
      env_params: the tasks, [E, ...]. age: int32 [], the age token told (0 = unknown).
      learners: what `judge` reads, [E, ...]: each environment's own learner, held.
      epsilon: float32 [E, imitator.block_steps] for imitators that see the coin, which comes up so often at each step;
        else ().
      causes: of E learners, for imitators that see replay indices: those whose draws are shown.
      block_steps: the steps of a block of the summary (not of the imitator).
      whole_record: the record holds observations and probabilities too.
    """

    def block(rollout, members, act_keys, env_keys, env_params, age, learners, epsilon, causes):
        axes = prompts.memory_axes(rollout.memory)
        memory = jax.vmap(imitator.begin_block, (0, axes), axes)(members.params, rollout.memory)
        body = functools.partial(
            _step,
            members=members,
            act_keys=act_keys,
            env_keys=env_keys,
            env_params=env_params,
            age=age,
            learners=learners,
            causes=causes,
            imitator=imitator,
            env=env,
            judge=judge,
            block_steps=block_steps,
            whole_record=whole_record,
        )
        by_step = jax.tree.map(jnp.transpose, epsilon)
        rollout, record = jax.lax.scan(body, rollout.replace(memory=memory), by_step, imitator.block_steps)
        return rollout, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2), record)

    split_envs = PartitionSpec(None, sharding.ENSEMBLE)
    rollout_specs = _specs(rollout)
    sharded = sharding.over_ensemble(
        block,
        mesh,
        in_specs=(
            rollout_specs,
            sharding.WHOLE,
            split_envs,
            sharding.SPLIT,
            sharding.SPLIT,
            sharding.WHOLE,
            sharding.SPLIT,
            sharding.SPLIT,
            sharding.SPLIT,
        ),
        out_specs=(rollout_specs, split_envs),
    )
    return sharded(rollout, members, act_keys, env_keys, env_params, age, learners, epsilon, causes)


def place(rollout: Rollout, mesh: Mesh) -> Rollout:
    """The rollout where `run_block` leaves it, so that the first block compiles the only program."""
    return sharding.place(rollout, mesh, _specs(rollout))
