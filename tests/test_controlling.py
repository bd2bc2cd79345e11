"""The control stage: as many controls at once as are asked for, with the same figures; stopped, it goes on."""

import pathlib
import shutil

import numpy as np
import pytest

from cl_imitate import load_config, progress
from cl_imitate.interruption import InterruptedRunError, Notice
from cl_imitate.keeper import Schedule
from cl_imitate.stages.controlling import control_stage, load_controls
from cl_imitate.stages.run import Run, open_stage_run
from cl_imitate.stages.simulating import simulate_stage
from cl_imitate.stages.training import train_stage

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
NAMES = ("novelty", "shuffled", "reward_masked", "counterfactual_learner")
TINY = (
    "simulation.num_recorded=8",
    "simulation.num_held_out=8",
    "imitator.context_steps=16",
    "imitator.also_context_steps=[]",
    "imitator.num_layers=1",
    "training.num_updates=8",
    "training.evaluate_every_updates=2",
    "evaluation.later_steps=32",
    "evaluation.rungs=[]",
    "evaluation.months=[]",
    f"controls.run={list(NAMES)}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
    run = opened(tmp_path_factory.mktemp("controlling") / "run")
    simulate_stage(run)
    train_stage(run)
    return run.path


@pytest.fixture(scope="module")
def in_turn(trained, tmp_path_factory) -> Run:
    run = opened(copied(trained, tmp_path_factory.mktemp("in_turn")), at_once=1)
    control_stage(run)
    return run


def opened(path: pathlib.Path, *, at_once: int = 0, schedule: Schedule | None = None) -> Run:
    return open_stage_run(load_config.load(SMOKE, TINY), path, SMOKE.parent, schedule, at_once)


def copied(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(path, folder / "run"))


def assert_same(one: Run, other: Run) -> None:
    first, second = load_controls(one), load_controls(other)
    assert list(first) == list(second) == list(NAMES)
    for name in NAMES:
        assert first[name].keys() == second[name].keys()
        for key, values in first[name].items():
            np.testing.assert_array_equal(second[name][key], values, err_msg=f"{name}: {key}")


def took(run: Run) -> dict:
    return run.folder.manifest["stages"]["control"]["took"]


@pytest.mark.parametrize("at_once", [2, 4])
def test_controls_made_side_by_side_measure_the_same(trained, in_turn, tmp_path, at_once):
    run = opened(copied(trained, tmp_path), at_once=at_once)
    control_stage(run)
    assert_same(in_turn, run)
    assert {one["at_once"] for one in took(run).values()} == {at_once}
    assert {one["at_once"] for one in took(in_turn).values()} == {1}
    assert took(run).keys() == took(in_turn).keys() == set(NAMES)


def test_stopped_side_by_side_both_go_on_from_what_they_saved(trained, in_turn, tmp_path):
    path, notice = copied(trained, tmp_path), Notice()
    retrained, seen = {"control shuffled", "control reward masked"}, set()

    def stop_when_both_are_under_way(label: str, share: float) -> None:
        if label in retrained and 0.1 < share < 0.5:
            seen.add(label)
        if seen == retrained:
            notice.number = 15

    run = opened(path, at_once=4, schedule=Schedule(every_steps=1, notice=notice))
    with progress.watched(stop_when_both_are_under_way), pytest.raises(InterruptedRunError):
        control_stage(run)
    saved = run.folder.keeper_path("control")
    assert all(list(saved.glob(f"imitators_{name}-*/step_*.json")) for name in NAMES[1:3])
    assert not run.folder.is_done("control")
    resumed = opened(path, at_once=2)
    control_stage(resumed)
    assert_same(in_turn, resumed)
    assert (
        not {"shuffled", "reward_masked"} & took(resumed).keys()
    )  # some of their time was another process's
    stage = resumed.folder.manifest["stages"]["control"]
    assert stage["attempts"] == 2
    assert stage["saving"]["saves"] >= 2


def test_a_control_that_fails_loses_nothing_of_the_others(trained, in_turn, tmp_path, monkeypatch):
    run = opened(copied(trained, tmp_path), at_once=2)
    broken = "cl_imitate.evaluation.controls.altered.shuffle_episodes"
    with monkeypatch.context() as patched:
        patched.setattr(broken, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            control_stage(run)
    assert not run.folder.is_done("control")
    assert (run.folder.keeper_path("control") / "novelty" / "result.json").exists()
    control_stage(run)
    assert_same(in_turn, run)


def test_fewer_than_none_at_once_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match=r"--controls-at-once = -1: give how many"):
        control_stage(opened(copied(trained, tmp_path), at_once=-1))
