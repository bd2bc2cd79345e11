"""A fork goes on with another run's learners, bit for bit, and leaves what they lived where it is."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

from cl_imitate import checkpoint, cli, config, load_config, populations
from cl_imitate.disk_use import num_bytes
from cl_imitate.evaluation import frozen, results
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.keeper import Schedule
from cl_imitate.stages import forking
from cl_imitate.stages.artifacts import load_history, load_snapshot, open_history, snapshot_path
from cl_imitate.stages.corridor import STAGE_FUNCTIONS
from cl_imitate.stages.evaluating import evaluate_stage
from cl_imitate.stages.run import Run, open_stage_run
from cl_imitate.stages.simulating import simulate_stage
from cl_imitate.stages.training import train_stage
from tests.test_resume import SMOKE, TINY, Countdown
from tests.test_scripts import load

pytestmark = pytest.mark.unoptimised

run_artifacts = load("run_artifacts")
NAMES = ("recorded", "held_out")
TO_64 = ("evaluation.fork_steps=[64]", "evaluation.now_fork_step=64", "evaluation.rungs=[]")
TO_128 = ("evaluation.fork_steps=[64, 128]", "evaluation.now_fork_step=128")
TO_192 = ("evaluation.fork_steps=[64, 192]", "evaluation.now_fork_step=192")
# With other rates from 64 on, every arm has to start there or later.
FROM_64 = (*TO_128, "evaluation.stage_steps=[64]", "gate.experiment=gate.toml")


def made(path, *overrides) -> Run:
    run = open_stage_run(load_config.load(SMOKE, (*TINY, *overrides)), path, SMOKE.parent)
    simulate_stage(run)
    return run


def forked(path, parent: Run, *overrides, at=64, **options) -> Run:
    experiment, found = forking.fork_of(parent.path, at, overrides)
    run = open_stage_run(experiment, path, SMOKE.parent, **options)
    forking.name_parent(run, found)
    return run


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Run:
    return made(tmp_path_factory.mktemp("runs") / "parent", *TO_64)


@pytest.fixture(scope="module")
def longer(tmp_path_factory) -> Run:
    """What the parent would have been, had it been recorded for twice as long."""
    path = tmp_path_factory.mktemp("runs") / "longer"
    return made(path, *TO_64, *TO_128)


@pytest.fixture(scope="module")
def fork(tmp_path_factory, parent) -> Run:
    run = forked(tmp_path_factory.mktemp("runs") / "fork", parent, *TO_128)
    simulate_stage(run)
    return run


def history(run, name):
    return load_history(run, name, populations.make(name, run.experiment).family.env.spec)


def assert_same_histories(one: Run, other: Run, start=0, end=None):
    for name in NAMES:
        a, b = history(one, name), history(other, name)
        for field in a.__dataclass_fields__.keys() - {"causes"}:
            np.testing.assert_array_equal(getattr(a, field)[:, start:end], getattr(b, field)[:, start:end])


def snapshot_digest(run, name, step):
    return frozen.digest(load_snapshot(run, populations.make(name, run.experiment), step))


def test_a_fork_lives_what_the_longer_run_lives_bit_for_bit(parent, fork, longer):
    assert_same_histories(fork, longer)
    assert history(fork, "recorded").action.shape == (4, 128)
    for name in NAMES:
        for step in (64, 128):
            assert snapshot_digest(fork, name, step) == snapshot_digest(longer, name, step)
    spent = {run: run.folder.manifest["stages"]["simulate"]["td_updates"] for run in (parent, fork, longer)}
    assert 0 < spent[fork] == spent[longer] - spent[parent]


def test_nothing_that_was_lived_before_is_copied(parent, fork):
    for name in NAMES:
        store = json.loads((fork.path / "histories" / name / "manifest.json").read_text())
        assert (store["num_steps"], store["before"]["steps"]) == (128, 64)
        assert store["before"]["fingerprint"] == parent.folder.fingerprint
        kept = json.loads((parent.path / "histories" / name / "manifest.json").read_text())
        assert store["before"]["shards"] == kept["shards"]
        array = json.loads((fork.path / "histories" / name / "steps.zarr" / "zarr.json").read_text())
        assert array["shape"][1] == 64
    steps = {path.name for path in (fork.path / "checkpoints" / "learners").glob("*/*")}
    assert steps == {"step_128"}


def test_the_joined_store_is_read_in_windows_too(fork, longer):
    spec = populations.make("recorded", fork.experiment).family.env.spec
    one, other = (open_history(run, "recorded", spec) for run in (fork, longer))
    for start, length in ((0, 10), (60, 10), (63, 1), (64, 1), (64, 64), (0, 128), (100, 28)):
        found, expected = one.window(2, start, length), other.window(2, start, length)
        for field in found.__dataclass_fields__.keys() - {"causes"}:
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    with pytest.raises(IndexError, match="128 steps"):
        one.window(0, 100, 29)


@pytest.mark.slow
def test_what_is_trained_and_evaluated_on_a_fork_is_the_longer_run_s_bit_for_bit(fork, longer):
    """Also arms that start before the fork, from the parent's snapshots: PROCESS from birth."""
    for run in (fork, longer):
        train_stage(run)
        evaluate_stage(run)
    train, other = (run.folder.manifest["stages"]["train"] for run in (fork, longer))
    assert train["sha256"] == other["sha256"]
    one, two = (
        results.load_cells(run.path / "evaluation" / "cells.npz", fingerprint=run.folder.fingerprint)
        for run in (fork, longer)
    )
    assert {cell.start_step for cell in one} >= {0, 32, 64, 128}
    for a, b in zip(one, two, strict=True):
        assert a.name == b.name
        for arm in a.returns:
            np.testing.assert_array_equal(a.returns[arm], b.returns[arm])


