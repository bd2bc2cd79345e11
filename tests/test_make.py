"""What an imitator sees of hidden causes: by default nothing, whoever hands it what; else what its config says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config, keys, sharding
from cl_imitate.evaluation import closed_loop
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import NUM_REPLAY_FEATURES, NUM_SEED_FEATURES
from tests.ensembles import group

pytestmark = pytest.mark.unoptimised

NUM, LENGTH = 4, 8
SPEC = group(NUM).family.env.spec


def small(sees: Any, **changes: Any) -> Imitator:
    of = config.Imitator(sees=sees, width=16, num_layers=1, num_heads=2, **changes)
    return make_imitator(of, SPEC, context_steps=LENGTH)


def tokens(coin: Any):
    told = empty_tokens((NUM, LENGTH), SPEC)
    return told.replace(coin=None if coin is None else jnp.broadcast_to(jnp.asarray(coin), (NUM, LENGTH)))


WIDTHS = {"replay": NUM_REPLAY_FEATURES, "seed": NUM_SEED_FEATURES}


def all_tokens(**changes: Any):
    """Tokens that carry all there is, drawn at random; `changes` in their place."""
    rng = np.random.default_rng(0)
    told = tokens(rng.random((NUM, LENGTH)) < 0.5)
    parts = {part: rng.normal(size=(NUM, LENGTH, width)).astype(np.float32) for part, width in WIDTHS.items()}
    return told.replace(**{part: jnp.asarray(values) for part, values in {**parts, **changes}.items()})


KINDS = [{}, {"kind": "gru"}, {"attention_steps": 4}]


@pytest.mark.parametrize("changes", KINDS)
def test_an_imitator_of_the_stream_never_sees_the_coin_and_has_no_weights_for_it(changes):
    imitator = small("stream", **changes)
    params = imitator.init(jax.random.key(0))
    said = [np.asarray(imitator.logits(params, tokens(coin), None)) for coin in (None, False, True)]
    np.testing.assert_array_equal(said[0], said[1])
    np.testing.assert_array_equal(said[0], said[2])
    more = small("coin", **changes).init(jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(more)) == 16 + sum(
        leaf.size for leaf in jax.tree.leaves(params)
    )


def test_an_imitator_of_the_coin_sees_each_steps_own_coin_and_no_later_one():
    imitator = small("coin")
    params = imitator.init(jax.random.key(0))
    plain = imitator.logits(params, tokens(False), None)
    told = imitator.logits(params, tokens(jnp.arange(LENGTH) == 5), None)
    changed = np.abs(np.asarray(plain - told)).max(axis=(0, 2)) > 0
    assert not changed[:5].any()
    assert changed[5]


@pytest.mark.parametrize("changes", KINDS)
def test_acting_with_the_coin_is_a_full_forward_pass_with_it(changes):
    imitator = small("coin", **changes)
    params = imitator.init(jax.random.key(0))
    given = tokens(jax.random.bernoulli(jax.random.key(1), 0.5, (NUM, LENGTH)))
    memory, said = imitator.init_memory(NUM), []
    for step in range(imitator.block_steps):
        if step == 0:
            memory = imitator.begin_block(params, memory)
        logits, memory = imitator.act(params, memory, jax.tree.map(lambda leaf, at=step: leaf[:, at], given))
        said.append(logits)
    full = imitator.logits(params, given, None)[:, : imitator.block_steps]
    np.testing.assert_allclose(np.stack(said, axis=1), full, atol=2e-5)


@pytest.mark.parametrize("sees", ["replay", "seed"])
@pytest.mark.parametrize("changes", KINDS)
def test_acting_with_all_that_is_shown_is_a_full_forward_pass_with_it(sees, changes):
    imitator, given = small(sees, **changes), all_tokens()
    params = imitator.init(jax.random.key(0))
    half = LENGTH // 2
    before, after = (
        jax.tree.map(lambda leaf, s=s: leaf[:, s], given) for s in (slice(half), slice(half, None))
    )
    there = jnp.ones((NUM, half), bool)
    memory = imitator.prompt(params, imitator.init_memory(NUM), before, there)
    memory, said = imitator.begin_block(params, memory), []
    for step in range(imitator.block_steps):
        logits, memory = imitator.act(params, memory, jax.tree.map(lambda leaf, at=step: leaf[:, at], after))
        said.append(logits)
    full = imitator.logits(params, given, None)[:, half : half + imitator.block_steps]
    np.testing.assert_allclose(np.stack(said, axis=1), full, atol=2e-5)


@pytest.mark.parametrize("part", ["replay", "seed"])
def test_each_part_is_read_at_its_own_step_and_later_by_those_who_see_it_and_by_no_one_else(part):
    changed = np.zeros((NUM, LENGTH, WIDTHS[part]), np.float32)
    changed[:, 5] = 1.0
    for sees in ("stream", "coin", "replay", "seed"):
        imitator = small(sees)
        params = imitator.init(jax.random.key(0))
        plain, told = (
            np.asarray(imitator.logits(params, all_tokens(**{part: values}), None))
            for values in (jnp.zeros_like(changed), jnp.asarray(changed))
        )
        is_read = np.abs(plain - told).max(axis=(0, 2)) > 1e-6
        assert not is_read[:5].any()
        assert is_read[5] == ((part == "replay" and sees in ("replay", "seed")) or part == sees == "seed")


@pytest.mark.parametrize("part", ["replay", "seed"])
def test_without_what_it_sees_in_the_tokens_it_is_an_error_that_names_it(part):
    imitator = small("seed")
    params = imitator.init(jax.random.key(0))
    with pytest.raises(ValueError, match=f"carry no {part}"):
        imitator.logits(params, all_tokens().replace(**{part: None}), None)


def test_without_a_coin_in_the_tokens_it_is_an_error_that_says_so():
    imitator = small("coin")
    with pytest.raises(ValueError, match="carry no coin"):
        imitator.logits(imitator.init(jax.random.key(0)), tokens(None), None)


def test_a_window_tells_of_each_step_whether_the_learner_explored_there():
    one = group(NUM)
    _, history = one.live(one.newborn(), 16, chunk_steps=8)
    window = contexts.window(
        history, jnp.int32(1), jnp.int32(4), length=8, end=jnp.int32(16), num_actions=SPEC.num_actions
    )
    np.testing.assert_array_equal(window[0].coin, history.explored[1, 4:12])


def test_acting_by_itself_it_draws_its_own_coins_at_the_learners_rate():
    act_keys = jax.random.split(jax.random.key(0), (2, 500))
    epsilon = jnp.where(jnp.arange(500) < 250, 0.1, 0.6)
    coins = np.stack([closed_loop._coins(jax.random.clone(act_keys), step, epsilon) for step in range(8)])
    assert coins.shape == (8, 2, 500)
    assert coins[..., :250].mean() == pytest.approx(0.1, abs=0.02)
    assert coins[..., 250:].mean() == pytest.approx(0.6, abs=0.03)
    assert 0 < (coins[0] != coins[1]).mean() < 1


def test_in_closed_loop_an_imitator_that_follows_its_coin_explores_as_often_as_told():
    """A stub whose logits say action 1 where the coin is up and action 0 elsewhere."""
    one, blind = group(NUM), small("stream")
    env, mesh = one.family.env, sharding.ensemble_mesh(NUM)

    def act(params, memory, told):
        return 50.0 * jax.nn.one_hot(told.coin.astype(jnp.int32), SPEC.num_actions), memory

    stub = blind._replace(
        init_memory=lambda num: jnp.zeros(num),
        prompt=lambda params, memory, given, is_there: memory,
        begin_block=lambda params, memory: memory,
        forget=lambda memory, where: memory,
        act=act,
        sees_coin=True,
        block_steps=200,
    )
    off = jnp.zeros(1, bool)
    members = closed_loop.Members(params=jnp.zeros(1), is_argmax=off, wipes=off, masks=off)
    env_state, obs = jax.vmap(env.reset)(
        keys.members(jax.random.key(1), NUM), one.env_params, one.newborn().env_state
    )
    rollout = closed_loop.start(
        members, env_state, obs, None, imitator=stub, spec=env.spec, start_step=0, num_blocks=1
    )
    placed = sharding.place(
        (members, one.env_params, keys.members(jax.random.key(2), NUM), jnp.full((NUM, 200), 0.3)),
        mesh,
        (sharding.WHOLE, sharding.SPLIT, sharding.SPLIT, sharding.SPLIT),
    )
    _, record = closed_loop.run_block(
        closed_loop.place(rollout, mesh), placed[0], jax.random.split(jax.random.key(3), (1, NUM)), placed[2],
        placed[1], jnp.int32(0), (), placed[3], imitator=stub, env=env, block_steps=200, mesh=mesh,
    )  # fmt: skip
    assert set(np.unique(record.action)) == {0, 1}
    assert np.asarray(record.action).mean() == pytest.approx(0.3, abs=0.06)
