"""Shuffled episodes and masked rewards, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import keys
from cl_imitate.evaluation.controls import altered
from cl_imitate.histories import contexts
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import History
from tests import studies

pytestmark = pytest.mark.unoptimised

ENDS = [[2, 5, 9], [0, 9, 10], [], [3]]  # the last steps of episodes, in histories of 12


def history() -> History:
    done = np.zeros((4, 12), bool)
    for i, ends in enumerate(ENDS):
        done[i, ends] = True
    step = np.tile(np.arange(12), (4, 1))
    return History(
        obs=step.astype(np.uint8),
        action=(step + 100).astype(np.uint8),
        reward=(step - 5).astype(np.int8),
        terminated=done & (step % 2 == 0),
        truncated=done & (step % 2 == 1),
        explored=step % 3 == 0,
    )


def episodes(obs: np.ndarray, ends: list[int]) -> list[list[int]]:
    return [part.tolist() for part in np.split(obs, np.array(ends, int) + 1)]


def test_reversed_episodes_are_whole_and_the_unfinished_one_stays_last():
    found = altered.shuffle_episodes(history(), "reversed", 0)
    assert found.obs[0].tolist() == [6, 7, 8, 9, 3, 4, 5, 0, 1, 2, 10, 11]
    assert found.obs[1].tolist() == [10, *range(1, 10), 0, 11]
    assert found.obs[2].tolist() == list(range(12))
    for name, of_step in (("action", lambda s: s + 100), ("reward", lambda s: s - 5.0)):
        np.testing.assert_array_equal(getattr(found, name), of_step(found.obs.astype(int)))
    np.testing.assert_array_equal(found.explored, found.obs % 3 == 0)
    assert np.flatnonzero((found.terminated | found.truncated)[0]).tolist() == [3, 6, 9]


def test_shuffled_histories_have_the_same_episodes_in_an_order_of_their_own():
    done = np.zeros((8, 64), bool)
    done[:, 3::4] = True
    whole = jax.tree.map(lambda x: np.zeros((8, 64), x.dtype), history())
    whole = whole.replace(obs=np.tile(np.arange(64, dtype=np.uint8), (8, 1)), truncated=done)
    found = altered.shuffle_episodes(whole, "random", 1).obs.reshape(8, 16, 4)
    assert (np.diff(found, axis=2) == 1).all()
    assert (found[..., 0] % 4 == 0).all()
    orders = found[..., 0] // 4
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(16), (8, 1)))
    assert len(np.unique(orders, axis=0)) == 8
    again = altered.shuffle_episodes(whole, "random", 1).obs
    np.testing.assert_array_equal(again.reshape(8, 16, 4), found)
    assert (altered.shuffle_episodes(whole, "random", 2).obs != again).any()


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_an_imitator_without_rewards_cannot_tell_them_in_training_prompt_or_acting(kind):
    one = studies.experiment(f"imitator.kind={kind}", "imitator.num_layers=1")
    spec = studies.study(one).spec
    read = make_imitator(one.imitator, spec, context_steps=32)
    blind = altered.without_rewards(read)
    params = read.init(keys.root(1))
    past = studies.study(one).history("held_out")

    def acted(imitator, reward):
        tokens, is_there = contexts.prompt_windows(
            jax.tree.map(jnp.asarray, past.replace(reward=reward)),
            jnp.full(4, 64),
            length=32,
            num_actions=spec.num_actions,
        )
        memory = imitator.prompt(params, imitator.init_memory(4), tokens, is_there)
        memory = imitator.begin_block(params, memory)
        first, memory = imitator.act(params, memory, jax.tree.map(lambda x: x[:, 5], tokens))
        second, _ = imitator.act(params, memory, jax.tree.map(lambda x: x[:, 6], tokens))
        return np.stack([imitator.logits(params, tokens, None)[:, -1], first, second])

    other = 1 - past.reward
    np.testing.assert_array_equal(acted(blind, past.reward), acted(blind, other))
    difference = np.abs(acted(read, past.reward) - acted(read, other)).max(axis=(1, 2))
    assert (difference > 1e-4).all()  # each of the three would be seen


def test_the_blind_imitator_is_one_and_the_same_so_that_it_compiles_once():
    imitator = studies.study(studies.experiment()).frozen.imitator
    assert altered.without_rewards(imitator) is altered.without_rewards(imitator)
