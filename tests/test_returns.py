import numpy as np
import pytest

from cl_imitate.evaluation.returns import BlockReturns, best_level


def test_an_episode_counts_with_its_whole_return_in_the_block_in_which_it_ends():
    blocks = BlockReturns((2,), 6, 2)
    reward = np.array([[1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1]])
    done = np.array([[0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0]], bool)
    blocks.add(reward[:, :4], done[:, :4])  # in two goes: an episode may straddle them
    blocks.add(reward[:, 4:], done[:, 4:])
    np.testing.assert_array_equal(blocks.mean, [[np.nan, 6, 15], [1, np.nan, np.nan]])


def test_steps_past_the_horizon_are_dropped():
    blocks = BlockReturns((1,), 4, 2)
    blocks.add(np.ones((1, 64)), np.ones((1, 64), bool))
    assert blocks.mean.shape == (1, 2)
    blocks.add(np.ones((1, 64)), np.ones((1, 64), bool))
    np.testing.assert_array_equal(blocks.mean, [[1, 1]])


def test_the_best_level_is_the_best_learner_s_over_the_last_steps_alone():
    reward = np.array([[9, 9, 1, 1, 1, 1, 9], [0, 0, 2, 2, 0, 2, 9]])
    done = np.array([[0, 1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 1, 1]], bool)
    assert best_level(reward, done, end_step=6, num_steps=4) == 3.0  # learner 1: (4 + 2) / 2
    assert best_level(reward, done, end_step=6, num_steps=1) == 2.0  # whole returns of episodes cut into
    assert np.isnan(best_level(reward, done, end_step=3, num_steps=1))


@pytest.mark.parametrize("num_steps", [1, 100])
def test_the_window_may_reach_before_birth(num_steps):
    reward, done = np.ones((1, 4)), np.ones((1, 4), bool)
    assert best_level(reward, done, end_step=4, num_steps=num_steps) == 1.0
