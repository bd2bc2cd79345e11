"""The losses of imitators in training: as they are measured, and as they are told."""

from typing import Any

import numpy as np

from cl_imitate import config, train
from cl_imitate.evaluation.imitator_arms import frozen_name


class Losses:
    """Of M imitators, as they are measured."""

    def __init__(self, updates: list[int], train_losses: np.ndarray, held_out: np.ndarray):
        """`train_losses`: [M, updates so far]. `held_out`: [M, len(updates)], measured after these updates."""
        self.updates, self._train, self._held_out = list(updates), [train_losses], [held_out]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        parts = {"train": self._train, "held_out": self._held_out}
        return {name: np.concatenate(some, axis=1) for name, some in parts.items()}

    def add(self, measured: train.Progress) -> None:
        self.updates.append(measured.update)
        self._train.append(measured.train_loss)
        self._held_out.append(measured.held_out_loss[:, None])

    def best(self, experiment: config.Experiment, context_steps: int) -> dict[str, Any]:
        """By name of a fork's imitators: the update at which each seed's held-out loss was lowest, and on whom."""
        held, num_seeds = self.arrays["held_out"], experiment.training.num_seeds
        updates = np.array(self.updates)[held.argmin(axis=1)]
        return {
            frozen_name(context_steps, fork): {
                "update": updates[index * num_seeds :][:num_seeds].tolist(),
                "held_out_loss": np.round(held.min(axis=1)[index * num_seeds :][:num_seeds], 5).tolist(),
                "on": "validation learners"
                if experiment.training.num_validation
                else "the evaluation's learners",
            }
            for index, fork in enumerate(sorted(experiment.evaluation.fork_steps))
        }

    def curves(self, experiment: config.Experiment, context_steps: int, floor: float | None) -> list[dict]:
        """One for each fork: what losses.json holds."""
        arrays, num_seeds = self.arrays, experiment.training.num_seeds
        losses, held = arrays["train"], arrays["held_out"]
        return [
            {
                "context_steps": context_steps,
                "fork_step": fork,
                "updates": list(range(1, losses.shape[1] + 1)),
                "train_loss": np.round(losses[index * num_seeds :][:num_seeds], 5).tolist(),
                "held_out_update": self.updates,
                "floor": floor,
                "held_out_loss": np.round(held[index * num_seeds :][:num_seeds], 5).tolist(),
            }
            for index, fork in enumerate(sorted(experiment.evaluation.fork_steps))
        ]
