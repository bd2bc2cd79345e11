"""Folders as runs leave them, with verdicts of known answers."""

import csv
import dataclasses
import json
import pathlib
import shutil

import pytest
import synthetic

from cl_imitate import compare, differences, load_config
from cl_imitate.config import Imitator, Learner, Rules, Training
from cl_imitate.sweeps import points


def folder(path: pathlib.Path, **changes) -> pathlib.Path:
    of = synthetic.experiment(**changes)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(load_config.dump(of))
    (path / "manifest.json").write_text(
        json.dumps({"fingerprint": load_config.fingerprint(of), "stages": {}})
    )
    controls = {
        "floor": {"estimate": 0.1, "ci95": [0.0, 0.2], "excess_nats": {"estimate": 0.3, "ci95": [0.2, 0.4]}}
    }
    decided = synthetic.decide(synthetic.cells(), of, controls=controls)
    (path / "verdict.json").write_text(json.dumps(decided))
    return path


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[pathlib.Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        folder(root / "narrow", name="one"),
        folder(root / "wide", name="other", imitator=Imitator(width=128), learner=Learner(replay="latest")),
    ]


def test_the_fields_that_differ_are_columns_and_no_others(pair):
    runs = [compare.load(path) for path in pair]
    assert compare.differing(runs) == {
        "learner.replay": ["uniform", "latest"],
        "imitator.width": ["64", "128"],
    }


