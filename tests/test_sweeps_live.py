"""What a sweep's table on the terminal says of states that other processes write."""

import io
import json
import time

import pytest
import rich.console

from cl_imitate.files import write_json
from cl_imitate.sweeps import live
from cl_imitate.sweeps.folder import SILENT_SECONDS, SweepDir

DONE = {"simulate": 10.0, "train": 4.0, "evaluate": 6.0, "report": 1.0}


@pytest.fixture
def sweep(tmp_path) -> SweepDir:
    """Five points: done, running, waiting, silent for long, diverged."""
    (tmp_path / "states").mkdir()
    names = [f"seed={seed}" for seed in range(5)]
    points = [{"name": name, "values": {"seed": seed}, "fingerprint": "f"} for seed, name in enumerate(names)]
    write_json(tmp_path / "sweep.json", {"axes": ["seed"], "points": points})
    sweep = SweepDir(tmp_path)
    for name, stages in ((names[0], DONE), (names[1], {"simulate": 12.0})):
        sweep.run_path(name).mkdir(parents=True)
        told = {stage: {"seconds": seconds} for stage, seconds in stages.items()}
        write_json(sweep.run_path(name) / "manifest.json", {"stages": told})
    one = {"answer": "yes", "estimate": 0.98, "ci95": [0.95, 1.01]}
    verdict = {"void": [], "questions": {"now": one, "later": {**one, "answer": "not run"}}}
    write_json(sweep.run_path(names[0]) / "verdict.json", verdict)
    sweep.tell(names[1], state="running", stage="train context 32", progress=0.25)
    sweep.tell(names[3], state="running", stage="simulate recorded", progress=0.5)
    silent = tmp_path / "states" / f"{names[3]}.json"
    silent.write_text(json.dumps(json.loads(silent.read_text()) | {"time": time.time() - SILENT_SECONDS - 1}))
    sweep.tell(names[4], state="diverged", stage="train", error="the loss of imitator 0 is nan")
    return sweep


def test_states_progress_time_left_and_headline_figures_are_shown(sweep):
    stream = io.StringIO()
    live.show(sweep, watch=False, console=rich.console.Console(file=stream, width=150))
    lines = {line.split()[0]: line.split() for line in stream.getvalue().splitlines() if line.split()}
    assert "1 diverged, 1 done, 1 running, 1 stopped, 1 waiting" in stream.getvalue()
    assert lines["0"] == ["0", "done", "21", "s", "yes", "0.98", "[0.95,", "1.01]"]
    assert lines["1"] == ["1", "running", "train", "context", "32", "25%", "11", "s"]
    assert lines["2"] == ["2", "waiting", "22", "s"]
    assert lines["3"][:2] == ["3", "stopped"]
    assert lines["4"] == ["4", "diverged"]
    assert "seed=4: diverged the loss of imitator 0 is nan" in stream.getvalue()
    assert "later" not in stream.getvalue()


def test_brackets_in_values_and_errors_are_shown_as_they_are(sweep):
    error = "pip install 'cl-imitate[slurm]', and [/tmp/a, /tmp/b] are no folders"
    sweep.tell("seed=4", state="failed", stage="train", error=error)
    plan = sweep.plan
    plan["points"][4]["values"]["seed"] = "[/bold] ['red']"
    write_json(sweep.path / "sweep.json", plan)
    stream = io.StringIO()
    live.show(sweep, watch=False, console=rich.console.Console(file=stream, width=150))
    assert f"seed=4: failed {error}" in stream.getvalue()
    assert "[/bold] ['red']" in stream.getvalue()


def test_no_time_is_told_before_every_stage_was_seen(sweep):
    states = {
        "a": {"state": "running", "seconds": {"simulate": 3.0}},
        "b": {"state": "waiting", "seconds": {}},
    }
    assert live.seconds_left(states) == {"a": None, "b": None}
    states["c"] = {"state": "done", "seconds": DONE}
    assert live.seconds_left(states) == {"a": 11.0, "b": 17.5, "c": None}


def test_watching_ends_when_nothing_is_under_way(sweep, monkeypatch):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        for name in ("seed=1", "seed=2"):
            sweep.tell(name, state="failed", stage="train", error="a full disk")

    monkeypatch.setattr(live.time, "sleep", sleep)
    stream = io.StringIO()
    live.show(sweep, watch=True, console=rich.console.Console(file=stream, width=150))
    assert len(waited) == 1
    assert "seed=2: failed a full disk" in stream.getvalue()


def test_a_result_that_was_removed_is_missing_again(sweep):
    assert sweep.missing() == ["seed=1", "seed=2", "seed=3"]
    assert sweep.without_result() == ["seed=1", "seed=2", "seed=3", "seed=4"]
    (sweep.run_path("seed=0") / "manifest.json").unlink()
    sweep.tell("seed=0", state="done")
    assert sweep.state("seed=0")["state"] == "waiting"
