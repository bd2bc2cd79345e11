"""Movement in an N x N room, shared by the families that have one."""

import numpy as np

ACTIONS = ("noop", "up", "down", "left", "right")
_MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


def centre(size: int) -> int:
    """The cell index row * size + column of the middle."""
    return (size // 2) * size + size // 2


def next_cells(size: int, num_actions: int, *, torus: bool = False) -> np.ndarray:
    """int32 [size * size, num_actions]; walls stop, a torus wraps, actions past the fifth do nothing."""
    rows, columns = np.divmod(np.arange(size * size), size)
    cells = np.empty((size * size, num_actions), np.int32)
    for action in range(num_actions):
        down, right = _MOVES[action] if action < len(_MOVES) else (0, 0)
        row, column = rows + down, columns + right
        if torus:
            row, column = row % size, column % size
        else:
            row, column = row.clip(0, size - 1), column.clip(0, size - 1)
        cells[:, action] = row * size + column
    return cells


def mirrored_cells(size: int) -> tuple[int, ...]:
    """The cell seen in place of each when left and right are exchanged."""
    rows, columns = np.divmod(np.arange(size * size), size)
    return tuple(int(cell) for cell in rows * size + (size - 1 - columns))
