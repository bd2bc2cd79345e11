import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from envs_rollout import SHAPES

from cl_imitate.config import Bandit, DarkRoom, KeyToDoor, Lock, RandomMDP
from cl_imitate.envs import bandit, dark_room, key_to_door, lock, random_mdp, splits

pytestmark = pytest.mark.unoptimised


def digits_of(split, num=4000, length=3, base=6, modulus=3):
    def one(key):
        digit_key, sum_key = jax.random.split(key)
        digits = jax.random.randint(digit_key, (length,), 0, base)
        return splits.with_digit_sum(sum_key, digits, modulus, split)

    return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), num)))


def test_digit_sums_divide_all_tuples_into_train_and_held_out():
    found = {split: {tuple(row) for row in digits_of(split).tolist()} for split in ("train", "held_out")}
    everything = set(itertools.product(range(6), repeat=3))
    assert found["held_out"] == {digits for digits in everything if sum(digits) % 3 == 0}
    assert found["train"] == everything - found["held_out"]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_each_digit_on_its_own_is_uniform_in_both_splits(split):
    for column in digits_of(split).T:
        counts = np.bincount(column, minlength=6)
        assert ((counts - 4000 / 6) ** 2 / (4000 / 6)).sum() < 20.5  # chi-squared, 5 degrees, p = 0.001


def test_the_fixed_permutation_is_the_same_everywhere():
    assert splits.shuffled(10).tolist() == [8, 0, 3, 1, 2, 6, 4, 5, 7, 9]
    assert sorted(splits.shuffled(81)) == list(range(81))


def test_items_are_held_out_in_the_number_asked_for():
    train, held_out = (set(splits.items_of(81, 8, split).tolist()) for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (73, 8)
    assert not train & held_out


def sampled(family, environment, split, num=2000):
    task_keys = jax.random.split(jax.random.key(0), num)
    return jax.vmap(lambda key: family.sample_task(key, environment, SHAPES, split))(task_keys)


def test_lock_codes_are_split_by_their_sum():
    for split, allowed in (("train", {1, 2, 3, 4}), ("held_out", {0})):
        code = sampled(lock, Lock(), split).code
        assert set(np.unique(jnp.sum(code, axis=1) % 5)) == allowed
        assert set(np.unique(code)) == set(range(5))


def test_symbols_drawn_for_each_task_are_different_from_one_another():
    symbols = np.asarray(sampled(lock, Lock(symbols="per_task"), "train", 200).symbols)
    assert all(len(set(row)) == 8 for row in symbols)
    assert set(symbols.ravel()) == set(range(SHAPES.num_symbols))


@pytest.mark.parametrize("start", ["centre", "random_per_task"])
def test_dark_room_goals_are_split_and_every_cell_is_a_goal(start):
    environment = DarkRoom(size=9, start=start)
    train, held_out = (
        set(np.unique(sampled(dark_room, environment, split).goal)) for split in ("train", "held_out")
    )
    assert (len(train), len(held_out)) == (73, 8)
    assert train | held_out == set(range(81))


def test_key_and_door_pairs_are_split_and_never_the_same_cell():
    pairs = {}
    for split in ("train", "held_out"):
        task = sampled(key_to_door, KeyToDoor(size=3), split)
        pairs[split] = set(zip(task.key_cell.tolist(), task.door_cell.tolist(), strict=True))
    assert (len(pairs["train"]), len(pairs["held_out"])) == (63, 9)
    assert pairs["train"] | pairs["held_out"] == set(itertools.permutations(range(9), 2))


@pytest.mark.parametrize(
    ("family", "environment"),
    [(bandit, Bandit()), (bandit, Bandit(num_contexts=3)), (random_mdp, RandomMDP())],
)
def test_lattice_levels_are_split_by_their_sum(family, environment):
    for split, allowed in (("train", set(range(1, 8))), ("held_out", {0})):
        levels = np.asarray(sampled(family, environment, split).levels)
        assert set(levels.reshape(len(levels), -1).sum(axis=1) % 8) == allowed
        assert (levels.min(), levels.max()) == (0, 255)
