"""What is kept of a stream is what one would count by looking at all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate.envs.screens import SCREEN
from cl_imitate.evaluation import summary
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.types import ScreenObservation, Spec, SymbolObservation

LEAD, NUM_STEPS, BLOCK = (2, 3), 50, 8


def spec(observation=None, num_actions=5) -> Spec:
    return Spec(
        observation=observation or SymbolObservation(7),
        num_actions=num_actions,
        reward_dtype="int8",
        can_truncate=False,
        episode_steps=None,
    )


@pytest.fixture(scope="module")
def stream():
    rng = np.random.default_rng(0)
    shape = (NUM_STEPS, *LEAD)
    return {
        "reward": rng.integers(-1, 3, shape).astype(np.int8),
        "done": rng.random(shape) < 0.2,
        "cross_entropy": rng.random(shape).astype(np.float32),
        "place": rng.integers(0, 35, shape).astype(np.int32),
    }


def added(stream, num_blocks):
    def body(kept, step):
        return summary.add(kept, **step, block_steps=BLOCK), None

    start = summary.init(LEAD, num_blocks=num_blocks, num_places=35)
    return jax.jit(lambda xs: jax.lax.scan(body, start, xs)[0])(jax.tree.map(jnp.asarray, stream))


@pytest.mark.parametrize("num_blocks", [1, 4, 6])
def test_sums_are_those_of_all_steps_up_to_the_last_block(stream, num_blocks):
    kept = added(stream, num_blocks)
    last = num_blocks * BLOCK
    expected = BlockReturns(LEAD, last, BLOCK)
    expected.add(np.moveaxis(stream["reward"], 0, -1), np.moveaxis(stream["done"], 0, -1))
    np.testing.assert_array_equal(summary.block_means(kept), expected.mean)
    nats = stream["cross_entropy"][:last].reshape(num_blocks, BLOCK, *LEAD).mean(axis=1)
    np.testing.assert_allclose(summary.block_cross_entropy(kept, BLOCK), np.moveaxis(nats, 0, -1), rtol=1e-5)
    counted = np.zeros((*LEAD, 35), int)
    for i, j in np.ndindex(LEAD):
        counted[i, j] = np.bincount(stream["place"][:last, i, j], minlength=35)
    np.testing.assert_array_equal(kept.visits, counted)


def test_rollouts_of_like_lengths_share_a_compiled_program():
    def shapes(num_blocks):
        kept = summary.init(LEAD, num_blocks=num_blocks, num_places=35)
        return jax.tree.map(jnp.shape, kept)

    room = summary.MIN_ROOM
    assert shapes(1) == shapes(room)
    assert shapes(room + 1) == shapes(2 * room) != shapes(room)


def test_a_block_in_which_no_episode_ends_has_no_mean(stream):
    never = {**stream, "done": np.zeros_like(stream["done"])}
    assert np.isnan(summary.block_means(added(never, 2))).all()


def test_symbols_and_actions_are_told_apart_exactly():
    pairs = np.array([(symbol, action) for symbol in range(7) for action in range(5)], np.uint8)
    places = np.asarray(summary.place(spec(), jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1])))
    assert sorted(places) == list(range(35))
    assert summary.num_places(spec()) == 35


def test_screens_that_differ_in_a_bit_or_an_action_are_hashed_to_other_places():
    screens = spec(SCREEN, num_actions=6)
    assert summary.num_places(screens) == summary.MAX_PLACES
    one = np.zeros((1 + SCREEN.num_bits, SCREEN.num_bits), np.uint8)
    one[1:] = np.eye(SCREEN.num_bits, dtype=np.uint8)
    packed = jnp.packbits(jnp.asarray(one), axis=-1, bitorder="little")
    places = [
        np.asarray(summary.place(screens, packed, jnp.full(len(one), action, jnp.uint8)))
        for action in range(6)
    ]
    many = np.concatenate(places)
    assert (many >= 0).all()
    assert (many < summary.MAX_PLACES).all()
    # so many pairs thrown at random would leave this share of them in a place of their own, or nearly
    expected = summary.MAX_PLACES * (1 - (1 - 1 / summary.MAX_PLACES) ** len(many))
    assert len(np.unique(many)) > 0.95 * expected
    assert (places[0] != places[1]).mean() > 0.99


def test_too_many_symbols_are_hashed():
    assert summary.num_places(spec(SymbolObservation(256), num_actions=255)) == summary.MAX_PLACES
    assert summary.num_places(spec(ScreenObservation(2, 2, 1))) == summary.MAX_PLACES


def test_visits_of_histories_are_counts():
    rng = np.random.default_rng(1)
    obs, action = (rng.integers(0, n, (4, 60)).astype(np.uint8) for n in (7, 5))
    found = summary.visits_of(spec(), obs, action)
    for n in range(4):
        np.testing.assert_array_equal(found[n], np.bincount(obs[n].astype(int) * 5 + action[n], minlength=35))


def test_occupancy_distance_is_half_of_the_summed_differences_of_shares():
    visits, others = np.array([[8, 2, 0], [3, 3, 0], [0, 0, 0]]), np.array([[1, 1, 0], [0, 0, 9], [1, 0, 0]])
    np.testing.assert_allclose(summary.occupancy_distance(visits, others), [0.3, 1.0, 0.5])
