import numpy as np

from cl_imitate.envs import grid

# Actions in columns: noop, up, down, left, right. A 3 x 3 room has cells 0 1 2 / 3 4 5 / 6 7 8.
WALLS = {0: [0, 0, 3, 0, 1], 4: [4, 1, 7, 3, 5], 5: [5, 2, 8, 4, 5], 8: [8, 5, 8, 7, 8]}
TORUS = {0: [0, 6, 3, 2, 1], 4: [4, 1, 7, 3, 5], 5: [5, 2, 8, 4, 3], 8: [8, 5, 2, 7, 6]}


def test_walls_stop_and_a_torus_wraps():
    for torus, expected in ((False, WALLS), (True, TORUS)):
        cells = grid.next_cells(3, 5, torus=torus)
        assert {cell: cells[cell].tolist() for cell in expected} == expected


def test_actions_past_the_fifth_do_nothing():
    assert np.array_equal(grid.next_cells(4, 7)[:, 5:], np.arange(16)[:, None].repeat(2, axis=1))


def test_the_centre_and_the_mirror_image_of_a_room():
    assert [grid.centre(size) for size in (1, 3, 9)] == [0, 4, 40]
    assert grid.mirrored_cells(3) == (2, 1, 0, 5, 4, 3, 8, 7, 6)
