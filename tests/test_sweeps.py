"""A sweep leaves what its points would leave alone, whatever happens to some of them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet
import pytest

from cl_imitate import load_config
from cl_imitate.interruption import InterruptedRunError, Notice
from cl_imitate.keeper import Schedule
from cl_imitate.stages.corridor import run_all
from cl_imitate.stages.run import open_stage_run
from cl_imitate.stages.simulating import simulate_stage, simulate_together
from cl_imitate.stages.training import train_stage, train_together
from cl_imitate.sweeps import job as jobs
from cl_imitate.sweeps import table
from cl_imitate.sweeps.folder import SweepDir, is_sweep
from cl_imitate.sweeps.sweep import Request, run_sweep
from tests.compiles import count_compiles
from tests.test_resume import SMOKE, TINY, Countdown, artifacts, differences

pytestmark = pytest.mark.unoptimised

ROOT = SMOKE.parents[1]
SMALLER = (
    *TINY,
    "training.num_seeds=1",
    "evaluation.fork_steps=[64]",
    "evaluation.now_fork_step=64",
    "evaluation.later_fork_step=64",
    "evaluation.stage_steps=[0]",
    "evaluation.later_steps=32",
    "evaluation.rungs=[]",
)
AXES = """
[sweep]
combine = "zip"
[sweep.axes]
seed = [0, 3, 0, 0]
"learner.learning_rate" = [5e-3, 1e-3, 1e30, 5e-3]
"training.learning_rate" = [1e-3, 1e-3, 1e-3, 3e-3]
"""


def write_config(folder: pathlib.Path, axes: str = AXES) -> pathlib.Path:
    path = folder / "swept.toml"
    path.write_text(f'base = "{SMOKE}"\nname = "swept"\n{axes}')
    return path


def request(folder: pathlib.Path, axes: str = AXES, *, overrides=(), **options) -> Request:
    folder.mkdir(exist_ok=True)
    return Request(
        config=write_config(folder, axes),
        overrides=(*SMALLER, *overrides),
        folder=folder / "sweep",
        schedule=Schedule(every_seconds=0.0),
        **options,
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> SweepDir:
    return run_sweep(request(tmp_path_factory.mktemp("swept")), Notice())


def test_a_point_is_bit_for_bit_what_it_is_alone(sweep, tmp_path):
    """Though one diverges beside it and others live in its blocks."""
    name = sweep.names[1]
    run_all(open_stage_run(sweep.experiment(name), tmp_path / "alone", sweep.origin))
    assert differences(artifacts(sweep.run_path(name)), artifacts(tmp_path / "alone")) == []


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("simulation.block_size=8", "training.block_size=2"), id="blocks shared"),
        pytest.param(
            ("simulation.num_recorded=5", "training.num_seeds=3"), id="blocks padded", marks=pytest.mark.slow
        ),
        pytest.param(
            ('training.feed="stream"', "training.stream_learners=2", "training.num_validation=2"),
            id="streamed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_learners_and_imitators_of_several_runs_are_as_alone_whatever_shares_a_block(tmp_path, overrides):
    changes = [
        (),
        ("seed=3", "learner.learning_rate=1e-3"),
        ("training.learning_rate=3e-3", "training.first_seed=5"),
    ]
    experiments = [load_config.load(SMOKE, (*SMALLER, *overrides, *change)) for change in changes]

    def runs(name):
        return [
            open_stage_run(one, tmp_path / f"{name}{index}", SMOKE.parent)
            for index, one in enumerate(experiments)
        ]

    together = runs("together")
    assert simulate_together(together) == train_together(together) == {}
    for run in runs("alone"):
        simulate_stage(run)
        train_stage(run)
    for index in range(len(experiments)):
        one, other = (artifacts(tmp_path / f"{name}{index}") for name in ("together", "alone"))
        assert {"losses.json", "stages"} < set(one)
        assert differences(one, other) == []


def test_points_whose_learners_are_equal_have_equal_histories_and_other_imitators(sweep):
    first, second = (artifacts(sweep.run_path(sweep.names[index])) for index in (0, 3))
    shards = [name for name in first if name.startswith("histories") and not name.endswith("manifest.json")]
    assert shards
    assert not set(differences(first, second)) & set(shards)
    assert first["losses.json"] != second["losses.json"]


def test_a_point_that_diverges_is_told_of_and_does_not_stop_the_others(sweep):
    states = {name: sweep.state(name) for name in sweep.names}
    assert [state["state"] for state in states.values()] == ["done", "done", "diverged", "done"]
    assert "the weights of learner 0 are not finite after step" in states[sweep.names[2]]["error"]
    assert sweep.without_result() == [sweep.names[2]]
    assert sweep.missing() == []  # it would diverge again


def test_the_table_is_tidy_and_the_same_in_both_formats(sweep):
    read = pyarrow.parquet.read_table(sweep.path / "table.parquet")
    rows = read.to_pylist()
    assert {row["point"] for row in rows} == set(sweep.names)
    assert {(row["seed"], row["learner.learning_rate"]) for row in rows} == {(0, 5e-3), (3, 1e-3), (0, 1e30)}
    keys = [(row["point"], row["context_steps"], row["question"], row["part"]) for row in rows]
    assert len(set(keys)) == len(keys)
    for name in sweep.names[:2]:
        decided = json.loads((sweep.run_path(name) / "verdict.json").read_text())
        own = {row["question"]: row for row in rows if row["point"] == name and row["part"] == "headline"}
        assert set(own) == {"gate", *decided["questions"]}
        for question, found in decided["questions"].items():
            assert own[question]["answer"] == found["answer"]
            assert own[question]["estimate"] == found["estimate"]
            assert [own[question]["ci95_low"], own[question]["ci95_high"]] == found["ci95"]
    [lost] = [row for row in rows if row["point"] == sweep.names[2]]
    assert lost["state"] == "diverged"
    assert lost["question"] is None
    assert "not finite" in lost["error"]
    text = (sweep.path / "table.csv").read_text().splitlines()
    assert len(text) == 1 + len(rows)
    assert text[0].replace('"', "").split(",") == read.column_names


def test_resume_runs_only_what_is_missing(sweep, tmp_path, monkeypatch):
    asked = request(tmp_path, resume=True)
    ran = []
    monkeypatch.setattr(jobs, "_together", lambda stage, runs, board: ran.append((stage, list(runs))))
    monkeypatch.setattr(jobs, "_alone", lambda stage, name, run, board: ran.append((stage, name)))
    import shutil

    shutil.copytree(sweep.path, tmp_path / "sweep")
    run_sweep(asked, Notice())
    assert ran == []
    shutil.rmtree(tmp_path / "sweep" / "points" / sweep.names[1])
    (tmp_path / "sweep" / "states" / f"{sweep.names[1]}.json").unlink()
    run_sweep(asked, Notice())
    assert {tuple(names) for stage, names in ran if stage in ("simulate", "train")} == {(sweep.names[1],)}


@pytest.mark.slow
def test_a_sweep_stopped_everywhere_goes_on_and_ends_as_one_that_was_not(sweep, tmp_path):
    stops = 0
    while True:
        try:
            stopped = run_sweep(request(tmp_path, resume=True), Countdown(6))
            break
        except InterruptedRunError:
            stops += 1
            assert stops < 60
            states = {SweepDir(tmp_path / "sweep").state(name)["state"] for name in sweep.names}
            assert "running" not in states
    assert stops > 3
    for name in sweep.names:
        assert stopped.state(name)["state"] == sweep.state(name)["state"]
        if stopped.state(name)["state"] == "done":
            assert differences(artifacts(stopped.run_path(name)), artifacts(sweep.run_path(name))) == []


def test_a_point_whose_folder_is_spoilt_fails_alone(sweep, tmp_path):
    import shutil

    shutil.copytree(sweep.path, tmp_path / "sweep")
    copied = SweepDir(tmp_path / "sweep")
    for name in copied.names[:2]:
        manifest = copied.run_path(name) / "manifest.json"
        told = json.loads(manifest.read_text())
        told["stages"] = {"simulate": told["stages"]["simulate"]}
        manifest.write_text(json.dumps(told))
    shard = next(file for file in (copied.run_path(copied.names[0]) / "histories").rglob("c/0/0/0"))
    shard.write_bytes(b"\0" * shard.stat().st_size)
    run_sweep(request(tmp_path, resume=True), Notice())
    states = [copied.state(name) for name in copied.names]
    assert [state["state"] for state in states] == ["failed", "done", "diverged", "done"]
    assert "its SHA-256 is not the manifest's" in states[0]["error"]
    one, other = (artifacts(where.run_path(copied.names[1])) for where in (copied, sweep))
    assert differences(one, other) == []


def test_points_of_equal_shapes_share_every_compiled_program(tmp_path):
    """Other seeds and other rates of learners and imitators compile nothing."""
    counts = []
    for first in (10, 20):
        runs = []
        for seed in (first, first + 1):
            rates = [
                f"learner.{name}=0.{seed}"
                for name in ("learning_rate", "discount", "target_tau", "epsilon_end")
            ]
            changes = (
                *SMALLER,
                f"seed={seed}",
                *rates,
                f"training.learning_rate=0.0{seed}",
                f"training.first_seed={seed}",
            )
            runs.append(open_stage_run(load_config.load(SMOKE, changes), tmp_path / str(seed), SMOKE.parent))
        with count_compiles() as compiled:
            assert simulate_together(runs) == train_together(runs) == {}
        counts.append(len(compiled))
    assert counts[0] > 0
    assert counts[1] == 0, counts


def test_a_sweep_is_refused_where_it_should_be_and_loses_nothing(sweep, tmp_path):
    with pytest.raises(ValueError, match=r"has a \[sweep\], so it is many runs.*cl-imitate sweep"):
        load_config.load(write_config(tmp_path))
    asked = request(sweep.path.parent)
    with pytest.raises(ValueError, match=r"holds this sweep already\. Add --resume"):
        run_sweep(asked, Notice())
    with pytest.raises(ValueError, match="holds another sweep"):
        run_sweep(request(sweep.path.parent, "[sweep.axes]\nseed = [7]\n", resume=True), Notice())
    write_config(sweep.path.parent)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and is not a sweep"):
        run_sweep(request(tmp_path), Notice())
    with sweep.lock(), pytest.raises(ValueError, match="another process leads this sweep"):
        run_sweep(request(sweep.path.parent, resume=True), Notice())


@pytest.mark.parametrize("values", [[16, "auto"], [True, 1], [[32], "x"], [[1, 2], [3]]])
def test_an_axis_of_mixed_values_is_a_column_of_text(values):
    kind = table._kind(values)
    told = [table._value(value, kind) for value in values]
    assert pyarrow.array(told, kind).to_pylist() == told


def test_the_command_line_runs_a_sweep_shows_it_and_says_what_has_no_result(tmp_path):
    axes = '[sweep.axes]\n"learner.learning_rate" = [1e30, 1e29]\n'
    asked = request(tmp_path, axes)
    sets = [part for override in asked.overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "cl_imitate", "sweep", str(asked.config), *sets]
    command += ["--run-dir", str(asked.folder), "--memory-gib", "0.00001"]
    none_kept = subprocess.run(
        [*command, "--keep-saves", "0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "at least 1 must be kept" in none_kept.stderr
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "2 points, 2 to run, in 1 group" in done.stderr
    assert "2 points, 1 at once, 2 waves; estimated" in done.stderr
    assert "note, of 2 of them: PROCESS" in done.stderr  # of one imitator seed
    shown = subprocess.run(
        [sys.executable, "-m", "cl_imitate", "show", str(asked.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "2 diverged" in shown.stdout


@pytest.mark.slow
def test_a_sweep_told_to_end_is_shown_meanwhile_and_goes_on(tmp_path):
    asked = request(tmp_path, "[sweep.axes]\nseed = [0, 1]\n")
    sets = [part for override in asked.overrides for part in ("--set", override)]
    command = [sys.executable, "-m", "cl_imitate", "sweep", str(asked.config), *sets, "--resume"]
    command += ["--run-dir", str(asked.folder)]
    sweep = SweepDir(asked.folder)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while not is_sweep(asked.folder) or sweep.state(sweep.names[0])["state"] != "running":
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(120) == 143
    assert sweep.state(sweep.names[0])["state"] in ("stopped", "done")
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    assert sweep.without_result() == []
    assert np.isfinite(table.write(sweep).stat().st_size)
