"""Whether an imitator was trained until its loss on unseen learners stopped falling, from its curve of losses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cl_imitate.config import Rules


def training(rules: Rules, curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An entry for each set of imitators, in the order of `curves` (what losses.json holds).

    The loss is held-out cross-entropy, the mean over imitator seeds. Its fall over the last quarter of the updates is
    the mean of the quarter before less the mean of the last one. Training has *converged* where this is under
    `rules.converged_share` of what is left above the floor (unknown: of the whole fall since the first measurement), or
    negative. Where losses were measured fewer than eight times, that cannot be said (None). A schedule that brings the
    learning rate to nothing flattens every curve: converged means that this schedule has nothing left to give.

    `lowest_updates` says between which updates the seeds' held-out losses were lowest; `memorises`, whether the loss on
    unseen learners has turned up since, by more than that same share, while that on the recorded ones went on falling.
    """
    return [
        {
            "context_steps": one["context_steps"],
            "fork_step": one["fork_step"],
            **_of(rules, np.atleast_2d(one["held_out_loss"]).mean(axis=0), one.get("floor")),
            **_lowest(rules, one),
        }
        for one in curves
    ]


def _of(rules: Rules, losses: np.ndarray, floor: float | None) -> dict[str, Any]:
    quarter, last = len(losses) // 4, float(losses[-1])
    found: dict[str, Any] = {"held_out_loss": last, "above_floor": None if floor is None else last - floor}
    if quarter < 2:
        return {**found, "fall_last_quarter": None, "converged": None}
    fall = float(losses[-2 * quarter : -quarter].mean() - losses[-quarter:].mean())
    return {**found, "fall_last_quarter": fall, "converged": fall <= _next_to_nothing(rules, losses, floor)}


def _next_to_nothing(rules: Rules, losses: np.ndarray, floor: float | None) -> float:
    """Nats of held-out loss by which it may fall, or rise, without having moved."""
    scale = float(losses[0] - losses.min()) if floor is None else max(float(losses[-1]) - floor, 0.0)
    return rules.converged_share * scale


def _lowest(rules: Rules, one: Mapping[str, Any]) -> dict[str, Any]:
    """Where the held-out losses were lowest, and what became of both losses since; None where it is not recorded."""
    if not {"updates", "train_loss", "held_out_update"} <= set(one):
        return {"lowest_updates": None, "memorises": None}
    held_out, train = np.atleast_2d(one["held_out_loss"]), np.atleast_2d(one["train_loss"])
    at = np.asarray(one["held_out_update"])[held_out.argmin(axis=1)]
    losses = held_out.mean(axis=0)
    lowest = losses.argmin()

    since = train.mean(axis=0)[np.asarray(one["updates"]) >= one["held_out_update"][lowest]]
    half = len(since) // 2
    falls = half > 0 and bool(since[-half:].mean() < since[:half].mean())
    turned_up = losses[-1] - losses[lowest] > _next_to_nothing(rules, losses, one.get("floor"))
    return {"lowest_updates": [int(at.min()), int(at.max())], "memorises": bool(turned_up and falls)}
