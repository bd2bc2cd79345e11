"""Episode returns averaged over blocks of steps, accumulated as steps come."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass
class BlockReturns:
    """Sums of the returns of episodes that ended in each block; any leading axes.

    An episode counts in the block in which it ends, with its whole return. `lead` is the shape of one step,
    e.g. (S, n).
    """

    lead: tuple[int, ...]
    num_steps: int
    block_steps: int

    def __post_init__(self) -> None:
        num_blocks = self.num_steps // self.block_steps
        self._running = np.zeros(self.lead, np.float64)
        self._sums = np.zeros((*self.lead, num_blocks), np.float64)
        self._counts = np.zeros((*self.lead, num_blocks), np.int64)
        self._step = 0

    def begin(self, index: int, return_so_far: float) -> None:
        """Stream `index` starts in the middle of an episode that has brought so much already."""
        self._running[index] = return_so_far

    def add(self, reward: np.ndarray, done: np.ndarray) -> None:
        """The next steps, [*lead, T]; those past `num_steps` are dropped."""
        room = self._sums.shape[-1] * self.block_steps - self._step
        reward, done = np.asarray(reward)[..., :room], np.asarray(done)[..., :room]
        for t in range(reward.shape[-1]):
            self._running += reward[..., t]
            ended = done[..., t]
            if ended.any():
                block = self._step // self.block_steps
                self._sums[..., block] += np.where(ended, self._running, 0.0)
                self._counts[..., block] += ended
                self._running[ended] = 0.0
            self._step += 1

    @property
    def state(self) -> dict[str, np.ndarray]:
        """All that a later process needs to go on."""
        return {
            "running": self._running,
            "sums": self._sums,
            "counts": self._counts,
            "step": np.array(self._step),
        }

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        self._running, self._sums, self._counts = state["running"], state["sums"], state["counts"]
        self._step = int(state["step"])

    @property
    def mean(self) -> np.ndarray:
        """float32 [*lead, K]: mean return of the episodes that ended in each block, NaN where none did."""
        with np.errstate(invalid="ignore"):
            mean = self._sums / np.where(self._counts, self._counts, np.nan)
        return mean.astype(np.float32)


def best_level(reward: ArrayLike, done: ArrayLike, *, end_step: int, num_steps: int) -> float:
    """The best learner's level, as `levels` has them. NaN where no episode ended."""
    found = levels(reward, done, end_step=end_step, num_steps=num_steps)
    return float(np.nanmax(found)) if np.isfinite(found).any() else float("nan")


def levels(reward: ArrayLike, done: ArrayLike, *, end_step: int, num_steps: int) -> np.ndarray:
    """Each learner's mean return over the episodes that ended in the `num_steps` before `end_step`, [N].

    `reward` and `done` are histories [N, T]. NaN where no episode ended.
    """
    first = max(end_step - num_steps, 0)
    ended_before = np.asarray(done)[:, :first]
    num_learners = ended_before.shape[0]
    blocks = BlockReturns((num_learners,), end_step - first, end_step - first)
    for i in range(num_learners):  # the return so far of the episode that is under way at the window's start
        ends = np.flatnonzero(ended_before[i])
        begin = ends[-1] + 1 if ends.size else 0
        blocks.begin(i, np.asarray(reward)[i, begin:first].sum())
    blocks.add(np.asarray(reward)[:, first:end_step], np.asarray(done)[:, first:end_step])
    return blocks.mean[:, 0]
