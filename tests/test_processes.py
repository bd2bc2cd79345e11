"""Several processes make one run: what they leave is what one process leaves."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from cl_imitate import load_config, populations, processes
from cl_imitate.evaluation import protocols, results
from cl_imitate.histories import store
from cl_imitate.interruption import Notice
from cl_imitate.open_run import open_run
from cl_imitate.stages.artifacts import load_snapshot, recorded_steps, save_snapshot, snapshot_path
from cl_imitate.stages.controlling import control_stage
from cl_imitate.stages.run import check_for_a_job, open_stage_run
from cl_imitate.stages.simulating import simulate_together
from cl_imitate.stages.training import train_together
from tests.ensembles import assert_same

pytestmark = pytest.mark.unoptimised

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = ROOT / "configs" / "smoke.toml"
TINY = (
    "simulation.num_recorded=16",
    "simulation.num_held_out=8",
    "simulation.block_size=2",
    "simulation.chunk_steps=16",
    "training.num_updates=8",
    "training.evaluate_every_updates=2",
    "evaluation.fork_steps=[128]",
    "evaluation.later_fork_step=128",
    "evaluation.stage_steps=[0]",
    "evaluation.elsewhere_learners=8",
    "evaluation.months=[]",
    "evaluation.rungs=[]",
    "imitator.also_context_steps=[]",
    "rules.bootstrap_samples=50",
)

ONE_FORK = ("evaluation.fork_steps=[128]", "evaluation.later_fork_step=128")
STREAMED_SPLIT = (
    "training.feed=stream",
    "training.stream_learners=2",
    "training.num_validation=2",
    "training.stream_devices=split",
)


@pytest.fixture
def one_of(monkeypatch):
    """A process that believes to be one of several."""

    def pretend(index: int, count: int) -> None:
        monkeypatch.setattr(processes, "count", lambda: count)
        monkeypatch.setattr(processes, "index", lambda: index)

    return pretend


@pytest.mark.parametrize(("num", "count"), [(8, 2), (7, 2), (3, 4), (1, 8), (257, 256), (0, 3)])
def test_shares_are_stretches_that_leave_out_nothing_and_the_first_process_has_one(one_of, num, count):
    one_of(0, count)
    shares = [processes.share(num, process) for process in range(count)]
    assert [one for share in shares for one in share] == list(range(num))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) > 0 or num == 0


def test_a_population_is_shared_out_in_whole_blocks(one_of):
    experiment = load_config.load(SMOKE, ("simulation.num_recorded=7", "simulation.block_size=2"))
    one_of(1, 3)
    population = populations.make("recorded", experiment)
    assert population.shares() == [range(0, 4), range(4, 6), range(6, 7)]
    assert population.own_share() == range(4, 6)


def test_a_process_by_itself_is_a_job_of_one():
    assert (processes.count(), processes.index(), processes.is_first()) == (1, 0, True)
    assert processes.exchange("anything", 3) == [3]
    assert type(processes.make_notice()) is Notice
    with pytest.raises(SystemExit) as ended:
        processes.leave(5)
    assert ended.value.code == 5


class Words:
    """The store of words, in which the other process says its own when it has been asked for once."""

    def __init__(self):
        self.words: dict[str, str] = {}

    def key_value_set(self, key, value, **_):
        self.words[key] = value

    def key_value_try_get(self, key):
        if key not in self.words:
            raise jax.errors.JaxRuntimeError(f"NOT_FOUND: {key}")
        return self.words[key]

    def blocking_key_value_get(self, key, _):
        if "stop" not in " ".join(self.words):
            raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")
        return json.dumps([["here", 1], ["here", 2]])


@pytest.mark.parametrize(("saved", "waits"), [(True, True), (False, False)])
def test_after_a_notice_a_process_leaves_when_the_others_have_saved_as_well(
    one_of, monkeypatch, saved, waits
):
    one_of(1, 2)
    words, asked = Words(), []

    def left(_):
        asked.append(None)
        if len(asked) == 3:
            words.key_value_set("cl_imitate/left/0", "")
        return [(key, "") for key in words.words if "/left/" in key]

    words.key_value_dir_get = left  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(processes, "_client", lambda: words)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        processes.leave(143, saved=saved)
    assert ended.value.code == 143
    assert len(asked) == (3 if waits else 0)


def test_what_processes_could_not_train_together_is_refused_before_they_simulate(one_of):
    one_of(0, 2)
    for overrides, message in (
        ((*ONE_FORK, "training.num_seeds=3"), "which 2 processes cannot share evenly"),
        (STREAMED_SPLIT, '"split" is for one process, and this is one of 2'),
    ):
        experiment = load_config.load(SMOKE, overrides)
        with pytest.raises(ValueError, match=message):
            check_for_a_job(experiment, SMOKE.parent)


def test_a_signal_to_a_process_that_waits_is_told_to_the_others(one_of, monkeypatch):
    one_of(1, 2)
    store_of_words = Words()
    monkeypatch.setattr(processes, "_client", lambda: store_of_words)
    monkeypatch.setattr(processes, "_notices", [])
    notice = processes.make_notice()
    notice.number = int(signal.SIGTERM)
    assert processes.exchange("here", 2) == [1, 2]
    assert store_of_words.words["cl_imitate/stop"] == str(notice.number)


def test_another_number_of_processes_does_not_go_on_with_a_stage(tmp_path, one_of, monkeypatch):
    folder = open_run(tmp_path / "run", fingerprint="f", config_text="")
    monkeypatch.setattr(processes, "exchange", lambda what, value=None: [value])
    part = folder.keeper_path("simulate") / "process_1_of_2" / "recorded"
    part.mkdir(parents=True)
    assert not folder.goes_on("simulate")
    (part / "step_16.json").write_text("{}")
    with pytest.raises(ValueError, match="was left by a job of 2, and this one is of 1"):
        folder.goes_on("simulate")
    one_of(0, 2)
    assert folder.goes_on("simulate")
    (folder.keeper_path("simulate") / "recorded").mkdir()
    (folder.keeper_path("simulate") / "recorded" / "step_16.json").write_text("{}")
    with pytest.raises(ValueError, match="was left by a job of 1, and this one is of 2"):
        folder.goes_on("simulate")


def test_what_one_process_does_is_refused_to_several(one_of):
    one_of(0, 2)
    several: Any = [None, None]
    for together in (simulate_together, train_together):
        with pytest.raises(ValueError, match=r"this is one of 2\. Start the sweep as one process"):
            together(several)
    fork: Any = SimpleNamespace(path="there", experiment=SimpleNamespace(fork=object()))
    with pytest.raises(ValueError, match="Simulate with one: `cl-imitate simulate --run-dir there`"):
        simulate_together([fork])
    with pytest.raises(ValueError, match="one process makes the controls, and this is one of 2"):
        control_stage(fork)


def test_snapshots_of_shares_are_read_as_one_whole_or_in_part(tmp_path):
    run = open_stage_run(load_config.load(SMOKE, TINY), tmp_path / "run", SMOKE.parent)
    population = populations.make("held_out", run.experiment)
    everybody = population.newborn()

    def some(learners: range):
        return jax.tree.map(lambda x: x[learners.start : learners.stop] if x.ndim else x, everybody)

    for learners in (range(0, 6), range(6, 8)):
        save_snapshot(run, "held_out", 16, some(learners), learners)
    assert_same(load_snapshot(run, population, 16), everybody)
    assert_same(load_snapshot(run, population, 16, range(5, 7)), some(range(5, 7)))
    shutil.rmtree(snapshot_path(run, "held_out", 16) / "learners_6_8")
    assert_same(load_snapshot(run, population, 16, range(2, 6)), some(range(2, 6)))
    with pytest.raises(ValueError, match="lacks learners"):
        load_snapshot(run, population, 16)


def cell(name: str, learners: range) -> results.Cell:
    numbers = np.arange(12.0).reshape(2, 6)[:, learners.start : learners.stop]
    known = {name: numbers[0] for name in ("random_return", "optimal_return", "ceiling_return")}
    fields = dict.fromkeys(
        ("context_steps", "fork_step", "start_step", "block_steps", "epsilon", "epsilon_at_start"), 1
    )
    nothing = dict.fromkeys(("target_step", "rung", "rung_name"))
    return results.Cell(
        protocol="now",
        name=name,
        split="train",
        ceiling_is_exact=True,
        task=np.arange(learners.start, learners.stop),
        returns={"imitator": np.repeat(numbers[:, :, None], 3, axis=2)},
        scalars={"per learner": numbers, "of all": np.array(5.0)},
        **fields,
        **nothing,
        **known,
    )


def test_cells_of_some_learners_join_to_cells_of_all():
    """The last process has no learners in one of them."""
    parts = [
        [cell("a", range(0, 3)), cell("b", range(0, 4))],
        [cell("a", range(3, 6)), cell("b", range(4, 6))],
        [],
    ]
    for joined, whole in zip(results.join(parts), [cell("a", range(6)), cell("b", range(6))], strict=True):
        assert joined.name == whole.name
        np.testing.assert_array_equal(joined.task, whole.task)
        assert_same((joined.returns, joined.scalars), (whole.returns, whole.scalars))


# ---- two processes


def command(folder: pathlib.Path, *options: object) -> list[str]:
    overrides = [word for value in TINY for word in ("--set", value)]
    return [
        *(sys.executable, "-m", "cl_imitate", "run", str(SMOKE), "--run-dir", str(folder)),
        *map(str, options),
        *overrides,
    ]


def start_job(folder: pathlib.Path, *options: object) -> list[subprocess.Popen]:
    """Two processes of four devices each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = ("--coordinator", f"localhost:{port}", "--num-processes", 2, "--cpu-devices", 4)
    started = []
    for process in range(2):
        with pathlib.Path(f"{folder}.{process}.log").open("a") as log:
            started.append(
                subprocess.Popen(
                    command(folder, *job, "--process-id", process, *options), stdout=log, stderr=log, cwd=ROOT
                )
            )
    return started


