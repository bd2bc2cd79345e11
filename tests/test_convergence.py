"""Hand-made curves: falling to the end, flat, turning up, too short."""

import numpy as np
import pytest

from cl_imitate.config import Rules
from cl_imitate.evaluation import convergence


def entry(losses, floor: float | None = 0.4):
    curves = [{"context_steps": 64, "fork_step": 640, "held_out_loss": losses, "floor": floor}]
    [found] = convergence.training(Rules(converged_share=0.05), curves)
    return found


FALLING = np.linspace(1.4, 0.6, 16)
FLAT = np.r_[np.linspace(1.4, 0.6, 8), np.full(8, 0.6)]


@pytest.mark.parametrize(
    ("losses", "converged"),
    [(FALLING, False), (FLAT, True), (np.r_[FLAT, 0.7, 0.7, 0.7, 0.7], True), (FLAT[:7], None)],
    ids=["falling", "flat", "turning up", "too few"],
)
def test_converged_means_that_the_last_quarter_brought_next_to_nothing(losses, converged):
    assert entry(losses)["converged"] is converged


def test_the_figures_are_those_of_the_mean_over_seeds():
    found = entry([FALLING + 0.1, FALLING - 0.1])
    step = 0.8 / 15
    assert found["fall_last_quarter"] == pytest.approx(4 * step)
    assert found["held_out_loss"] == pytest.approx(0.6)
    assert found["above_floor"] == pytest.approx(0.2)


@pytest.mark.parametrize(("last", "converged"), [(0.591, True), (0.589, False)])
def test_it_is_measured_by_what_is_left_above_the_floor(last, converged):
    # 0.2 above the floor: a twentieth of it is 0.01, and so much the last quarter may fall
    assert entry(np.r_[np.full(12, 0.6), np.full(4, last)])["converged"] is converged


@pytest.mark.parametrize(
    ("held_out", "train", "memorises"),
    [
        ([1.0, 0.6, 0.5, 0.6], [1.0, 0.8, 0.7, 0.6], True),
        ([1.0, 0.6, 0.5, 0.6], [1.0, 0.8, 0.7, 0.7], False),  # both flat
        ([1.0, 0.6, 0.5, 0.4], [1.0, 0.8, 0.7, 0.6], False),  # it still falls
        (
            [1.0, 0.6, 0.5, 0.52],
            [1.0, 0.8, 0.7, 0.6],
            False,
        ),  # it rose by less than a twentieth of its whole fall
    ],
)
def test_memorising_is_a_held_out_loss_that_turned_up_while_the_training_loss_fell(
    held_out, train, memorises
):
    curve = {
        "context_steps": 64,
        "fork_step": 640,
        "updates": np.arange(4) * 50,
        "train_loss": [train],
        "held_out_update": np.arange(4) * 50,
        "held_out_loss": [held_out, held_out],
    }
    [found] = convergence.training(Rules(), [curve])
    assert found["memorises"] is memorises
    assert found["lowest_updates"] == ([100, 100] if held_out[-1] > 0.5 else [150, 150])


def test_without_a_floor_the_whole_fall_is_the_measure():
    assert entry(np.r_[1.6, np.full(11, 0.62), np.full(4, 0.6)], floor=None)["converged"] is True
    assert entry(np.r_[1.6, np.full(11, 0.72), np.full(4, 0.6)], floor=None)["converged"] is False
