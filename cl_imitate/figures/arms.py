"""Arms' curves with their bands, and the lines that bound them. Bands are 95% intervals over learners and seeds."""

import dataclasses

import numpy as np
from matplotlib.axes import Axes

from cl_imitate import statistics
from cl_imitate.config import Rules
from cl_imitate.evaluation import metrics
from cl_imitate.evaluation.results import ARMS, Cell
from cl_imitate.figures.canvas import STYLES

SAMPLES = 200
_MOST_POINTS = 120  # longer curves are drawn in averages of neighbouring blocks


def draw_arm(axis: Axes, cell: Cell, arm: str, rules: Rules, **changes) -> float:
    """Draw an arm with its band; the height at which it ends, NaN where no block can be shown."""
    color, line = STYLES[arm]
    color, line = changes.get("color", color), changes.get("linestyle", line)
    thin = thinned(cell, arm)
    low, middle, high = metrics.band(thin, arm, bootstrap_rng(), samples=SAMPLES, confidence=rules.confidence)
    ages = cell.start_step + (np.arange(len(middle)) + 0.5) * thin.block_steps
    shown = np.isfinite(middle)
    if not shown.any():
        return np.nan
    low, high = _within_reach(cell, low, middle, high)
    axis.fill_between(ages[shown], low[shown], high[shown], color=color, alpha=0.16, linewidth=0)
    label = changes.get("label", ARMS.get(arm, arm))
    if arm == "learner_held" and not shown[-1]:
        # Held for NOW alone; as nothing in it changes, it would go on as it was.
        level = float(np.nanmean(middle))
        axis.plot(ages[[0, -1]], [level, level], ":", color=color, linewidth=1.2)
    axis.plot(
        ages[shown],
        middle[shown],
        linestyle=line,
        color=color,
        linewidth=1.8,
        label=label,
        marker="o" if shown.sum() < 3 else None,
        markersize=4,
    )
    return float(middle[shown][-1])


def _within_reach(
    cell: Cell, low: np.ndarray, middle: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A band's ends, cut at the lowest return that was seen and at the optimum (unknown: at the highest seen): what
    few seeds leave open beyond cannot be. Never inside the curve itself."""
    seen = np.concatenate([cell.random_return, *(values.ravel() for values in cell.returns.values())])
    seen, best = seen[np.isfinite(seen)], cell.optimal_return[np.isfinite(cell.optimal_return)]
    top = float(statistics.iqm(best[None])) if best.size else seen.max()
    return np.maximum(low, np.minimum(seen.min(), middle)), np.minimum(high, np.maximum(top, middle))


def thinned(cell: Cell, arm: str) -> Cell:
    """The cell with this arm alone, neighbouring blocks averaged until there are few enough to draw."""
    returns = cell.returns[arm]
    together = -(-returns.shape[-1] // _MOST_POINTS)
    blocks = returns.shape[-1] // together
    parts = returns[..., : blocks * together].reshape(*returns.shape[:-1], blocks, together)
    finite = np.isfinite(parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(finite, parts, 0.0).sum(-1) / finite.sum(-1)
    return dataclasses.replace(cell, returns={arm: means}, block_steps=cell.block_steps * together)


def draw_before(axis: Axes, cell: Cell, until: int, rules: Rules) -> None:
    """The learner before a fork, of the cell that tells its life from birth."""
    blocks = until // cell.block_steps
    if blocks and not metrics.missing_arms(cell, "learner"):
        past = dataclasses.replace(cell, returns={"learner": cell.returns["learner"][..., :blocks]})
        if not metrics.missing_arms(past, "learner"):
            draw_arm(axis, past, "learner", rules, color="#9FC5DE", label="learner before the fork")


def draw_bounds(axis: Axes, cell: Cell, *, name: bool = True, random: bool = False) -> None:
    """Horizontal lines: random, the ceiling at the arm's epsilon, the optimum."""
    ceiling = f"ceiling: perfect knowledge at epsilon {cell.epsilon:.3g}"
    if not cell.ceiling_is_exact:
        ceiling = "a published DQN after 4.9M frames"
    lines = (
        ("random policy", cell.random_return, ":", STYLES["random"][0]),
        (ceiling, cell.ceiling_return, "--", "#333333"),
        ("optimum", cell.optimal_return, ":", "#333333"),
    )
    for label, values, line, color in lines:
        if np.isfinite(values).any() and (random or label != "random policy" or "random" not in cell.returns):
            height = float(statistics.iqm(values[np.isfinite(values)][None]))
            axis.axhline(height, color=color, linestyle=line, linewidth=1, label=label if name else None)


def band_words(rules: Rules, over: str = "learners (and imitator seeds)") -> str:
    """What lines and bands are, for a caption."""
    return (
        f"Lines are interquartile means over {over}; bands their {100 * rules.confidence:.4g}% intervals, pointwise, "
        "cut at the optimum and at the panel's edge."
    )


def bootstrap_rng() -> np.random.Generator:
    """Anew for every band, so that a figure does not depend on what was drawn before it."""
    return np.random.default_rng(0)