def codes(job: list[subprocess.Popen], seconds: float = 240) -> list[int]:
    try:
        return [process.wait(seconds) for process in job]
    finally:
        for process in job:
            process.kill()


def said(folder: pathlib.Path) -> str:
    return "\n".join(pathlib.Path(f"{folder}.{process}.log").read_text() for process in range(2))


def what_is_left(folder: pathlib.Path) -> dict[str, object]:
    """Of a run: everything that must be equal to the bit, and the losses and cells."""
    run = open_stage_run(load_config.load(SMOKE, TINY), folder, SMOKE.parent)
    bits = {}
    for name in recorded_steps(run.experiment):
        population = populations.make(name, run.experiment)
        reader = store.open_store(
            run.path / "histories" / name, fingerprint=run.folder.fingerprint, spec=population.family.env.spec
        )
        bits[f"histories of {name}"] = reader.read()
        assert reader.manifest["committed_steps"] == 128
        for step in protocols.snapshot_steps(run.experiment, name):
            bits[f"{name} at {step}"] = load_snapshot(run, population, step)
    cells = results.load_cells(run.path / "evaluation" / "cells.npz", fingerprint=run.folder.fingerprint)
    return {
        "bits": bits,
        "losses": json.loads((run.path / "losses.json").read_text()),
        "cells": {
            f"{one.name} {key}": value
            for one in cells
            for key, value in {**one.returns, **one.scalars, "task": one.task}.items()
        },
        "stages": run.folder.manifest["stages"],
        "verdict": json.loads((run.path / "verdict.json").read_text()),
    }


