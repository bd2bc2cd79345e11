"""The scripts that measure. (scripts/test and scripts/quickstart are what installs and runs all this.)"""

import argparse
import importlib.util
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.unoptimised

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def minatar():
    return load("reproduce_minatar")


@pytest.mark.parametrize("chunk", [1, 3, 7, 30])
def test_episodes_are_the_same_however_frames_are_chunked(minatar, chunk):
    rng = np.random.default_rng(0)
    reward, done = rng.integers(-1, 3, (2, 30)).astype(np.int8), rng.random((2, 30)) < 0.2
    episodes = minatar.Episodes(2)
    for start in range(0, 30, chunk):
        episodes.add(reward[:, start : start + chunk], done[:, start : start + chunk])
    for i in range(2):
        ends = np.flatnonzero(done[i]) + 1
        expected = [part.sum() for part in np.split(reward[i].astype(float), ends)[:-1]]
        assert episodes.ends[i] == ends.tolist()
        assert episodes.returns[i] == expected


def test_a_point_is_the_mean_of_the_last_hundred_episodes(minatar):
    ends, returns = list(range(10, 2010, 10)), [float(i) for i in range(200)]
    assert minatar._at(2000, ends, returns) == np.mean(returns[100:])
    assert minatar._at(35, ends, returns) == 1.0
    assert np.isnan(minatar._at(5, ends, returns))


SIZES = (
    "learner.learning_starts_steps=50",
    "learner.replay_capacity=200",
    "learner.target_period_updates=50",
    "learner.batch_size=4",
    "learner.hidden=[8]",
    "learner.conv_features=2",
)


def test_the_curve_goes_on_from_where_it_was_stopped(minatar, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(minatar, "CHUNK_STEPS", 50)
    monkeypatch.setattr(minatar, "SAVE_EVERY_STEPS", 200)
    monkeypatch.setattr(minatar, "PUBLISHED", {"breakout": {400: 0.5}})
    monkeypatch.setattr(minatar, "ACCEPTED", {"breakout": {400: (0.0, 2.0)}})
    monkeypatch.setattr(minatar.block_size, "measure", lambda *_, **__: {1: 1.0})

    def curve(folder, frames, *more):
        sizes = [word for size in SIZES for word in ("--set", size)]
        argv = [
            "x",
            "--games",
            "breakout",
            "--learners",
            "2",
            "--frames",
            str(frames),
            "--folder",
            str(folder),
        ]
        monkeypatch.setattr(sys, "argv", argv + sizes + list(more))
        minatar.main()
        printed = capsys.readouterr().out.splitlines()
        return [json.loads(line) for line in printed if line.startswith("{")]

    whole = curve(tmp_path / "whole", 400)
    assert curve(tmp_path / "parts", 300) == []  # which is no published point
    assert curve(tmp_path / "parts", 400) == whole
    assert whole[0]["inside"] is True
    (
        tmp_path / "parts" / "breakout_2" / "step_450"
    ).mkdir()  # as a kill between snapshot and record leaves it
    assert curve(tmp_path / "parts", 450) == whole
    with pytest.raises(SystemExit, match="another configuration"):
        curve(tmp_path / "parts", 450, "--set", "learner.discount=0.9")
    assert (tmp_path / "parts" / "curves.png").stat().st_size > 5000
    for snapshot in (tmp_path / "whole" / "breakout_2").glob("step_*"):
        shutil.rmtree(snapshot)
    assert curve(tmp_path / "whole", 400) == whole  # done: drawn from its episodes alone


@pytest.mark.parametrize("game", ["breakout", "space_invaders", "asterix", "freeway"])
def test_every_game_has_a_configuration_at_its_published_step_size(minatar, game):
    experiment = minatar._experiment(game, argparse.Namespace(learners=3, set=[]))
    assert experiment.environment.game == game
    assert experiment.learner.learning_rate == minatar.STEP_SIZE[game]
    assert experiment.simulation.num_recorded == 3


def test_the_benchmark_counts_the_work_of_an_update():
    bench = load("bench_simulate")
    forward = 2 * 32 * (64 * 36 * 16 + 1024 * 128 + 128 * 6)
    assert bench.flop_per_update("breakout") == 4 * forward
    assert bench._core_counts(type("A", (), {"learners": [1, 8, 32]}), 2) == [1, 2]


def test_a_loss_is_the_last_of_every_seed_by_context():
    curves = [
        {"context_steps": 32, "held_out_loss": [[2.0, 1.0], [2.0, 1.5]]},
        {"context_steps": 64, "held_out_loss": [[2.0, 0.5], [2.0, 0.5]]},
    ]
    assert load("scaling").losses(curves) == {32: (1.25, [1.0, 1.5]), 64: (0.5, [0.5, 0.5])}


def test_a_learner_that_always_falls_does_not_solve_cart_pole(monkeypatch, capsys):
    script = load("solve_cart_pole")
    sizes = (
        "evaluation.fork_steps=[64]",
        "evaluation.now_fork_step=64",
        "evaluation.later_fork_step=64",
        "evaluation.block_steps=32",
        "evaluation.now_steps=32",
        "evaluation.later_steps=64",
        "environment.max_episode_steps=40",
        "learner.learning_starts_steps=32",
        "learner.replay_capacity=64",
        "learner.batch_size=4",
        "learner.hidden=[4]",
        "simulation.num_recorded=2",
        "simulation.block_size=1",
        "simulation.chunk_steps=32",
    )
    monkeypatch.setattr(sys, "argv", ["x", *(word for size in sizes for word in ("--set", size))])
    script.main()
    *learners, everyone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["learner"] for one in learners] == [0, 1]
    assert all(5 < mean <= 40 for one in learners for mean in one["greedy_means"])
    assert [len(one["greedy_means"]) for one in learners] == [2, 2]  # at each chunk: there are only two
    assert [one["solved_at"] for one in learners] == [None, None]
    assert (everyone["learners"], everyone["solved"], everyone["steps"]) == (2, 0, 64)
    monkeypatch.setattr(script, "SOLVED", 5.0)
    script.main()
    *learners, everyone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["solved_at"] for one in learners] == [32, 32]
    assert (everyone["solved"], everyone["solved_at_end"]) == (2, 2)


