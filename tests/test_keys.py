import jax
import numpy as np

from cl_imitate import keys


def test_a_member_s_key_does_not_depend_on_how_many_there_are():
    few, many = (jax.random.key_data(keys.members(keys.root(3), num)) for num in (4, 400))
    np.testing.assert_array_equal(few, many[:4])
    later = jax.random.key_data(keys.members(keys.root(3), 2, first=2))
    np.testing.assert_array_equal(later, many[2:4])


def test_streams_members_and_seeds_are_all_different():
    data = [
        tuple(np.asarray(jax.random.key_data(keys.member(keys.stream(keys.root(seed), name), index))))
        for seed in (0, 1)
        for name in keys.Stream
        for index in (0, 1)
    ]
    assert len(set(data)) == len(data) == 4 * len(keys.Stream)


def test_the_largest_seeds_and_numbers_that_a_config_allows_have_keys_of_their_own():
    seeds = [0, 1, 2**31 - 1, 2**31, 2**32 - 1]
    assert len({tuple(np.asarray(jax.random.key_data(keys.root(seed)))) for seed in seeds}) == len(seeds)
    for first in (2**31 - 2, 2**32 - 3):
        numbered = jax.random.key_data(keys.members(keys.root(3), 3, first=first))
        alone = [jax.random.key_data(keys.member(keys.root(3), first + index)) for index in range(3)]
        np.testing.assert_array_equal(numbered, np.stack(alone))
    assert len({tuple(row) for row in np.asarray(numbered)}) == 3