def by_one_process(folder: pathlib.Path, devices: int) -> dict:
    """What a run of one process of so many devices leaves."""
    done = subprocess.run(
        command(folder, "--cpu-devices", devices), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return what_is_left(folder)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory) -> dict:
    """The run of one process of one device."""
    return by_one_process(tmp_path_factory.mktemp("one") / "run", 1)


def assert_equal_runs(one: dict, other: dict) -> None:
    """Histories and snapshots, to the bit; losses and cells within what the order of sums may change."""
    assert one["bits"].keys() == other["bits"].keys()
    for name, tree in one["bits"].items():
        try:
            assert_same(tree, other["bits"][name])
        except AssertionError as error:
            raise AssertionError(f"{name} differs") from error
    for first, second in zip(one["losses"], other["losses"], strict=True):
        for key in ("train_loss", "held_out_loss"):
            np.testing.assert_allclose(first[key], second[key], rtol=0, atol=2e-5)
    assert one["cells"].keys() == other["cells"].keys()
    for name, values in one["cells"].items():
        np.testing.assert_allclose(values, other["cells"][name], rtol=0, atol=1e-4, err_msg=name)
    for stage, key in (
        ("simulate", "td_updates"),
        ("evaluate", "td_updates"),
        ("evaluate", "imitator_steps"),
    ):
        assert one["stages"][stage][key] == other["stages"][stage][key]
    assert one["verdict"]["questions"].keys() == other["verdict"]["questions"].keys()
    for name, question in one["verdict"]["questions"].items():
        assert question["answer"] == other["verdict"]["questions"][name]["answer"]


@pytest.mark.slow
def test_eight_devices_leave_what_one_does(by_one, tmp_path):
    assert_equal_runs(by_one, by_one_process(tmp_path / "eight", 8))


@pytest.mark.slow
def test_two_processes_of_four_devices_leave_what_one_of_one_does(by_one, tmp_path):
    folder = tmp_path / "two"
    assert codes(start_job(folder)) == [0, 0], said(folder)
    assert_equal_runs(by_one, what_is_left(folder))
    assert not list((folder / "histories").rglob("part_*.json"))
    assert not list((folder / "evaluation").glob("cells_of_process_*"))


@pytest.mark.slow
def test_two_processes_share_each_imitators_batch_and_weights(by_one, tmp_path):
    folder = tmp_path / "two"
    assert codes(start_job(folder, "--set", 'training.shard="fsdp"')) == [0, 0], said(folder)
    assert "imitators over 2 of 8 devices, batches and weights over 4" in said(folder)
    for first, second in zip(by_one["losses"], json.loads((folder / "losses.json").read_text()), strict=True):
        for key in ("train_loss", "held_out_loss"):
            np.testing.assert_allclose(first[key], second[key], rtol=0, atol=2e-5)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_and_they_go_on_together(by_one, tmp_path):
    folder = tmp_path / "two"
    save = ("--resume", "--save-every-seconds", 0, "--save-every-steps", 1)
    job = start_job(folder, *save)
    until = time.monotonic() + 120
    while not list((folder / "resume").glob("*/*/*/*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(job[1].pid, signal.SIGTERM)
    assert codes(job) == [143, 143], said(folder)
    alone = subprocess.run(command(folder, "--resume"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert alone.returncode == 2
    assert "was left by a job of 2, and this one is of 1" in alone.stderr
    assert codes(start_job(folder, *save)) == [0, 0], said(folder)
    assert_equal_runs(by_one, what_is_left(folder))
