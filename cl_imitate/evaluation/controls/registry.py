"""Every control by the name that a config gives it."""

from collections.abc import Mapping
from typing import Any

from cl_imitate.config import Experiment
from cl_imitate.evaluation.controls import (
    altered,
    counterfactual_learner,
    floor,
    novelty,
    posterior,
    sham,
    stalled,
    test_time_training,
)
from cl_imitate.evaluation.controls.study import Arrays, Control

CONTROLS: dict[str, Control] = {
    "learner_posterior": posterior.WITH_TRUTH,
    "learner_posterior_without_truth": posterior.WITHOUT_TRUTH,
    "floor": floor.FLOOR,
    "novelty": novelty.NOVELTY,
    "sham": sham.CONTROL,
    "shuffled": altered.SHUFFLED,
    "reward_masked": altered.REWARD_MASKED,
    "counterfactual_learner": counterfactual_learner.CONTROL,
    "stalled": stalled.CONTROL,
    "test_time_training": test_time_training.CONTROL,
}


def answers(experiment: Experiment, measured: Mapping[str, Arrays]) -> dict[str, dict[str, Any]]:
    """What the verdict says of every control that was run."""
    return {name: CONTROLS[name].answer(experiment, arrays) for name, arrays in measured.items()}
