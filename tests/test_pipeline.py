"""configs/smoke.toml through every stage, and what a person can do with its folder afterwards."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import cl_imitate.cli
from cl_imitate import checkpoint, load_config, populations
from cl_imitate.disk_use import disk_use
from cl_imitate.evaluation import protocols, results
from cl_imitate.evaluation.imitator_arms import frozen_name
from cl_imitate.histories import store
from cl_imitate.imitators.make import make_imitator
from cl_imitate.stages.artifacts import digests, imitator_keys, load_frozen
from cl_imitate.stages.corridor import STAGE_FUNCTIONS, gate_stage, run_all
from cl_imitate.stages.evaluating import evaluate_stage
from cl_imitate.stages.reporting import report_stage
from cl_imitate.stages.run import Run, check_runnable, open_stage_run
from tests.test_scripts import load

pytestmark = pytest.mark.unoptimised

without_times = load("run_artifacts").without_times

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = ROOT / "configs" / "smoke.toml"


def cli(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "cl_imitate", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def refused(monkeypatch, capsys):
    """What a command says that is refused, in this process: one of its own takes seconds to begin."""

    def refusal(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["cl-imitate", *map(str, arguments)])
        monkeypatch.setattr(cl_imitate.cli, "set_up_jax", lambda *_: None)  # it is, and cannot be again
        with pytest.raises(SystemExit) as ended:
            cl_imitate.cli.main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        return said

    return refusal


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    experiment = load_config.load(SMOKE)
    check_runnable(experiment, SMOKE.parent)
    run = open_stage_run(experiment, tmp_path_factory.mktemp("runs") / "smoke", SMOKE.parent)
    run_all(run)
    return run


@pytest.fixture(scope="module")
def verdict(run) -> dict:
    return json.loads((run.path / "verdict.json").read_text())


def cells(run) -> list[results.Cell]:
    return results.load_cells(run.path / "evaluation" / "cells.npz", fingerprint=run.folder.fingerprint)


def test_every_stage_leaves_its_artifact(run):
    expected = ("config.toml", "manifest.json", "metrics.jsonl", "verdict.json", "report/index.html")
    assert all((run.path / name).is_file() for name in expected)
    assert set(run.folder.manifest["stages"]) == {"simulate", "train", "evaluate", "report"}
    assert load_config.load(run.path / "config.toml") == run.written


def test_the_verdict_has_every_key_that_is_promised(run, verdict):
    top = {
        "schema",
        "fingerprint",
        "void",
        "not_run",
        "gate",
        "frozen",
        "training",
        "questions",
        "seconds",
        "td_steps",
    }
    assert top | {"imitator_steps", "rules"} <= set(verdict)
    assert verdict["fingerprint"] == run.folder.fingerprint
    gate = {"passed", "imitator_gain", "wiped_gain", "fraction_of_tasks_above_half"}
    assert gate <= set(verdict["gate"])
    assert set(verdict["questions"]) == {"now", "month", "process", "later", "elsewhere"}
    for question in verdict["questions"].values():
        assert {"answer", "predicted", "estimate", "ci95", "rule"} <= set(question)
    stage, fork, rung = (
        verdict["questions"][name][part][0]
        for name, part in (("process", "stages"), ("later", "forks"), ("elsewhere", "rungs"))
    )
    assert {"stage_step", "learner_gain", "ratio", "pace", "ci95", "answer"} <= set(stage)
    assert {"fork_step", "now_ratio", "learner_gain", "ratio", "ci95", "answer"} <= set(fork)
    assert {"rung", "name", "learner_gain", "recovered", "ci95", "answer"} <= set(rung)
    assert set(verdict["seconds"]) == {"simulate", "train", "evaluate"}


def test_weights_were_frozen_and_what_was_evaluated_is_what_was_trained(run, verdict):
    assert verdict["frozen"]["sha256_before"] == verdict["frozen"]["sha256_after"]
    done = run.folder.manifest["stages"]
    assert verdict["frozen"]["sha256_before"] == done["train"]["sha256"]
    assert 0 < sum(facts["compile_seconds"] for facts in done.values()) < sum(verdict["seconds"].values())
    assert len(set(verdict["frozen"]["sha256_before"].values())) == 4  # two contexts, two forks


def test_every_arm_of_every_protocol_is_there_with_every_learner_seed_and_block(run):
    found = {}
    for cell in cells(run):
        found.setdefault(cell.protocol, set()).update(cell.returns)
        num_seeds = run.experiment.training.num_seeds
        for arm, values in cell.returns.items():
            seeds = num_seeds if arm.startswith("imitator") else 1
            assert values.shape == (seeds, 4, cell.num_blocks), (cell.name, arm)
            if arm != "learner_held":
                assert np.isfinite(values).all(), (cell.name, arm)
    frozen = {"imitator", "imitator_argmax", "random"}
    line = {"window"}
    wiped = {"imitator_wiped"}
    assert found == {
        "process": frozen | {"learner", "learner_held", "imitator_masked"} | wiped | line,
        "now": frozen | {"learner_held"} | wiped | line,
        "later": frozen | {"learner", "learner_held"} | wiped | line,
        "month": frozen | {"learner_held"},
        "elsewhere": frozen
        | wiped
        | line  # on the rungs that are Locks
        | {"learner", "learner_held", "learner_transplanted", "imitator_prompted"},
    }


def test_returns_lie_between_nothing_and_the_optimum(run):
    for cell in cells(run):
        for arm, values in cell.returns.items():
            assert np.nanmin(values) >= 0, (cell.name, arm)
            assert (np.nanmax(values, axis=(0, 2)) <= cell.optimal_return + 1e-6).all(), (cell.name, arm)
        assert (cell.random_return <= cell.ceiling_return).all()
        assert (cell.ceiling_return <= cell.optimal_return).all()


def test_the_stored_histories_name_the_keys_of_their_learners(run):
    for name in ("recorded", "held_out"):
        manifest = json.loads((run.path / "histories" / name / "manifest.json").read_text())
        own = jax.random.key_data(populations.make(name, run.experiment).learner_keys)
        np.testing.assert_array_equal(manifest["learner_key_data"], own)


def test_the_stored_histories_go_on_from_the_stored_snapshots(run):
    """A held-out learner's snapshot, restored, lives exactly the steps that its history recorded after it."""
    from cl_imitate import simulate

    population = populations.make("held_out", run.experiment)
    spec = population.family.env.spec
    recorded = store.open_store(
        run.path / "histories" / "held_out", fingerprint=run.folder.fingerprint, spec=spec
    ).read()
    path = run.path / "checkpoints" / "learners" / "held_out" / "step_32"
    snapshot = checkpoint.load(path, population.abstract())
    [(_, history)] = simulate.advance(
        snapshot,
        population.streams,
        population.env_params,
        population.rates,
        **population.static,
        num_steps=32,
        chunk_steps=32,
    )
    for name in ("obs", "action", "reward", "truncated", "explored"):
        np.testing.assert_array_equal(getattr(history, name), getattr(recorded, name)[:, 32:64])


