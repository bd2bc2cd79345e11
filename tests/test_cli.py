"""What the command line makes of errors."""

import pathlib
import re
import types
from importlib import metadata

import pytest

from cl_imitate import cli
from cl_imitate.commands import Compare
from cl_imitate.sweeps.folder import SweepDir


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (FileExistsError("x exists and is not overwritten."), FileExistsError, "x exists and is not"),
        (OSError("the store is gone"), ValueError, "some_run cannot be written or read (the store is gone)."),
        (
            OSError(28, "No space left on device", "y"),
            ValueError,
            "y cannot be written or read (No space left",
        ),
    ],
)
def test_an_error_of_a_file_is_told_with_all_that_it_says(monkeypatch, error, kind, message):
    def fail(*_):
        raise error

    run = types.SimpleNamespace(path=pathlib.Path("some_run"))
    monkeypatch.setattr(cli, "_open", lambda *_: (run, None))
    monkeypatch.setattr(cli, "_run_noticed", fail)
    with pytest.raises(kind, match=re.escape(message)):
        cli._run_stages(types.SimpleNamespace())


def test_the_version_is_said(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cl-imitate", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"cl_imitate {metadata.version('cl-imitate')}\n"


def test_compare_says_what_a_sweeps_folder_is_and_which_of_its_points_have_no_verdict_ever(tmp_path):
    sweep = SweepDir(tmp_path / "sweep")
    for name in ("states", "points/rate=9", "points/rate=1"):
        (sweep.path / name).mkdir(parents=True)
    (sweep.path / "sweep.json").write_text("{}")
    sweep.tell("rate=9", state="diverged", stage="simulate", error="the weights of learner 0 are not finite")

    def compare(path: pathlib.Path) -> None:
        cli._dispatch(Compare(run_dirs=(path,)))

    with pytest.raises(ValueError, match=r"folder of a sweep, not of a run.*cl-imitate horizon .*points/\*"):
        compare(sweep.path)
    with pytest.raises(
        ValueError, match=r"diverged, and would do so again \(the weights of learner 0 are not"
    ):
        compare(sweep.run_path("rate=9"))
    with pytest.raises(ValueError, match="is not a run's folder"):
        compare(sweep.run_path("rate=1"))
