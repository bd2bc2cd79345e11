"""Frozen imitators acting: the tokens of the loop are training's tokens, and nothing changes the weights."""

import functools
import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cl_imitate import config, keys, sharding
from cl_imitate.evaluation import closed_loop, summary
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import History
from tests.compiles import count_compiles
from tests.ensembles import ENVIRONMENT, group

pytestmark = pytest.mark.unoptimised

NUM_ENVS, CONTEXT = 4, 16
SUMMED_STEPS = 8  # a block of the summary


@functools.cache
def transformer() -> Imitator:
    spec = group(NUM_ENVS).family.env.spec
    return make_imitator(config.Imitator(width=16, num_layers=2, num_heads=2), spec, context_steps=CONTEXT)


def members(params: Any, num: int, **flags) -> closed_loop.Members:
    off = jnp.zeros(num, bool)
    return closed_loop.Members(params=params, **{"is_argmax": off, "wipes": off, "masks": off, **flags})


def roll(
    imitator: Imitator,
    group_of_members,
    *,
    num_blocks=3,
    prompt=None,
    start_step=0,
    environment=ENVIRONMENT,
    num_summed=2,
    judge=None,
    causes=None,
):
    """The records [M, E, T] of a rollout from an empty context (or a prompt), and the last carry."""
    one = group(NUM_ENVS, environment=environment)
    env, mesh = one.family.env, sharding.ensemble_mesh(NUM_ENVS)
    num_members = group_of_members.is_argmax.shape[0]
    reset_keys = keys.members(jax.random.key(1), NUM_ENVS)
    newborn = one.newborn().env_state
    env_state, obs = jax.vmap(env.reset)(reset_keys, one.env_params, newborn)
    rollout = closed_loop.start(
        group_of_members,
        env_state,
        obs,
        prompt,
        imitator=imitator,
        spec=env.spec,
        start_step=start_step,
        num_blocks=num_summed,
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
            () if judge is None else sharding.place(jnp.arange(NUM_ENVS), mesh, sharding.SPLIT),
            causes=None if causes is None else sharding.place(causes, mesh, sharding.SPLIT),
            imitator=imitator,
            env=env,
            judge=judge,
            block_steps=SUMMED_STEPS,
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


def test_the_summary_is_that_of_the_steps_that_were_taken():
    imitator, num_summed = logging_imitator(), 2
    record, last = roll(imitator, members(jnp.zeros(2), 2), num_summed=num_summed)
    counted = num_summed * SUMMED_STEPS  # of 24 steps
    expected = BlockReturns((2, NUM_ENVS), counted, SUMMED_STEPS)
    expected.add(record.reward, record.done)
    np.testing.assert_array_equal(summary.block_means(last.summary), expected.mean)
    obs = np.asarray(last.memory.tokens.obs)[:, :, :counted]
    spec = group(NUM_ENVS).family.env.spec
    for m, e in np.ndindex(2, NUM_ENVS):
        places = obs[m, e].astype(int) * spec.num_actions + record.action[m, e, :counted]
        visits = np.bincount(places, minlength=summary.num_places(spec))
        np.testing.assert_array_equal(last.summary.visits[m, e], visits)
    assert (np.asarray(last.summary.cross_entropy) == 0).all()  # nobody judged


def test_a_judge_is_each_environments_own_learner_at_the_same_observation():
    """Learner e takes action e (mod 3) at even symbols and action 0 at odd ones; the imitator prefers action 1."""
    imitator = logging_imitator()
    liking = jnp.array([0.0, 1.0] + [0.0] * (imitator.num_actions - 2))

    def act(params, memory, tokens):
        logits, memory = imitator.act(params, memory, tokens)
        return logits + liking[None], memory

    def judge(learner, obs):
        return jax.nn.one_hot(jnp.where(obs % 2 == 0, learner % 3, 0), imitator.num_actions)

    _, last = roll(imitator._replace(act=act), members(jnp.zeros(2), 2), num_summed=3, judge=judge)
    obs = np.asarray(last.memory.tokens.obs).astype(int)  # [M, E, 24]
    chosen = np.where(obs % 2 == 0, np.arange(NUM_ENVS)[None, :, None] % 3, 0)
    nats = -np.asarray(jax.nn.log_softmax(liking))[chosen]
    expected = nats.reshape(2, NUM_ENVS, 3, SUMMED_STEPS).mean(axis=-1)
    found = summary.block_cross_entropy(last.summary, SUMMED_STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (obs % 2 == 0).any()
    assert (obs % 2 == 1).any()


def test_a_rollout_that_lasts_longer_holds_no_more_memory():
    imitator = transformer()
    params = jax.vmap(imitator.init)(keys.members(jax.random.key(0), 1))

    def held(num_blocks):
        gc.collect()
        before = sum(array.nbytes for array in jax.live_arrays())
        _, last = roll(imitator, members(params, 1), num_blocks=num_blocks)
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays()) - before, last

    held(1)  # constants that programs keep
    short, kept = held(2)
    long, _ = held(40)
    assert kept.summary.step == 2 * imitator.block_steps
    assert long == short
