"""What every figure is drawn on: its size and look, one colour an arm, legends and labels of steps.

One colour an arm in every figure (Okabe and Ito's palette, safe for colour-blind readers); where two arms share a
colour, their lines differ.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

_SIZES = ((1e6, "M"), (1e3, "k"))
_DPI = 170  # twice what a page shows, for sharp screens
_LOOK = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#ECECEC",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "cl_imitate",
}
STYLES: dict[str, tuple[str, Any]] = {
    "learner": ("#0072B2", "-"),
    "learner_held": ("#56B4E9", "-"),
    "learner_transplanted": ("#009E73", "-"),
    "imitator": ("#D55E00", "-"),
    "imitator_argmax": ("#E69F00", "--"),
    "imitator_wiped": ("#CC79A7", "-"),
    "imitator_masked": ("#CC79A7", ":"),
    "imitator_prompted": ("#B8860B", "-."),
    "window": ("#8A6D00", (0, (1, 1))),
    "random": ("#777777", ":"),
}
GREY = "#6B6B6B"
INKS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#5B5B5B")
"""For what is no arm."""
LEARNER, IMITATOR = STYLES["learner"][0], STYLES["imitator"][0]
ANSWER_INK = {"yes": "#00664A", "no": "#A33C00"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure and what a reader who cannot see it is told."""

    name: str  # the PNG's file name
    title: str
    caption: str
    alt: str
    png: bytes
    width: int  # pixels as shown: half of those drawn
    narrow: bytes | None = None  # another PNG, for a narrow screen


def draw_figure(
    name: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[Canvas], None],
    *,
    size: tuple[float, float],
    draw_narrow: Callable[[Canvas], None] | None = None,
    narrow_size: tuple[float, float] = (5.0, 9.0),
) -> Figure:
    """What `draw` puts on a canvas of `size` (inches), in the look that all figures share.

    `draw_narrow` draws the same for a narrow screen, on a canvas of `narrow_size`.
    """
    width = round(size[0] * 85)
    png = _png(draw, size)
    narrow = _png(draw_narrow, narrow_size) if draw_narrow else None
    return Figure(name=name, title=title, caption=caption, alt=alt, png=png, width=width, narrow=narrow)


def _png(draw: Callable[[Canvas], None], size: tuple[float, float]) -> bytes:
    look: Any = {**matplotlib.rcParamsDefault, **_LOOK, "backend": "agg"}
    with matplotlib.rc_context(look):
        canvas = Canvas(figsize=size)
        FigureCanvasAgg(canvas)
        draw(canvas)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def steps(number: float | None) -> str:
    """1000000 -> 1M, 3200 -> 3.2k."""
    if number is None:
        return "–"
    for size, letter in _SIZES:
        if abs(number) >= size:
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def label_steps(axis: Axes, words: str) -> None:
    """Steps along the x axis, in short."""
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: _tick(number, axis.get_xlim()[1])))
    axis.set_xlabel(words)


def _tick(number: float, largest: float) -> str:
    """A tick's steps, in the unit of the axis's largest: 0.9k beside 1.2k."""
    size, letter = next(((size, letter) for size, letter in _SIZES if largest >= size), (1.0, ""))
    return f"{number / size:.4g}{letter if number else ''}"


def fill_panels(axes: Sequence[Axes] | np.ndarray) -> None:
    """Make the lines fill the panels; a band of very few seeds may be wider, and is cut at the edge."""
    drawn = [np.asarray(line.get_ydata(), float) for axis in axes for line in axis.lines]
    heights = np.concatenate([[], *drawn])
    heights = heights[np.isfinite(heights)]
    if not heights.size:
        return
    margin = 0.12 * (np.ptp(heights) or 1.0)
    for axis in axes:
        axis.set_ylim(heights.min() - margin, heights.max() + margin)


def draw_legend(canvas: Canvas, axes: Sequence[Axes] | np.ndarray, columns: int = 4) -> None:
    """One legend below all panels; what has the same name in several stands in it once."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    for number in range(columns, 0, -1):  # as many columns as fit, so that no name is cut off
        legend = canvas.legend(
            handles.values(), handles.keys(), loc="outside lower left", ncols=number, fontsize=9
        )
        if number == 1 or legend.get_window_extent().width <= canvas.bbox.width:
            return
        legend.remove()


def say(axis: Axes, words: str) -> None:
    """Words in place of a panel."""
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", color=GREY)
    axis.set_xticks([])


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from `low` to `high`; closer ones where fewer than three of these lie there."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def ticks(*digits: float) -> list[float]:
        return [tick for power in powers for one in digits if low <= (tick := one * 10.0**power) <= high]

    coarse = ticks(1, 2, 5)
    return coarse if len(coarse) > 2 else ticks(1, 1.5, 2, 3, 4, 5, 7)
