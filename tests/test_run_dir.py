import json

import pytest

from cl_imitate.run_dir import open_run


def test_a_folder_belongs_to_one_configuration(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a" * 64, config_text="x = 1\n")
    assert open_run(tmp_path / "r", fingerprint="a" * 64, config_text="x = 1\n").manifest == run.manifest
    with pytest.raises(ValueError, match="another configuration"):
        open_run(tmp_path / "r", fingerprint="b" * 64, config_text="x = 2\n")
    assert (tmp_path / "r" / "config.toml").read_text() == "x = 1\n"


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


def test_a_damaged_manifest_is_named(tmp_path):
    run = open_run(tmp_path / "r", fingerprint="a", config_text="")
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        open_run(run.path, fingerprint="a", config_text="")


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


def test_a_folder_that_a_kill_left_at_the_very_beginning_is_begun_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("who")
    (tmp_path / "run" / "manifest.json.tmp").write_text("{")
    opened = open_run(tmp_path / "run", fingerprint="f" * 64, config_text="whole")
    assert (tmp_path / "run" / "config.toml").read_text() == "whole"
    assert opened.manifest["fingerprint"] == "f" * 64


def test_a_folder_with_somebody_elses_config_is_left_alone(tmp_path):
    (tmp_path / "config.toml").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        open_run(tmp_path, fingerprint="f" * 64, config_text="whole")
    assert (tmp_path / "config.toml").read_text() == "mine"
