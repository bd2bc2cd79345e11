"""What a job does where a stage goes wrong."""

import contextlib
import types

import pytest

from cl_imitate.sweeps import job as jobs
from cl_imitate.sweeps.folder import SweepDir


@pytest.fixture
def fail(monkeypatch):
    """Simulating goes wrong, together and alone; the points that were tried are kept."""
    tried = []

    def together(runs):
        tried.append([run.name for run in runs])
        raise RuntimeError("no such device")

    monkeypatch.setitem(jobs._TOGETHER, "simulate", together)
    monkeypatch.setitem(jobs.STAGE_FUNCTIONS, "simulate", lambda run: together([run]))
    return tried


@pytest.mark.parametrize(
    ("names", "expected"), [(["one"], [["one"]]), (["one", "two"], [["one", "two"], ["one"], ["two"]])]
)
def test_a_stage_that_fails_is_tried_again_alone_only_where_it_was_not_alone(
    tmp_path, capsys, fail, names, expected
):
    (tmp_path / "states").mkdir()
    board = jobs._Board(SweepDir(tmp_path), names)
    folder = types.SimpleNamespace(is_done=lambda _: False)
    runs = {name: types.SimpleNamespace(name=name, folder=folder) for name in names}
    jobs._together("simulate", runs, board)  # pyright: ignore[reportArgumentType]
    assert fail == expected
    assert not board.alive
    for name in names:
        state = board.sweep.state(name)
        assert (state["state"], state["stage"]) == ("failed", "simulate")
        assert state["error"] == "RuntimeError: no such device"
    assert "RuntimeError: no such device" in capsys.readouterr().err


def test_a_point_s_gate_is_copied_or_run_in_its_turn_and_one_that_fails_takes_its_own_point_only(
    tmp_path, monkeypatch
):
    (tmp_path / "states").mkdir()
    done = []

    @contextlib.contextmanager
    def turn(run, sweep):
        done.append(f"{run.name} begins")
        yield
        done.append(f"{run.name} ends")

    def gate(run):
        done.append(f"{run.name} runs")
        if run.name == "one":
            raise ValueError("a gate of odd sizes")

    monkeypatch.setattr(jobs.gates, "turn", turn)
    monkeypatch.setattr(jobs.gates, "share", lambda run, sweep: done.append(f"{run.name} copies"))
    monkeypatch.setattr(jobs, "has_own_gate", lambda experiment: experiment == "own")
    monkeypatch.setitem(jobs.STAGE_FUNCTIONS, "gate", gate)
    monkeypatch.setitem(jobs._TOGETHER, "train", lambda runs: done.append([run.name for run in runs]) or {})
    names = ["one", "two", "own"]
    board = jobs._Board(SweepDir(tmp_path), names)
    folder = types.SimpleNamespace(is_done=lambda _: False)
    runs = {name: types.SimpleNamespace(name=name, folder=folder, experiment=name) for name in names}
    jobs._together("train", runs, board)  # pyright: ignore[reportArgumentType]
    two = [f"two {word}" for word in ("begins", "copies", "runs", "ends")]
    assert done == ["one begins", "one copies", "one runs", *two, ["two", "own"]]
    assert board.sweep.state("one")["error"] == "a gate of odd sizes"
    assert board.sweep.state("one")["stage"] == "gate"
