"""Frozen imitators acting: the tokens of the loop are training's tokens, and nothing changes the weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate import config, keys, sharding
from cl_imitate.evaluation import closed_loop
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import History
from tests.compiles import count_compiles
from tests.ensembles import ENVIRONMENT, group

NUM_ENVS, CONTEXT = 4, 16


@functools.cache
def transformer() -> Imitator:
    spec = group(NUM_ENVS).family.env.spec
    return make_imitator(config.Imitator(width=16, num_layers=2, num_heads=2), spec, context_steps=CONTEXT)


def members(params: Any, num: int, **flags) -> closed_loop.Members:
    off = jnp.zeros(num, bool)
    return closed_loop.Members(params=params, **{"is_argmax": off, "wipes": off, "masks": off, **flags})


def roll(
    imitator: Imitator, group_of_members, *, num_blocks=3, prompt=None, start_step=0, environment=ENVIRONMENT
):
    """The records [M, E, T] of a rollout from an empty context (or a prompt), and the last carry."""
    one = group(NUM_ENVS, environment=environment)
    env, mesh = one.family.env, sharding.ensemble_mesh(NUM_ENVS)
    num_members = group_of_members.is_argmax.shape[0]
    reset_keys = keys.members(jax.random.key(1), NUM_ENVS)
    newborn = one.newborn().env_state
    env_state, obs = jax.vmap(env.reset)(reset_keys, one.env_params, newborn)
    rollout = closed_loop.start(
        group_of_members, env_state, obs, prompt, imitator=imitator, start_step=start_step
    )
    rollout = closed_loop.place(rollout, mesh)
    arguments = sharding.place(
        (group_of_members, one.env_params, keys.members(jax.random.key(2), NUM_ENVS)),
        mesh,
        (sharding.WHOLE, sharding.SPLIT, sharding.SPLIT),
    )
    placed, env_params, env_keys = arguments
    act_keys = jax.vmap(lambda key: keys.members(key, NUM_ENVS))(keys.members(jax.random.key(3), num_members))
    records = []
    for _ in range(num_blocks):
        rollout, record = closed_loop.run_block(
            rollout,
            placed,
            act_keys,
            env_keys,
            env_params,
            jnp.int32(0),
            imitator=imitator,
            env=env,
            mesh=mesh,
        )
        records.append(jax.tree.map(np.asarray, record))
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=-1), *records), rollout


@struct.dataclass(kw_only=True)
class Log:
    tokens: Any  # [E, 24, ...]
    slot: jax.Array


def logging_imitator(block_steps: int = 8) -> Imitator:
    """Acts at random, and remembers every token that it is told."""
    spec = group(NUM_ENVS).family.env.spec

    def act(params, memory, tokens):
        del params

        def put(log, new):
            return jax.lax.dynamic_update_slice_in_dim(log, new[:, None], memory.slot, axis=1)

        logits = jnp.zeros((tokens.prev_action.shape[0], spec.num_actions))
        return logits, Log(tokens=jax.tree.map(put, memory.tokens, tokens), slot=memory.slot + 1)

    def unused(*_):
        raise AssertionError("not called in closed loop")

    return Imitator(
        init=unused,
        logits=unused,
        init_memory=lambda num: Log(tokens=empty_tokens((num, 24), spec), slot=jnp.int32(0)),
        prompt=lambda params, memory, tokens, is_there: memory,
        begin_block=lambda params, memory: memory,
        act=act,
        forget=lambda memory, where: memory,
        block_steps=block_steps,
        num_actions=spec.num_actions,
    )


def test_the_tokens_of_the_loop_are_those_of_training_on_the_same_stream():
    record, rollout = roll(logging_imitator(), members(jnp.zeros((2, 1)), 2))
    for member in range(2):
        told = jax.tree.map(lambda x, m=member: np.asarray(x[m]), rollout.memory.tokens)
        nothing = np.zeros((NUM_ENVS, 24), bool)
        history = History(
            obs=jnp.asarray(told.obs),
            action=jnp.asarray(record.action[member]),
            reward=jnp.asarray(record.reward[member]),
            terminated=jnp.asarray(nothing),
            truncated=jnp.asarray(record.done[member]),
            explored=jnp.asarray(nothing),
        )
        for env in range(NUM_ENVS):
            expected, action, _ = contexts.window(
                history, jnp.int32(env), jnp.int32(0), length=24, end=jnp.int32(24), num_actions=3
            )
            np.testing.assert_array_equal(action, record.action[member, env])
            for name in ("obs", "prev_action", "prev_reward", "prev_done", "is_begin"):
                np.testing.assert_array_equal(getattr(told, name)[env], getattr(expected, name), err_msg=name)


def test_environments_take_their_randomness_from_the_env_keys_and_the_age_alone():
    environment = config.Bandit(episode_steps=8)  # its rewards are random
    one = group(NUM_ENVS, environment=environment)
    record, _ = roll(
        logging_imitator(), members(jnp.zeros((2, 1)), 2), start_step=40, environment=environment
    )
    env_keys, reset_keys = (keys.members(jax.random.key(seed), NUM_ENVS) for seed in (2, 1))
    state, _ = jax.vmap(one.family.env.reset)(reset_keys, one.env_params, one.newborn().env_state)
    step = jax.jit(jax.vmap(one.family.env.step))
    for t in range(24):
        step_keys = jax.vmap(keys.at_step, (0, None))(env_keys, 40 + t)
        state, timestep = step(
            step_keys, one.env_params, state, jnp.asarray(record.action[1, :, t], jnp.int32)
        )
        np.testing.assert_array_equal(record.reward[1, :, t], np.asarray(timestep.reward, np.int8))
        np.testing.assert_array_equal(record.done[1, :, t], timestep.truncated)


def test_no_program_of_a_rollout_returns_weights():
    imitator = transformer()
    params = jax.vmap(imitator.init)(keys.members(keys.root(0), 2))
    record, rollout = roll(imitator, members(params, 2))
    shapes = {leaf.shape for leaf in jax.tree.leaves((rollout, record))}
    assert params["blocks"][0]["up"]["kernel"].shape not in shapes


def test_argmax_is_deterministic_and_sampling_is_not():
    imitator = transformer()
    one = imitator.init(keys.root(0))
    params = jax.tree.map(lambda x: jnp.stack([x] * 4), one)
    flags = jnp.array([True, True, False, False])
    record, _ = roll(imitator, members(params, 4, is_argmax=flags))
    np.testing.assert_array_equal(record.action[0], record.action[1])
    assert (record.action[2] != record.action[3]).any()


def test_a_wiped_imitator_that_takes_the_likeliest_action_lives_the_same_episode_again_and_again():
    imitator = transformer()
    one = jax.tree.map(lambda x: 3.0 * x, imitator.init(keys.root(4)))
    params = jax.tree.map(lambda x: jnp.stack([x] * 2), one)
    always = jnp.ones(2, bool)
    record, _ = roll(
        imitator, members(params, 2, is_argmax=always, wipes=jnp.array([True, False])), num_blocks=4
    )
    episodes = record.action.reshape(2, NUM_ENVS, 4, 8)
    np.testing.assert_array_equal(episodes[0], np.repeat(episodes[0][:, :1], 4, axis=1))
    assert (episodes[1] != episodes[1][:, :1]).any()


def test_masking_hides_earlier_episodes_but_gives_no_begin_token():
    imitator = transformer()
    one = jax.tree.map(lambda x: 3.0 * x, imitator.init(keys.root(4)))
    params = jax.tree.map(lambda x: jnp.stack([x] * 2), one)
    always = jnp.ones(2, bool)
    _, rollout = roll(
        imitator, members(params, 2, is_argmax=always, masks=jnp.array([True, False])), num_blocks=4
    )
    assert int(np.asarray(rollout.memory.is_there[0]).sum()) == NUM_ENVS * 8
    assert int(np.asarray(rollout.memory.is_there[1]).sum()) == NUM_ENVS * 16


def test_blocks_of_one_shape_are_compiled_once():
    imitator = transformer()
    params = jax.vmap(imitator.init)(keys.members(keys.root(0), 3))
    roll(imitator, members(params, 3), num_blocks=1)
    with count_compiles() as compiles:
        roll(imitator, members(params, 3), num_blocks=4)
    assert compiles == []