def test_a_fork_that_is_stopped_everywhere_ends_as_one_that_is_not(tmp_path, parent, fork):
    stops = 0
    while True:
        schedule = Schedule(every_seconds=0.0, notice=Countdown(3))
        run = forked(tmp_path / "stopped", parent, *TO_128, schedule=schedule)
        try:
            simulate_stage(run)
            break
        except InterruptedRunError:
            stops += 1
    assert stops == 2
    assert_same_histories(run, fork)
    told = run.folder.manifest
    assert (
        told["stages"]["simulate"]["td_updates"] == fork.folder.manifest["stages"]["simulate"]["td_updates"]
    )
    assert told["stages"]["simulate"]["attempts"] == stops + 1
    assert len(told["continued"]) == stops
    assert not any(one["bits_may_differ"] for one in told["continued"])


def test_learners_take_their_new_rates_from_the_fork_on(tmp_path, parent, fork):
    run = forked(tmp_path / "run", parent, *FROM_64, "learner.learning_rate=0.05", "learner.epsilon_end=0.5")
    assert run.experiment.fork == config.Fork(
        parent_fingerprint=parent.folder.fingerprint, step=64, rates_since=64
    )
    simulate_stage(run)
    assert_same_histories(run, fork, end=64)
    ours, unchanged = history(run, "recorded"), history(fork, "recorded")
    assert (ours.action[:, 64:] != unchanged.action[:, 64:]).any()
    assert ours.explored[:, 64:].mean() > 2 * ours.explored[:, :64].mean()


def test_a_fork_of_a_fork_reads_through_both(tmp_path, parent, fork):
    grandchild = forked(tmp_path / "grandchild", fork, *TO_192, at=128)
    simulate_stage(grandchild)
    whole = made(tmp_path / "whole", *TO_64, *TO_192)
    assert_same_histories(grandchild, whole)
    assert snapshot_digest(grandchild, "held_out", 192) == snapshot_digest(whole, "held_out", 192)
    assert snapshot_digest(grandchild, "held_out", 0) == snapshot_digest(parent, "held_out", 0)
    with pytest.raises(ValueError, match=rf"is a fork itself, from step 64 on. Fork .*{parent.path.name}"):
        forking.fork_of(fork.path, 32, TO_128)