def test_a_table_a_csv_file_a_figure_and_a_page_are_made(pair, tmp_path, capsys):
    assert compare.compare(pair, tmp_path / "out") == []
    shown = capsys.readouterr().out
    assert "narrow" in shown
    with (tmp_path / "out" / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    verdicts = [json.loads((path / "verdict.json").read_text()) for path in pair]
    for row, decided in zip(rows, verdicts, strict=True):
        for name, question in decided["questions"].items():
            assert row[name] == question["answer"]
            assert float(row[f"{name}.estimate"]) == question["estimate"]
            assert [float(row[f"{name}.{end}"]) for end in ("low", "high")] == question["ci95"]
        assert float(row["control.floor.excess_nats.high"]) == 0.4
    assert [row["imitator.width"] for row in rows] == ["64", "128"]
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "imitator.width" in page
    assert "data:image/png;base64," in page


@pytest.fixture(scope="module")
def unlike(tmp_path_factory) -> list[pathlib.Path]:
    """Three runs that differ in nine fields; two in entries of a list, of which the third has none."""
    root, few = tmp_path_factory.mktemp("unlike"), synthetic.experiment().evaluation
    other_month = dataclasses.replace(few.months[0], later_steps=480)
    others = [
        {"seed": seed, "imitator": Imitator(width=128 * seed, num_layers=2 + seed, context_steps=256 * seed)}
        | {"training": Training(num_seeds=2 + seed, num_updates=1000 * seed, batch_size=8 * seed)}
        | {"evaluation": dataclasses.replace(few, months=months, now_steps=64 * seed)}
        for seed, months in ((1, (other_month,)), (2, ()))
    ]
    named = zip(("narrow", "wide", "third"), ({}, *others), strict=True)
    return [folder(root / name, name=name, **changes) for name, changes in named]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("num_runs", [2, 3])
def test_runs_that_differ_in_many_fields_are_readable_on_a_terminal(
    unlike, tmp_path, capsys, monkeypatch, columns, num_runs
):
    monkeypatch.setenv("COLUMNS", str(columns))
    compare.compare(unlike[:num_runs], tmp_path / "out")
    shown = capsys.readouterr().out
    assert "where they differ" in shown.splitlines()[1]
    tables = [line.split() for line in shown.splitlines()[:-1] if line.strip()]
    assert all(len(line) <= columns for line in shown.splitlines()[:-1])
    assert ["imitator.width", "64", "128"] in [line[:3] for line in tables]
    assert sum(line[0] == "evaluation.months" for line in tables) == (
        2 if (columns, num_runs) == (80, 3) else 1
    )
    answered = [line for line in tables if line[0] in ("PROCESS", "run")]
    assert len(answered) == 2
    assert answered[1][1:3] == ["yes", "1.00"]


def test_a_list_is_one_field_that_differs_and_is_cut_where_long(unlike):
    experiments = [compare.load(path).experiment for path in unlike]
    found = differences.entries(experiments)
    assert found["evaluation.months"] == ["1 entry", "1 entry", "none"]
    assert differences.entries(experiments[:2])["evaluation.months"] == [
        "[0].later_steps 320",
        "[0].later_steps 480",
    ]
    many = dataclasses.replace(experiments[0].evaluation, stage_steps=tuple(range(0, 640, 32)))
    longer = [experiments[0], dataclasses.replace(experiments[0], evaluation=many)]
    [short, cut] = differences.entries(longer)["evaluation.stage_steps"]
    assert short == "0, 160, 320"
    assert cut.startswith("0, 32, 64")
    assert cut.endswith("…")


def test_runs_of_other_rules_are_warned_of(pair, tmp_path, capsys):
    other = folder(tmp_path / "lenient", rules=Rules(parity=0.5, bootstrap_samples=50))
    [warning] = compare.compare([pair[0], other], tmp_path / "out")
    assert "rules differ" in warning
    assert "rules differ" in capsys.readouterr().err
    assert "rules differ" in (tmp_path / "out" / "index.html").read_text()


def test_a_void_run_is_called_void(pair, tmp_path, capsys):
    broken = folder(tmp_path / "broken")
    decided = json.loads((broken / "verdict.json").read_text()) | {"void": ["the gate failed"]}
    (broken / "verdict.json").write_text(json.dumps(decided))
    assert any("the gate failed" in one for one in compare.compare([pair[0], broken], tmp_path / "out"))
    assert "VOID" in capsys.readouterr().out


def test_folders_of_one_name_are_told_apart(pair, tmp_path):
    again = folder(tmp_path / "narrow", seed=3)
    compare.compare([pair[0], again], tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as stream:
        assert len({row["run"] for row in csv.DictReader(stream)}) == 2


def test_what_is_no_finished_run_is_an_error_that_says_so(pair, tmp_path):
    with pytest.raises(ValueError, match="is not a run's folder"):
        compare.load(tmp_path)
    unfinished = folder(tmp_path / "unfinished")
    (unfinished / "verdict.json").unlink()
    with pytest.raises(ValueError, match=r"has no verdict yet.*--resume"):
        compare.load(unfinished)
    (unfinished / "verdict.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        compare.load(unfinished)


@pytest.mark.parametrize("times", [1, 2])
def test_one_run_is_nothing_to_compare_even_if_named_twice(pair, tmp_path, times):
    with pytest.raises(ValueError, match="two or more different run folders"):
        compare.compare(pair[:1] * times, tmp_path)


def test_a_run_whose_config_was_altered_afterwards_is_warned_of_and_read(pair, tmp_path, capsys):
    altered = shutil.copytree(pair[0], tmp_path / "altered")
    text = (altered / "config.toml").read_text()
    (altered / "config.toml").write_text(text.replace("seed = 0", "seed = 7", 1))
    assert compare.load(altered).experiment.seed == 7
    [said] = capsys.readouterr().err.splitlines()
    assert f"{altered / 'config.toml'} has the fingerprint" in said
    compare.load(pair[0])
    points.read(altered)
    assert capsys.readouterr().err.splitlines() == [said]  # of the altered one again
    (altered / "manifest.json").unlink()
    points.read(altered)  # of a folder that names no fingerprint nothing can be told
    assert not capsys.readouterr().err
    (altered / "manifest.json").write_text('{"fingerprint": ')
    with pytest.raises(ValueError, match=r"altered/manifest.json is damaged.*Leave this run out"):
        points.read(altered)
