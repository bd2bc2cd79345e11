"""What the command line makes of errors."""

import pathlib
import re
import types
from importlib import metadata

import pytest

from cl_imitate import cli


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