def test_what_saving_costs_is_summed_over_stages():
    script = load("resume_costs")
    rows = [
        {"seconds": 100.0, "saves": 2, "seconds_a_save": 1.0},
        {"seconds": 300.0, "saves": 6, "seconds_a_save": 3.0},
        {"seconds": 100.0, "saves": 0, "seconds_a_save": None},
    ]
    told = script.whole(rows)
    assert (told["seconds"], told["saves"], told["share"]) == (500.0, 8, 0.04)
    assert told["share_every_300_s_by_what_a_save_took"] == pytest.approx(2.5 / 300, abs=1e-5)


@pytest.mark.slow
def test_a_killed_stage_tells_what_its_saves_took_and_when_it_went_on(tmp_path, monkeypatch):
    script = load("resume_costs")
    smoke = SCRIPTS.parent / "configs" / "smoke.toml"
    monkeypatch.setattr(script, "CONFIG", smoke)
    row = script.kill_once(tmp_path / "run", "simulate", load("kill_runs").TINY, every=0.001)
    assert row["killed_and_went_on"]
    assert row["saves"] > 1
    assert 0 < row["seconds_a_save"] * row["saves"] < row["seconds"]
    assert len(row["seconds_to_first_steps"]) == 1
    assert row["seconds_to_first_steps"][0] > 0.5


def test_the_needed_context_script_tells_a_slower_learner_from_more_to_know(monkeypatch, capsys, tmp_path):
    """The break follows the ring alone: PROCESS is yes from 16 steps a position on."""
    script = load("needed_context")

    def ask(arguments, learner, size):
        changes = script.POINTS[learner]
        ring = changes.get("environment.num_positions", 8)
        tau = 25.0 * ring * 2e-3 / changes.get("learner.learning_rate", 2e-3)
        is_open = learner == "ring of 16"
        answer = "yes" if size >= (400 if is_open else 16 * ring) else "no"
        return {"answer": answer, "tau_steps": tau, "converged": not is_open}

    monkeypatch.setattr(script, "_ask", ask)
    monkeypatch.setattr(sys, "argv", ["needed_context", "--folder", str(tmp_path)])
    script.main()
    printed = [json.loads(row) for row in capsys.readouterr().out.splitlines() if row.startswith("{")]
    learners, lines = printed[:-2], {one["line"]: one for one in printed[-2:]}
    assert {one["learner"]: one["needed"] for one in learners}["ring of 12"] == [128, 192]
    assert [one["learner"] for one in learners if one["is_open"]] == ["ring of 16"]
    assert lines["over all learners"]["num"] == len(learners) - 1 == len(script.POINTS) - 1
    assert abs(lines["one ring, the learner slowed"]["slope"]) < 0.01 < lines["over all learners"]["slope"]
    assert (tmp_path / "needed_transformer.png").exists()
