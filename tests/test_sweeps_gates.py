"""A gate is run once for all points of a sweep that have the same one, and each point keeps it whole."""

import dataclasses
import json
import shutil
import threading
import time

import filelock
import pytest

from cl_imitate import aside
from cl_imitate.interruption import InterruptedRunError, Notice
from cl_imitate.keeper import Schedule
from cl_imitate.stages.corridor import STAGE_FUNCTIONS, run_all
from cl_imitate.stages.run import gate_run, open_stage_run
from cl_imitate.sweeps import gates
from cl_imitate.sweeps.axes import load_points
from cl_imitate.sweeps.folder import open_sweep
from cl_imitate.sweeps.sweep import Request, run_sweep
from tests.test_resume import SMOKE, Countdown, artifacts, differences
from tests.test_sweeps import SMALLER

pytestmark = pytest.mark.unoptimised

AXES = """
[gate]
experiment = "own_gate.toml"
[sweep]
combine = "zip"
[sweep.axes]
seed = [0, 0, 3]
"training.learning_rate" = [1e-3, 3e-3, 1e-3]
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "swept.toml"
    last = dict(one.split("=", 1) for one in SMALLER)  # a file may give a value once
    smaller = "\n".join(f"{key} = {value}" for key, value in last.items())
    (tmp_path / "own_gate.toml").write_text(f'base = "{SMOKE}"\nname = "own_gate"\n{smaller}\n')
    path.write_text(f'base = "{SMOKE}"\nname = "swept"\n{AXES}')
    return path


@pytest.fixture
def points(config):
    """A sweep, and the runs of its points, none begun; the first two differ in nothing that their gate knows."""
    sweep = open_sweep(
        config.parent / "sweep", load_points(config), name="swept", origin=config.parent, resume=False
    )
    runs = [
        open_stage_run(sweep.experiment(name), sweep.run_path(name), sweep.origin) for name in sweep.names
    ]
    return sweep, runs


def run_gate(run):
    """As the corridor leaves a gate, with little in it."""
    gate = gate_run(run)
    for stage in ("simulate", "train", "evaluate"):
        with gate.folder.stage(stage) as facts:
            (gate.path / stage).write_text("measured")
            facts |= {"frozen": True, "td_updates": 7, "seconds": 20.0, "compile_seconds": 3.0}
    (gate.path / "evaluation").mkdir()
    (gate.path / "evaluation" / "cells.npz").write_bytes(b"cells")
    STAGE_FUNCTIONS["gate"](run)


def test_a_gate_that_another_point_has_run_is_copied_whole_and_says_whose_it_is(points):
    sweep, runs = points
    run_gate(runs[0])
    gates.share(runs[1], sweep)
    copied = gate_run(runs[1])
    assert all(copied.folder.is_done(stage) for stage in ("simulate", "train", "evaluate"))
    assert (copied.path / "train").read_text() == "measured"
    assert copied.folder.manifest["copied_from"] == sweep.names[0]
    assert "copied_from" not in gate_run(runs[0]).folder.manifest


def test_what_a_gate_took_counts_for_the_point_that_ran_it(points):
    sweep, runs = points
    run_gate(runs[0])
    gates.share(runs[1], sweep)
    STAGE_FUNCTIONS["gate"](runs[1])
    first, second = (run.folder.manifest["stages"]["gate"] for run in runs[:2])
    spent = {"seconds": 60.0, "compile_seconds": 9.0, "td_updates": 21}
    assert spent.items() <= first.items()
    assert second["copied"] == spent
    assert (second["seconds"], second["compile_seconds"], second["td_updates"]) == (0, 0, 0)
    assert second["copied_from"] == sweep.names[0]
    assert second["frozen"] == first["frozen"]
    assert second["fingerprint"] == first["fingerprint"]


@pytest.mark.parametrize("lost", [".", "manifest.json", "evaluation/cells.npz", None])
def test_a_gate_that_is_done_by_its_point_s_word_only_is_not_copied(points, lost):
    sweep, runs = points
    run_gate(runs[0])
    gate = gate_run(runs[0])
    if lost is None:  # begun anew
        gate.folder.forget("evaluate")
    else:
        aside.remove(gate.path / lost)
    gates.share(runs[1], sweep)
    assert {path.name for path in runs[1].path.iterdir()} == {"config.toml", "manifest.json"}


@pytest.mark.parametrize("fails", [True, False], ids=["with an error", "silently"])
def test_a_gate_that_goes_while_it_is_copied_is_not_there(points, monkeypatch, fails):
    sweep, runs = points
    run_gate(runs[0])
    copytree = shutil.copytree

    def cut_off(source, there):
        aside.remove(source / "evaluation")
        copytree(source, there)
        if fails:
            raise shutil.Error([("evaluation", "there", "no such file")])

    monkeypatch.setattr(shutil, "copytree", cut_off)
    gates.share(runs[1], sweep)
    assert not (runs[1].path / "gate").exists()


def test_who_comes_to_a_gate_while_it_is_run_waits_and_copies(points):
    sweep, runs = points
    others = threading.Thread(target=lambda: take_turn(runs[1], sweep))
    with gates.turn(runs[0], sweep):
        others.start()
        time.sleep(0.2)
        with gates.turn(runs[2], sweep):  # another gate
            pass
        run_gate(runs[0])
    others.join()
    assert gate_run(runs[1]).folder.manifest["copied_from"] == sweep.names[0]


def take_turn(run, sweep):
    with gates.turn(run, sweep):
        gates.share(run, sweep)


def test_who_waits_for_a_gate_heeds_a_notice_to_stop(points, monkeypatch):
    sweep, runs = points
    monkeypatch.setattr(gates, "_POLL_SECONDS", 0.01)
    told = dataclasses.replace(runs[1], schedule=Schedule(notice=Countdown(3)))
    with gates.turn(runs[0], sweep), pytest.raises(InterruptedRunError), gates.turn(told, sweep):
        pass
    with gates.turn(told, sweep):  # nobody is at it now
        pass


def test_where_there_are_no_locks_nobody_waits_for_ever(points, monkeypatch):
    sweep, runs = points
    monkeypatch.setattr(gates, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(gates.filelock, "FileLock", filelock.SoftFileLock)
    with gates.turn(runs[0], sweep), gates.turn(runs[1], sweep):
        run_gate(runs[0])
    assert runs[0].folder.is_done("gate")


def test_another_seed_has_a_gate_of_its_own_and_so_has_who_began_it(points):
    sweep, runs = points
    run_gate(runs[0])
    gates.share(runs[2], sweep)
    assert not (runs[2].path / "gate").exists()
    begun = gate_run(runs[1])
    gates.share(runs[1], sweep)
    assert begun.folder.manifest["stages"] == {}


def test_a_gate_under_way_is_not_copied(points):
    sweep, runs = points
    with gate_run(runs[0]).folder.stage("simulate"):
        gates.share(runs[1], sweep)
    assert not (runs[1].path / "gate").exists()


def test_a_kill_in_the_middle_of_a_copy_leaves_none(points, monkeypatch):
    sweep, runs = points
    run_gate(runs[0])

    def cut_off(source, there):
        there.mkdir()
        shutil.copy(source / "manifest.json", there)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            gates.share(runs[1], sweep)
    assert not (runs[1].path / "gate").exists()
    gates.share(runs[1], sweep)
    assert gate_run(runs[1]).folder.is_done("evaluate")
    assert {path.name for path in runs[1].path.iterdir()} == {"config.toml", "manifest.json", "gate"}


@pytest.mark.slow
def test_a_point_with_a_copied_gate_is_bit_for_bit_what_it_is_alone(config):
    asked = Request(config=config, overrides=SMALLER, folder=config.parent / "sweep")
    sweep = run_sweep(asked, Notice())
    first, second, other = (
        json.loads((sweep.run_path(name) / "manifest.json").read_text())["stages"]["gate"]
        for name in sweep.names
    )
    assert second["copied_from"] == sweep.names[0]
    assert "copied_from" not in first | other
    assert second["fingerprint"] == first["fingerprint"] != other["fingerprint"]
    name = sweep.names[1]
    run = open_stage_run(sweep.experiment(name), config.parent / "alone", sweep.origin)
    run_all(run)
    copied, alone = artifacts(sweep.run_path(name)), artifacts(run.path)
    gate = copied["stages"]["gate"]
    assert gate.pop("copied_from") == sweep.names[0]
    ran = gate.pop("copied")["td_updates"]
    assert gate["td_updates"] == 0
    gate["td_updates"] = ran  # what it took is another's, and so in the verdict's count
    copied["verdict.json"]["td_steps"] += ran
    assert differences(copied, alone) == []
