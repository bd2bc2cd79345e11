"""What a control is: it measures something of a trained run, and says what that means.

`measure` computes, once, in the control stage; its arrays stay in `controls/<name>.npz`. `answer` turns them
into what the verdict says, without an accelerator. A control is an arm or an imitator behind the interfaces that
exist; none is a second pipeline.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cl_imitate.config import Experiment
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.keeper import Keeper
from cl_imitate.populations import Population
from cl_imitate.simulate import Ensemble
from cl_imitate.types import History, Spec

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """A trained run as a control sees it. Nothing is written through it."""

    experiment: Experiment
    spec: Spec
    chunk_steps: int
    population: Callable[[str], Population]  # "recorded", "held_out", "held_out_train_tasks"
    snapshot: Callable[
        [Population, int], Ensemble
    ]  # as it was at one of the steps from which protocols start
    history: Callable[[str], History]  # a population's whole histories [N, T], on the host
    imitators: Mapping[int, Mapping[int, Frozen]]  # by context length and fork
    tick: Callable[[int], None]  # told how many steps, summed over streams, have just been done
    keeper: Keeper | None = None  # for a control that is long enough to go on from inside

    @property
    def frozen(self) -> Frozen:
        """The headline context's imitators, trained up to the last fork."""
        return self.imitators[self.experiment.imitator.context_steps][self.experiment.recorded_steps]


class Control(NamedTuple):
    """One control.

    measure(study) -> arrays by name: everything that `answer` needs.
    answer(experiment, arrays) -> what stands in the verdict: `estimate` and `ci95` (a pair; NaN where there is nothing
      to say), `unit` and `meaning` in words, further figures by name, and for a positive control `passed` (bool).
    work(experiment) -> steps that `tick` will be told of.
    """

    measure: Callable[[Study], Arrays]
    answer: Callable[[Experiment, Arrays], dict[str, Any]]
    work: Callable[[Experiment], int]