def test_a_fork_that_only_looks_again_lives_nothing(tmp_path, parent):
    """Another imitator on the same lives."""
    run = forked(tmp_path / "run", parent, "imitator.width=8")
    simulate_stage(run)
    assert run.folder.manifest["stages"]["simulate"]["td_updates"] == 0
    assert_same_histories(run, parent)
    assert num_bytes(run.path / "checkpoints") == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "cannot change seed = 1 (there 0)"),
        ("environment.num_positions=5", "cannot change environment.num_positions = 5 (there 4)"),
        ("shapes.num_states=17", "cannot change shapes.num_states = 17"),
        ("learner.hidden=[8]", "cannot change learner.hidden = (8,)"),
        ("learner.replay_capacity=64", "cannot change learner.replay_capacity = 64"),
        ("learner.double_q=true", "cannot change learner.double_q = True"),
        ("simulation.num_recorded=5", "cannot change simulation.num_recorded = 5"),
        ("learner.learning_rate=1e-4", "evaluation.stage_steps starts a learner at step 0"),
        ('training.feed="stream"', 'training.feed = "stream" makes learners from birth'),
        ("evaluation.stage_steps=[0, 16]", "kept no snapshot of its held_out learners at step 16"),
        (
            "evaluation.months=[{start_step=16, later_steps=16}]",
            "recorded 0 steps of its held_out_train_tasks",
        ),
        ("fork.step=3", "this table is written by the command"),
        ("evaluation.fork_stepz=[64]", "did you mean fork_steps?"),
    ],
)
def test_what_would_make_the_past_untrue_is_refused(parent, override, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        forking.fork_of(parent.path, 64, (*TO_128, "training.stream_learners=2", override))


def test_rungs_need_learners_that_had_the_rates_from_birth(parent):
    rung = 'evaluation.rungs=[{rung="1", name="unseen task"}]'
    rate = "learner.discount=0.9"
    forking.fork_of(parent.path, 64, (*TO_128, rung))
    forking.fork_of(parent.path, 64, (*FROM_64, rate))
    with pytest.raises(ValueError, match=r"evaluation.rungs \(newborn learners\) starts a learner at step 0"):
        forking.fork_of(parent.path, 64, (*FROM_64, rate, rung))


def test_a_step_without_snapshots_is_refused_with_those_that_have_some(parent):
    with pytest.raises(ValueError, match=r"recorded learners at step 32, where the fork begins.*: 64\.$"):
        forking.fork_of(parent.path, 32, TO_128)
    with pytest.raises(ValueError, match="recorded 64 steps of its recorded learners; a fork at step 128"):
        forking.fork_of(parent.path, 128, TO_128)
    with pytest.raises(ValueError, match="--at 0"):
        forking.fork_of(parent.path, 0, TO_128)
    with pytest.raises(ValueError, match=r"all end before the step that this fork starts at, 64"):
        forking.fork_of(
            parent.path,
            64,
            ("evaluation.fork_steps=[48]", "evaluation.now_fork_step=48", "evaluation.later_fork_step=48"),
        )


def test_every_field_of_a_learner_and_of_who_lives_is_a_rate_or_fixed(parent):
    lived = forking._lived_with(parent.experiment)
    for table, free in (("learner", forking.RATES), ("simulation", forking._FREE_OF_SIMULATION)):
        for field in dataclasses.fields(getattr(parent.experiment, table)):
            assert (f"{table}.{field.name}" in lived) != (field.name in free)


def test_the_fingerprint_covers_parent_and_step_and_leaves_other_runs_as_they_were(parent, fork):
    changed = [
        dataclasses.replace(fork.written, fork=dataclasses.replace(fork.written.fork, **change))
        for change in ({"step": 63}, {"parent_fingerprint": "0" * 64}, {"rates_since": 1})
    ]
    assert len({load_config.fingerprint(one) for one in [fork.written, *changed]}) == 4
    unforked = dataclasses.replace(fork.written, fork=None)
    text = json.dumps(
        {name: value for name, value in dataclasses.asdict(unforked).items() if name != "fork"},
        sort_keys=True,
        separators=(",", ":"),
    )
    assert load_config.fingerprint(unforked) == hashlib.sha256(text.encode()).hexdigest()
    assert load_config.load(fork.path / "config.toml") == fork.written


@pytest.fixture
def family(tmp_path, parent, fork):
    """Copies of both, the fork knowing the copied parent."""
    for run in (parent, fork):
        shutil.copytree(run.path, tmp_path / run.path.name)
    copied = open_stage_run(fork.written, tmp_path / "fork", SMOKE.parent)
    copied.folder.note(parent={**fork.folder.manifest["parent"], "path": str(tmp_path / "parent")})
    assert_same_histories(copied, fork)
    return tmp_path / "parent", copied


def test_a_parent_that_is_gone_is_named_with_the_fix_and_can_be_named_again(family, fork):
    path, copied = family
    moved = path.rename(path.with_name("moved"))
    with pytest.raises(ValueError, match=rf"{path}/manifest.json cannot be read.*--parent NEW_PATH"):
        history(copied, "recorded")
    shutil.copytree(copied.path, path)
    with pytest.raises(ValueError, match=r"holds a run with the fingerprint .* Name that one: --parent"):
        history(copied, "recorded")
    forking.name_parent(copied, forking.open_finished(moved))
    assert_same_histories(copied, fork)


def test_an_altered_history_of_the_parent_is_seen(family):
    path, copied = family
    shard = next(
        file for file in (path / "histories" / "recorded").rglob("*") if file.parent.parent.parent.name == "c"
    )
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(ValueError, match=f"{shard} was altered") as seen:
        history(copied, "recorded")
    assert f"--run-dir {path}" in str(seen.value)


def test_a_history_of_the_parent_that_was_made_again_otherwise_is_seen(family):
    """Whole in itself, with checksums that fit, but not what the fork goes on from."""
    path, copied = family
    manifest = path / "histories" / "recorded" / "manifest.json"
    content = json.loads(manifest.read_text())
    name = next(name for name in content["shards"] if "/c/" in name)
    content["shards"][name]["sha256"] = "0" * 64
    told = copied.path / "histories" / "recorded" / "manifest.json"
    ours = json.loads(told.read_text())
    ours["before"]["shards"][name]["sha256"] = "1" * 64
    told.write_text(json.dumps(ours))
    with pytest.raises(ValueError, match=rf"{path}/histories/recorded/{name} is not what it was when"):
        history(copied, "recorded")


def test_an_altered_snapshot_of_the_parent_is_seen(family, parent):
    path, copied = family
    population = populations.make("held_out", parent.experiment)
    other = Run(parent.written, dataclasses.replace(parent.folder, path=path), SMOKE.parent)
    snapshot = load_snapshot(parent, population, 64)
    shutil.rmtree(snapshot_path(other, "held_out", 64))
    with pytest.raises(ValueError, match="step_64 cannot be read"):
        load_snapshot(copied, population, 64)
    rows = snapshot.learner.rows.at[0, 0, 0].add(1)
    altered = snapshot.replace(learner=snapshot.learner.replace(rows=rows))
    checkpoint.save(snapshot_path(other, "held_out", 64), altered)
    with pytest.raises(
        ValueError, match=r"held_out/step_64 is not what it was when .*fork was forked from there"
    ):
        load_snapshot(copied, population, 64)


def main(monkeypatch, *arguments):
    monkeypatch.setattr(cli, "set_up_jax", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["cl-imitate", *map(str, arguments)])
    cli.main()


def test_the_command_makes_a_fork_runs_it_and_goes_on_with_it(tmp_path, parent, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = []
    for name in STAGE_FUNCTIONS:
        if name != "simulate":
            monkeypatch.setitem(STAGE_FUNCTIONS, name, lambda run, name=name: done.append((name, run.path)))
    overrides = [word for value in TO_128 for word in ("--set", value)]
    main(monkeypatch, "fork", parent.path, "--at", 64, *overrides)
    path = pathlib.Path("runs", "smoke-fork-64")
    assert done == [(name, path) for name in ("train", "evaluate", "report")]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["parent"]["path"] == str(parent.path)
    assert set(manifest["parent"]["snapshots"]["held_out"]) == {"0", "32", "64"}
    assert f"a fork: its learners come from {parent.path}" in capsys.readouterr().out.replace("\n", "")
    with pytest.raises(SystemExit) as refused:
        main(monkeypatch, "fork", parent.path, "--at", 64, *overrides)
    assert refused.value.code == 2
    assert "Add --resume" in capsys.readouterr().err
    main(monkeypatch, "fork", parent.path, "--at", 64, *overrides, "--resume")
    # from its config alone: somewhere else, the parent has to be named
    with pytest.raises(SystemExit):
        main(monkeypatch, "simulate", path / "config.toml", "--run-dir", "elsewhere")
    assert "Name its folder: --parent RUN" in capsys.readouterr().err
    assert not pathlib.Path("elsewhere").exists()
    main(monkeypatch, "simulate", path / "config.toml", "--run-dir", "elsewhere", "--parent", parent.path)
    experiment = load_config.load(path / "config.toml")
    one, other = (
        open_stage_run(experiment, folder, SMOKE.parent) for folder in (path, pathlib.Path("elsewhere"))
    )
    assert_same_histories(one, other)
    with pytest.raises(SystemExit):
        main(monkeypatch, "train", SMOKE, "--run-dir", "elsewhere", "--parent", parent.path)
    assert "is no fork" in capsys.readouterr().err