def test_recorded_and_held_out_learners_share_no_task_and_no_key(run):
    made = {
        name: populations.make(name, run.experiment)
        for name in ("recorded", "held_out", "held_out_train_tasks")
    }
    tables = {
        name: {np.asarray(table).tobytes() for table in population.env_params.next_state}
        for name, population in made.items()
    }
    assert not tables["recorded"] & tables["held_out"]
    assert tables["held_out_train_tasks"] <= tables["recorded"]
    key_data = np.concatenate([jax.random.key_data(population.learner_keys) for population in made.values()])
    assert len(np.unique(key_data, axis=0)) == len(key_data)


def test_recorded_learners_are_kept_whole_at_every_fork(run):
    for step in (64, 128):
        assert (run.path / "checkpoints" / "learners" / "recorded" / f"step_{step}").is_dir()


def test_protocols_keep_what_they_start_from(run):
    steps = protocols.snapshot_steps(run.experiment, "held_out")
    assert set(steps) == {0, 32, 64, 128}
    for step in steps:
        assert (run.path / "checkpoints" / "learners" / "held_out" / f"step_{step}").is_dir()


def test_the_command_line_shows_a_run_and_lists_the_environments(run):
    shown = cli("show", run.path)
    assert shown.returncode == 0, shown.stderr
    assert "NOW" in shown.stdout
    assert "in all" in shown.stdout
    assert f"{disk_use(run.path)['histories']:,}" in shown.stdout
    assert "index.html" in shown.stdout
    listed = cli("envs")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        "lock",
        "dark_room",
        "key_to_door",
        "bandit",
        "random_mdp",
        "cart_pole",
        "minatar",
    ]


