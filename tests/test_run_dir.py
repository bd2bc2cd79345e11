import io
import json
import pathlib
import re
import time

import pytest

from cl_imitate import circumstances, load_config, run_dir
from cl_imitate.disk_use import disk_use
from cl_imitate.interruption import InterruptedRunError
from cl_imitate.open_run import open_run
from cl_imitate.sweeps.folder import open_sweep


def test_a_folder_belongs_to_one_configuration(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a" * 64, config_text="x = 1\n")
    assert open_run(tmp_path / "r", fingerprint="a" * 64, config_text="x = 1\n").manifest == run.manifest
    with pytest.raises(ValueError, match="another configuration"):
        open_run(tmp_path / "r", fingerprint="b" * 64, config_text="x = 2\n")
    assert (tmp_path / "r" / "config.toml").read_text() == "x = 1\n"


def test_what_differs_from_the_run_that_a_folder_holds_is_named(tmp_path):
    there = 'seed = 0\nname = "a"\n[training]\nnum_updates = 8\n'
    run = open_run(tmp_path / "r", fingerprint="a" * 64, config_text=there)

    def told(config_text: str) -> str:
        with pytest.raises(ValueError, match="another configuration") as refused:
            open_run(run.path, fingerprint="b" * 64, config_text=config_text)
        return str(refused.value)

    here = there.replace("seed = 0", "seed = 5").replace("num_updates = 8", "batch_size = 2")
    assert (
        "(seed = 0 there, 5 here; training.num_updates = 8 there, not set here; training.batch_size = not set there, 2 "
        "here; fingerprint aaaaaaaaaaaa, this one is bbbbbbbbbbbb)"
    ) in told(here)
    assert "its config.toml was altered" in told(there)
    (run.path / "config.toml").write_text("seed = [")
    assert "its config.toml cannot be read" in told(here)


@pytest.mark.parametrize("found", [None, "xx {", "seed = 5\n"], ids=["lost", "garbage", "altered"])
def test_a_config_that_was_lost_is_written_again_by_the_same_configuration(tmp_path, capsys, found):
    config_text = "# as it was written\nseed = 0\n"
    run = open_run(tmp_path / "r", fingerprint="a", config_text=config_text)
    (run.path / "config.toml").write_text("seed = 0 # and a remark\n")
    open_run(run.path, fingerprint="a", config_text=config_text)
    assert "remark" in (run.path / "config.toml").read_text()
    assert not capsys.readouterr().err
    (run.path / "config.toml").unlink()
    if found is not None:
        (run.path / "config.toml").write_text(found)
    with pytest.raises(ValueError, match="another configuration"):
        open_run(run.path, fingerprint="b", config_text=config_text)
    assert not (run.path / "config.toml").exists() or (run.path / "config.toml").read_text() == found
    open_run(run.path, fingerprint="a", config_text=config_text)
    assert (run.path / "config.toml").read_text() == config_text
    assert f"{run.path / 'config.toml'} was" in capsys.readouterr().err


@pytest.mark.parametrize("is_current", [False, True])
@pytest.mark.parametrize("name", ["a[1]", "a]", "[a"])
def test_a_path_with_brackets_is_refused_before_anything_is_made(tmp_path, monkeypatch, name, is_current):
    path = tmp_path / name / "r"
    if is_current:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        path = pathlib.Path("r")
    for make in (
        lambda: open_run(path, fingerprint="a", config_text=""),
        lambda: open_sweep(path, [], name="s", origin=tmp_path, resume=False),
    ):
        with pytest.raises(ValueError, match=r"r has \[ or \] in its path.*without brackets") as refused:
            make()
        assert str(tmp_path / name / "r") in str(refused.value)
        assert not path.exists()


def test_the_manifest_tells_the_circumstances(tmp_path):
    manifest = open_run(tmp_path / "r", fingerprint="a", config_text="").manifest
    assert {"cl_imitate", "git_revision", "python", "device", "versions", "started"} <= set(manifest)
    assert "jax" in manifest["versions"]


def test_a_stage_that_fails_is_not_done_and_its_half_is_removed_at_the_next_try(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")

    def fail() -> None:
        with run.stage("simulate"):
            (run.path / "histories").mkdir()
            (run.path / "histories" / "half").write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power"):
        fail()
    assert not run.is_done("simulate")
    with pytest.raises(ValueError, match="simulate has not finished"):
        run.require("simulate")
    with run.stage("simulate") as facts:
        assert not (run.path / "histories").exists()
        facts["td_updates"] = 7
    assert run.is_done("simulate")
    assert run.manifest["stages"]["simulate"]["td_updates"] == 7


@pytest.mark.parametrize("content", ["{", "[]", '"a"', "{}", '{"stages": {}}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    (run.path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        open_run(run.path, fingerprint="a", config_text="")


def test_a_config_is_kept_as_it_is_whatever_the_encoding_of_the_place(tmp_path, monkeypatch):
    text = 'name = "naïve"\n[environment]\nfamily = "lock"\n'
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    written = load_config.dump(load_config.load(tmp_path / "c.toml"))
    run = open_run(tmp_path / "r", fingerprint="a", config_text=written)
    run.log(stage="train")
    assert load_config.load(run.path / "config.toml").name == "naïve"
    (run.path / "manifest.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        open_run(run.path, fingerprint="a", config_text=written)


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        open_run(tmp_path / "f", fingerprint="a", config_text="")


def test_metrics_are_a_line_each(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    run.log(stage="train", loss=1.0)
    run.log(stage="train", loss=0.5)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 0.5]


def test_metrics_of_what_is_done_again_are_dropped_and_so_is_half_a_line(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    run.forget_log(after_update=0)
    for context in (16, 32):
        for update in (10, 20, 30):
            run.log(stage="train", context_steps=context, update=update)
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "tr')
    run.forget_log(after_update=20, stage="train", context_steps=32)
    run.log(stage="train", context_steps=32, update=40)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["context_steps"], one["update"]) for one in lines] == [
        *((16, update) for update in (10, 20, 30)),
        *((32, update) for update in (10, 20, 40)),
    ]


def test_a_damaged_line_of_the_metrics_is_left_out_and_named(tmp_path, capsys):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    run.log(stage="train", update=1)
    with (run.path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'xx{\n\xff\n[1]\n{"stage": "train", "update": "two"}\n')
    run.log(stage="train", update=3)
    run.log(stage="other")
    run.forget_log(after_update=2, stage="train")
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["stage"], one.get("update")) for one in lines] == [("train", 1), ("other", None)]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: {run.path / 'metrics.jsonl'}, line {number} is damaged, and left out"
        for number in (2, 3, 4, 5)
    ]


def test_a_folder_that_a_kill_left_at_the_very_beginning_is_begun_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("who")
    (tmp_path / "run" / "manifest.json.tmp").write_text("{")
    opened = open_run(tmp_path / "run", fingerprint="f" * 64, config_text="who = 1")
    assert (tmp_path / "run" / "config.toml").read_text() == "who = 1"
    assert opened.manifest["fingerprint"] == "f" * 64


def test_a_folder_with_somebody_elses_config_is_left_alone(tmp_path):
    (tmp_path / "config.toml").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        open_run(tmp_path, fingerprint="f" * 64, config_text="whole")
    assert (tmp_path / "config.toml").read_text() == "mine"
    (tmp_path / "config.toml").write_bytes(b"\xff")  # in another encoding
    with pytest.raises(ValueError, match="not empty"):
        open_run(tmp_path, fingerprint="f" * 64, config_text="whole")


def attempt_that_is_killed(run, seconds):
    """What a process leaves that saves after so many seconds and is killed then."""
    attempt = run.attempt("train")
    attempt._start -= seconds
    with attempt.saving(saves=1):
        attempt._saving_seconds += 0.5
    return attempt


def test_seconds_are_those_of_all_attempts(tmp_path, capsys):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    attempt_that_is_killed(run, 100.0)
    time.sleep(0.01)
    with pytest.raises(RuntimeError), run.stage("train"):
        raise RuntimeError("power cut")
    attempt = run.attempt("train")
    attempt._start -= 30.0
    attempt.first_step_seconds = 3.21
    (run.keeper_path("train")).mkdir(parents=True)
    (run.keeper_path("train") / "save").write_bytes(bytes(2_000_000))
    with run.stage("train", goes_on=True, attempt=attempt):
        pass
    told = run.manifest["stages"]["train"]
    assert told["attempts"] == 3
    assert 130.0 <= told["seconds"] < 135.0
    assert told["saving"]["saves"] == 1
    assert 0.5 <= told["saving"]["seconds"] < 0.6
    assert told["saving"]["share"] == pytest.approx(told["saving"]["seconds"] / told["seconds"], abs=1e-4)
    assert told["first_step_seconds"] == [3.21]
    assert "attempts" not in run.manifest
    said = capsys.readouterr().err
    assert "in 3 attempts" in said
    assert "2.0 MB of saves removed" in said
    with run.stage("evaluate"):
        pass
    assert run.manifest["stages"]["evaluate"]["attempts"] == 1
    run.forget("train")
    attempt_that_is_killed(run, 100.0)
    run.forget("train")
    assert "attempts" not in run.manifest


def test_every_continuation_is_kept_until_its_stage_is_begun_again(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    here = circumstances.of_this_process()
    for step in (1, 2):
        attempt = run.attempt("train")
        attempt.goes_on(part="context_32", step=None, was=here)
        attempt.goes_on(part="context_16", step=step, was=here if step == 1 else {**here, "device": "abacus"})
        time.sleep(0.01)
    told = run.manifest["continued"]
    assert [(one["stage"], one["part"], one["step"], one["bits_may_differ"]) for one in told] == [
        ("train", "context_16", 1, False),
        ("train", "context_16", 2, True),
    ]
    assert told[1]["was"]["device"] == "abacus"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told[1]["at"])
    with run.stage("train", goes_on=True):
        pass
    assert len(run.manifest["continued"]) == 2
    run.forget("evaluate")
    assert len(run.manifest["continued"]) == 2
    run.forget("train")
    assert "continued" not in run.manifest


def test_the_bytes_of_every_part_add_up(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="a=14")
    files = {
        "histories/a/b": 7,
        "checkpoints/best_imitators/c": 11,
        "checkpoints/imitators/d": 13,
        "resume/e/f": 17,
    }
    for name, size in files.items():
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_bytes(bytes(size))
    use = disk_use(run.path)
    assert (use["histories"], use["imitators"], use["saves to go on from"]) == (7, 13, 17)
    assert use["imitators of lowest held-out loss"] == 11
    assert use["everything else"] == 4 + (run.path / "manifest.json").stat().st_size
    assert use["in all"] == sum(use.values()) - use["in all"]


def with_every_stage_done(path: pathlib.Path) -> run_dir.RunDir:
    run = open_run(path, fingerprint="a", config_text="")
    for name in run_dir.STAGES:
        with run.stage(name):
            if name == "gate":
                (run.path / "gate").mkdir()
            if name == "report":
                (run.path / "report").mkdir()
                (run.path / "report" / "index.html").write_text("of the old weights")
                run.write_json("verdict.json", {"of": "the old weights"})
    assert all(run.is_done(name) for name in run_dir.STAGES)
    return run


@pytest.mark.parametrize("stage", run_dir.STAGES)
def test_what_is_to_be_done_again_leaves_no_verdict_of_what_it_was(tmp_path, stage):
    run = with_every_stage_done(tmp_path / "r")
    run.forget(stage)
    assert not (run.path / "verdict.json").exists()
    assert not (run.path / "report").exists()


@pytest.mark.parametrize("killed_at", [1, 2, 3, 7])
def test_a_kill_while_forgetting_leaves_no_verdict_that_is_stale_and_none_that_stays_away(
    tmp_path, monkeypatch, killed_at
):
    run = with_every_stage_done(tmp_path / "r")
    calls = []

    def until_killed(do):
        def one(*given):
            calls.append(given)
            if len(calls) == killed_at:
                raise KeyboardInterrupt
            do(*given)

        return one

    for where, name in ((run_dir.aside, "move"), (run_dir, "write_json")):
        monkeypatch.setattr(where, name, until_killed(getattr(where, name)))
    with pytest.raises(KeyboardInterrupt):
        run.forget("train")
    assert (run.path / "manifest.json") not in [path for path, *_ in calls[: killed_at - 1]]
    verdict_is_there = (run.path / "verdict.json").exists()
    assert verdict_is_there == run.is_done("report") == (killed_at == 1)
    assert run.is_done("train")  # nothing was forgotten yet: the old weights are still those that are there


def test_a_kill_right_after_a_gate_is_put_away_leaves_none_that_counts_as_done(tmp_path, monkeypatch):
    run = with_every_stage_done(tmp_path / "r")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_dir, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            run.forget("gate")
    assert not run.is_done("gate")


def test_a_gate_that_is_forgotten_is_gone_at_once_and_no_second_one_is_in_its_way(tmp_path):
    run = with_every_stage_done(tmp_path / "r")
    for _ in range(2):
        run.forget("gate")
        assert not run.is_done("gate")
        assert not (run.path / "gate").exists()
        (run.path / "gate").mkdir()


def files_of(path: pathlib.Path) -> dict[str, bytes]:
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


def with_files_of_every_stage(path: pathlib.Path) -> run_dir.RunDir:
    run = with_every_stage_done(path)
    kept = (
        "checkpoints/learners/a",
        "checkpoints/imitators/b",
        "losses.json",
        "evaluation/c",
        "gate/d",
        "controls/e",
    )
    for name in (*kept, "histories/recorded/f", "resume/control/step_1.json"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(f"old {name}")
    run.log(stage="train", update=1)
    return run


@pytest.mark.parametrize("stage", run_dir.STAGES)
def test_a_stage_that_cannot_be_done_again_leaves_the_folder_as_it_was(tmp_path, stage):
    run = with_files_of_every_stage(tmp_path / "r")
    before = files_of(run.path)

    def fail() -> None:
        with run.redoing(stage), run.stage(stage):
            assert not (run.path / "verdict.json").exists()
            run.forget_log(after_update=0, stage="train")
            for artifact in run_dir._ARTIFACTS[stage]:
                (run.path / artifact).mkdir(parents=True, exist_ok=True)
                (run.path / artifact / "half").write_text("new")
            raise ValueError("its input is gone")

    with pytest.raises(ValueError, match="its input is gone"):
        fail()
    assert files_of(run.path) == before
    assert not (run.path / ".before-again").exists()


@pytest.mark.parametrize("stage", run_dir.STAGES)
def test_a_stage_that_is_done_again_leaves_nothing_set_aside(tmp_path, stage):
    run = with_files_of_every_stage(tmp_path / "r")
    with run.redoing(stage), run.stage(stage):
        (run.path / "gate").mkdir(exist_ok=True)
        run.write_json("verdict.json", {"of": "the new weights"})
    assert run.is_done(stage)
    assert not [name for name in files_of(run.path) if name.startswith(".before-again")]
    # What a later stage left stays until that is done again; nothing goes on from its saves.
    assert (run.path / "evaluation").exists() == (stage != "evaluate")
    assert (run.path / "resume" / "control").exists() == (stage == "report")


@pytest.mark.parametrize(
    "ended_by", [KeyboardInterrupt(), InterruptedRunError(15), ValueError("after a save")]
)
def test_what_an_attempt_has_saved_is_gone_on_from_and_not_replaced_by_what_was_before(tmp_path, ended_by):
    run = with_files_of_every_stage(tmp_path / "r")

    def end() -> None:
        with run.redoing("train"), run.stage("train"):
            (run.keeper_path("train") / "context_32").mkdir(parents=True)
            (run.keeper_path("train") / "context_32" / "step_2.json").write_text("{}")
            raise ended_by

    with pytest.raises(type(ended_by)):
        end()
    assert run.goes_on("train")
    assert not run.is_done("train")
    with run.stage("train", goes_on=True):
        pass
    assert not (run.path / ".before-again").exists()
