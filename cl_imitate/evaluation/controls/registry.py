"""Every control by the name that a config gives it."""

from collections.abc import Mapping
from typing import Any

from cl_imitate.config import Experiment
from cl_imitate.evaluation.controls.floor import FLOOR
from cl_imitate.evaluation.controls.novelty import NOVELTY
from cl_imitate.evaluation.controls.study import Arrays, Control

CONTROLS: dict[str, Control] = {
    "floor": FLOOR,
    "novelty": NOVELTY,
}


def answers(experiment: Experiment, measured: Mapping[str, Arrays]) -> dict[str, dict[str, Any]]:
    """What the verdict says of every control that was run."""
    return {name: CONTROLS[name].answer(experiment, arrays) for name, arrays in measured.items()}
