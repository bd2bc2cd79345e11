"""A run's folder on the terminal."""

import json
import pathlib

import rich.box
import rich.console
import rich.table

from cl_imitate.evaluation import verdict
from cl_imitate.run_dir import STAGES


def show(path: pathlib.Path) -> None:
    """Print the stages done and, if there is one, the verdict.

    Raises:
      ValueError: `path` is not a run's folder.
    """
    try:
        done = json.loads((path / "manifest.json").read_text())["stages"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a run's folder: manifest.json cannot be read ({error}).") from error
    console = rich.console.Console()
    parts = [f"{name} {done[name]['seconds']:.0f} s" for name in STAGES if name in done]
    compiling = sum(facts.get("compile_seconds", 0.0) for facts in done.values())
    if compiling:
        parts.append(f"compiling took {compiling:.0f} s of that")
    console.print(f"[bold]{path}[/]  {', '.join(parts) or 'no stage has finished'}", highlight=False)
    if not (path / "verdict.json").exists():
        return
    try:
        decided = json.loads((path / "verdict.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path / 'verdict.json'} is damaged ({error}). Redo it: `cl-imitate report --again --run-dir {path}`."
        ) from error
    for reason in decided["void"]:
        console.print(f"[bold red]VOID[/] {reason}", highlight=False)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name in verdict.COLUMNS:
        table.add_column(name)
    for row in verdict.rows(decided):
        table.add_row(*row)
    console.print(table, highlight=False)
    words = {True: "passed", False: "FAILED", None: "not run"}
    console.print(f"gate: {words[decided['gate']['passed']]}", highlight=False)
    console.print(f"report: {(path / 'report' / 'index.html').resolve()}", highlight=False, soft_wrap=True)
