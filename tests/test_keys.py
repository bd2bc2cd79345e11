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