def test_a_reader_who_has_seen_enough_ends_a_command_without_a_trace():
    command = [sys.executable, "-m", "cl_imitate", "envs"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.fixture
def copied(run, tmp_path) -> pathlib.Path:
    """The run without its evaluation and report, in a folder of its own."""
    path = tmp_path / "copy"
    shutil.copytree(run.path, path)
    manifest = json.loads((path / "manifest.json").read_text())
    for stage in ("evaluate", "report"):
        manifest["stages"].pop(stage)
    (path / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(path / "report")
    return path


def everything_in(path: pathlib.Path) -> dict[str, bytes]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock"]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", SMOKE, "--run-dir", "{run}"), "holds a run already. Add --resume"),
        (("run", SMOKE, "--run-dir", "{run}", "--resume", "--set", "seed=5"), "another configuration"),
        (("simulate", SMOKE, "--run-dir", "{run}"), "the stage simulate has finished here already"),
        (("report", SMOKE, "--run-dir", "{run}"), "the stage evaluate has not finished here"),
        (("run", SMOKE, "--run-dir", "{run}", "--set", "training.num_seed=2"), "did you mean num_seeds?"),
        (("run", SMOKE, "--run-dir", "{run}", "--set", "shapes.num_states=2"), "shapes.num_states = 2"),
        (("run", "nowhere.toml"), "nowhere.toml is not in"),
        (("run",), "give a config file, or --run-dir"),
        (("show", "{run}/histories"), "is not a run's folder"),
        (("show", "{run}/histories/recorded"), "is not a run's folder"),
        (("gate", SMOKE, "--run-dir", "{run}"), "there is nothing to run for it"),
        (("simulate", SMOKE, "--run-dir", "{run}/histories/recorded"), "is damaged, or not a run's"),
        (("run", SMOKE, "--run-dir", "{run}", "--set", "gate.experiment=no.toml"), "no.toml is not in"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_loses_nothing(copied, refused, arguments, message):
    before = everything_in(copied)
    said = refused(*(str(argument).replace("{run}", str(copied)) for argument in arguments))
    assert message in said
    assert len(said.strip().splitlines()) == 1, said
    assert everything_in(copied) == before


def test_bad_input_is_exit_code_2_of_the_process_too(copied):
    done = cli("report", SMOKE, "--run-dir", copied)
    assert done.returncode == 2, done.stderr
    assert "the stage evaluate has not finished here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_imitators_that_this_run_did_not_train_are_refused(run, copied):
    weights = copied / "checkpoints" / "imitators"
    shutil.rmtree(weights / "context_32")
    spec = populations.make("held_out", run.experiment).family.env.spec
    init = make_imitator(run.experiment.imitator, spec, context_steps=32).init
    like = jax.eval_shape(jax.vmap(init), imitator_keys(run.experiment)[0])
    params = checkpoint.load(run.path / "checkpoints" / "imitators" / "context_32", like)
    checkpoint.save(weights / "context_32", jax.tree.map(lambda leaf: leaf + 1, params))
    other = open_stage_run(run.experiment, copied, SMOKE.parent)
    with pytest.raises(ValueError, match="the weights are not those that this run trained"):
        evaluate_stage(other)


def test_imitators_are_kept_as_they_were_at_their_lowest_held_out_loss_too(run, tmp_path):
    """What the verdict rests on is as the rule says; another rule chooses just what is kept beside it."""
    spec = populations.make("held_out", run.experiment).family.env.spec
    told = run.folder.manifest["stages"]["train"]
    assert told["chosen_by"] == "last"
    curves = {
        frozen_name(one["context_steps"], one["fork_step"]): one
        for one in json.loads((run.path / "losses.json").read_text())
    }
    assert set(told["best_imitators"]) == set(curves)
    for name, best in told["best_imitators"].items():
        losses = np.array(curves[name]["held_out_loss"])
        assert best["held_out_loss"] == losses.min(axis=1).tolist()
        updates = np.array(curves[name]["held_out_update"])
        assert best["update"] == updates[losses.argmin(axis=1)].tolist()
        assert best["on"] == "the evaluation's learners"
    kept = {context: load_frozen(run, spec, context, best=True) for context in (32, 16)}
    rule = ('training.checkpoint_rule="best_validation"', "training.num_validation=4")
    other = load_config.load(SMOKE, (*rule, "imitator.also_context_steps=[]", "training.block_size=4"))
    validated = open_stage_run(other, tmp_path / "validated", SMOKE.parent)
    for name in ("simulate", "train"):
        STAGE_FUNCTIONS[name](validated)
    chosen = validated.folder.manifest["stages"]["train"]
    assert chosen["chosen_by"] == "best_validation"
    assert {best["on"] for best in chosen["best_imitators"].values()} == {"validation learners"}
    own = {32: load_frozen(validated, spec, 32, best=True)}
    assert digests(own) == chosen["sha256"]
    is_last = {
        name: set(best["update"]) == {run.experiment.training.num_updates}
        for name, best in told["best_imitators"].items()
    }
    assert {name: sha == told["sha256"][name] for name, sha in digests(kept).items()} == is_last


def test_a_stage_is_redone_on_request_and_only_then(run, copied, refused):
    assert "Add --again" in refused("train", SMOKE, "--run-dir", copied)
    before = run.folder.manifest["stages"]["train"]["sha256"]
    (copied / "losses.json").unlink()
    done = cli("train", "--run-dir", copied, "--again")
    assert done.returncode == 0, done.stderr
    again = json.loads((copied / "manifest.json").read_text())["stages"]
    assert set(again) == {"simulate", "train"}
    assert again["train"]["sha256"] == before
    assert (copied / "losses.json").exists()


@pytest.mark.parametrize(
    ("stage", "input_file"),
    [
        ("train", "histories/recorded/steps.zarr/c/0/0/0"),
        ("evaluate", "checkpoints/imitators/context_32"),
        ("train", "histories/recorded/manifest.json"),
        ("report", "evaluation/cells.npz"),
        ("report", "losses.json"),
    ],
)
def test_a_stage_that_is_to_be_redone_from_a_damaged_input_loses_nothing(
    run, tmp_path, refused, stage, input_file
):
    path = tmp_path / "copy"
    shutil.copytree(run.path, path)
    if (path / input_file).is_dir():
        shutil.rmtree(path / input_file)
    else:
        (path / input_file).write_bytes(b"damaged")
    before = everything_in(path)
    said = refused(stage, "--run-dir", path, "--again")
    assert str(path / input_file).removesuffix("/0/0/0") in said
    assert re.search(r"Redo it.*--again", said)
    assert "what was there before --again is put back" in said
    assert everything_in(path) == before


def test_a_second_process_on_one_folder_stops_with_an_error(copied):
    held = open_stage_run(load_config.load(SMOKE), copied, SMOKE.parent)
    with held.folder.lock():
        before = everything_in(copied)
        done = cli("run", SMOKE, "--run-dir", copied, "--resume")
        assert done.returncode == 2
        assert "another process is at work in this folder" in done.stderr
        assert everything_in(copied) == before


def test_a_folder_that_is_not_a_run_is_left_alone(tmp_path, refused):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "is not empty and is not a run" in refused("run", SMOKE, "--run-dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_cut_short_goes_on_and_ends_with_the_same_bytes(run, copied):
    """Also: an evaluation that was half done is removed first."""
    (copied / "evaluation" / "cells.npz").write_bytes(b"half a file")
    resumed = open_stage_run(load_config.load(copied / "config.toml"), copied, SMOKE.parent)
    run_all(resumed)
    for one, two in zip(cells(run), cells(resumed), strict=True):
        assert one.name == two.name
        for arm in one.returns:
            np.testing.assert_array_equal(one.returns[arm], two.returns[arm])
    first, second = (json.loads((path / "verdict.json").read_text()) for path in (run.path, copied))
    assert without_times(first) == without_times(second)


def test_breakout_toml_itself_runs_with_tiny_sizes(tmp_path):
    sizes = (
        "learner.learning_starts_steps=16",
        "learner.replay_capacity=128",
        "learner.target_period_updates=8",
        "learner.hidden=[8]",
        "learner.conv_features=2",
        "simulation.num_recorded=2",
        "simulation.num_held_out=2",
        "simulation.block_size=2",
        "imitator.context_steps=16",
        "imitator.width=8",
        "imitator.num_layers=1",
        "imitator.num_heads=1",
        "imitator.conv_features=2",
        "training.num_seeds=2",
        "training.block_size=4",
        "training.num_updates=2",
        "training.batch_size=2",
        "training.evaluate_every_updates=2",
        "training.evaluate_windows=2",
        "evaluation.fork_steps=[32,64]",
        "evaluation.now_fork_step=64",
        "evaluation.later_fork_step=32",
        "evaluation.stage_steps=[0,32]",
        "evaluation.block_steps=16",
        "evaluation.now_steps=16",
        "evaluation.later_steps=32",
        "evaluation.elsewhere_steps=32",
        "evaluation.elsewhere_learners=2",
        "gate.experiment=tiny_gate.toml",
    )
    (tmp_path / "tiny_gate.toml").write_text(  # of the smoke run's shapes: its programs are compiled
        f'base = "{SMOKE}"\nname = "tiny_gate"\n[evaluation]\nmonths = []\nrungs = []\n'
    )
    experiment = load_config.load(ROOT / "configs" / "breakout.toml", sizes)
    check_runnable(experiment, tmp_path)
    run = open_stage_run(experiment, tmp_path / "breakout", tmp_path)
    for name in ("simulate", "train", "evaluate"):
        STAGE_FUNCTIONS[name](run)
    found = {cell.protocol for cell in cells(run)}
    assert found == {"now", "process", "later", "elsewhere"}
    with pytest.raises(ValueError, match="the stage gate has not finished"):
        report_stage(run)
    gate_stage(run)
    verdict = report_stage(run)
    assert (run.path / "report" / "index.html").is_file()
    gate = load_config.load(run.path / "gate" / "config.toml")
    assert verdict["gate"]["fingerprint"] == load_config.fingerprint(gate)
    assert verdict["gate"]["frozen"]["sha256_before"] == verdict["gate"]["frozen"]["sha256_after"]
    assert verdict["gate"]["imitator_gain"] is not None
    own, of_gate = (
        json.loads((path / "manifest.json").read_text())["stages"] for path in (run.path, run.path / "gate")
    )
    learned = [one[name]["td_updates"] for one in (own, of_gate) for name in ("simulate", "evaluate")]
    assert min(learned) > 0
    assert verdict["td_steps"] == sum(learned)
