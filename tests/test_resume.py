"""A run that is stopped again and again leaves what one that is not leaves."""

import pathlib
import signal
import time

import pytest

from cl_imitate import load_config
from cl_imitate.interruption import InterruptedRunError, Notice
from cl_imitate.keeper import Schedule
from cl_imitate.stages.corridor import run_all
from cl_imitate.stages.run import open_stage_run
from tests.test_scripts import load

kill_runs = load("kill_runs")
TINY, artifacts, differences = (
    kill_runs.TINY,
    kill_runs.run_artifacts.artifacts,
    kill_runs.run_artifacts.differences,
)
SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
STREAMED = ('training.feed="stream"', "training.stream_learners=2", "training.num_validation=2")


class Countdown(Notice):
    """A notice to stop that comes the n-th time that a stage asks."""

    def __init__(self, asked: int):
        super().__init__()
        self._left = asked

    def __bool__(self) -> bool:
        self._left -= 1
        if self._left <= 0:
            self.number = signal.SIGTERM
        return self.number is not None


def run(folder, *, asked, overrides=()):
    """To the end, stopped every `asked` questions. How often it was stopped."""
    experiment = load_config.load(SMOKE, (*TINY, *overrides))
    stops = 0
    while True:
        schedule = Schedule(every_seconds=0.0, notice=Countdown(asked))
        try:
            run_all(open_stage_run(experiment, folder, SMOKE.parent, schedule))
        except InterruptedRunError:
            stops += 1
            assert stops < 200
            continue
        return stops


@pytest.mark.parametrize("overrides", [(), STREAMED], ids=["stored", "streamed"])
def test_a_run_that_is_stopped_everywhere_ends_as_one_that_is_not(tmp_path, overrides):
    assert run(tmp_path / "whole", asked=10**9, overrides=overrides) == 0
    whole = artifacts(tmp_path / "whole")
    for asked in (4,):
        path = tmp_path / f"stopped_{asked}"
        assert run(path, asked=asked, overrides=overrides) > 5
        assert differences(artifacts(path), whole) == []
        assert not any((path / "resume").iterdir())


@pytest.mark.slow
def test_a_run_killed_at_twenty_instants_ends_as_one_that_was_not(tmp_path):
    result = kill_runs.kill_runs(tmp_path, kills=20, seed=0)
    assert result["kills"] == 20
    assert result["runs_finished"] >= 1
    assert result["left_saves_or_results"] > 0  # else every run would only have begun its stages again
    assert result["different"] == {}


@pytest.mark.slow
def test_a_notice_to_end_is_obeyed_and_the_run_goes_on(tmp_path):
    process = kill_runs.start(tmp_path / "told")
    while "100%" not in (tmp_path / "told" / "log.txt").read_text():  # a part of the first stage is done
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert "the same command goes on" in (tmp_path / "told" / "log.txt").read_text()
    assert kill_runs.start(tmp_path / "told").wait() == 0
    assert kill_runs.start(tmp_path / "whole").wait() == 0
    told, whole = (artifacts(tmp_path / name / "run") for name in ("told", "whole"))
    assert differences(told, whole) == []
