"""How far the training behind a point of a horizon went, by its own curve and beside a longer one."""

import dataclasses
from typing import NamedTuple


class Longer(NamedTuple):
    """Of the trainings of at least twice as many updates, all else being equal, the one that ends lowest."""

    num_updates: int
    fall: float  # nats of held-out loss by which it ends lower
    finds_more: bool  # that is more than next to nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """One set of imitators after its updates; losses are held-out cross-entropy, the mean over imitator seeds."""

    converged: bool | None = None  # by its own curve (see `convergence`)
    held_out_loss: float | None = None  # nats, after the last update
    above_floor: float | None = None  # nats of it above that of the learner's greedy action known
    memorises: bool | None = None  # it turned up while the loss on the recorded ones went on falling
    longer: Longer | None = None  # None: none was tried, or it cannot be compared

    @property
    def is_closed(self) -> bool:
        """Whether what these imitators do can be told of the setting, not of how long they were trained.

        A schedule that brings the learning rate to nothing flattens every curve, so the curve counts only where no
        longer training says otherwise.
        """
        return self.converged is True if self.longer is None else not self.longer.finds_more

    @property
    def told(self) -> str:
        """In words: `converged`, `open: 2,000 updates end 0.21 nats lower`."""
        if self.longer is None:
            found = {True: "converged", False: "open", None: "open (measured too seldom)"}[self.converged]
        elif self.longer.finds_more:
            found = f"open: {self.longer.num_updates:,} updates end {self.longer.fall:.2g} nats lower"
        else:
            found = f"converged: {self.longer.num_updates:,} updates find no more"
        return f"{found}; memorises" if self.memorises else found
