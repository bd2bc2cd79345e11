"""Names of lines right of a panel, each joined to its line's end, none over another nor outside the panel's height."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize
from matplotlib.axes import Axes

_SIZE = 9  # points
_LINE = 1.15  # a line of text takes so much of its size


def name_ends(axis: Axes, names: Sequence[tuple[float, str, str]]) -> None:
    """Write `names` (a line's height in data, its name, its colour) right of `axis`, whose limits stand.

    Where lines end close together their names are moved apart, and a thin line leads from each line's height to its
    name.
    """
    figure = axis.get_figure()
    assert figure is not None
    low, high = axis.get_ylim()
    names = sorted(names)
    at = [(height - low) / (high - low) for height, _, _ in names]
    points = (
        axis.get_position().height * figure.get_size_inches()[1] * 72
    )  # the panel's height, before it is fitted
    for height, place, (_, words, color) in zip(at, spread(at, _LINE * _SIZE / points), names, strict=True):
        axis.annotate(
            words,
            (1.0, height),
            (1.045, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=_SIZE,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(at: Sequence[float], size: float) -> np.ndarray:
    """Places from 0 to 1 nearest to those asked for, ascending, of which no two are closer than `size`.

    Where there is no room for all at that distance, they are as far apart as the room allows.
    """
    count = len(at)
    if not count:
        return np.zeros(0)
    gap = min(size, 1.0 / max(count - 1, 1))
    steps = gap * np.arange(count)
    fitted = scipy.optimize.isotonic_regression(
        np.asarray(at) - steps
    ).x  # less their steps they must not fall
    return np.clip(fitted, 0.0, 1.0 - steps[-1]) + steps
