"""A run's folder on the terminal."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import rich.box
import rich.console
import rich.markup
import rich.table

from cl_imitate.disk_use import disk_use, megabytes
from cl_imitate.evaluation import verdict
from cl_imitate.run_dir import STAGES


def show(path: pathlib.Path) -> None:
    """Print the stages done, what became of the run on its way, what the folder takes and, if any, the verdict.

    Raises:
      ValueError: `path` is not a run's folder.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        done = manifest["stages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a run's folder: manifest.json cannot be read ({error}).") from error
    console = rich.console.Console()
    parts = [f"{name} {done[name]['seconds']:.0f} s" for name in STAGES if name in done]
    compiling = sum(facts.get("compile_seconds", 0.0) for facts in done.values())
    if compiling:
        parts.append(f"compiling took {compiling:.0f} s of that")
    told = ", ".join(parts) or "no stage has finished"
    console.print(f"[bold]{rich.markup.escape(str(path))}[/]  {told}", highlight=False)
    for line in _story(manifest):
        console.print(line, highlight=False, markup=False)
    console.print(_disk_use(path), highlight=False)
    if not (path / "verdict.json").exists():
        return
    try:
        decided = json.loads((path / "verdict.json").read_text(encoding="utf-8"))
        void, rows, has_passed = decided["void"], list(verdict.rows(decided)), decided["gate"]["passed"]
        reasons = verdict.reasons(decided)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / 'verdict.json'} is damaged ({error!r}). Redo it: `cl-imitate report --again --run-dir {path}`."
        ) from error
    for reason in void:
        console.print(f"[bold red]VOID[/] {rich.markup.escape(reason)}", highlight=False)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for name in verdict.COLUMNS:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)
    for reason in reasons:
        console.print(reason, highlight=False, markup=False)
    words = {True: "passed", False: "FAILED", None: "not run"}
    console.print(f"gate: {words[has_passed]}", highlight=False)
    report = (path / "report" / "index.html").resolve()
    console.print(f"report: {report}", highlight=False, markup=False, soft_wrap=True)


def _story(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What became of the run on its way, a line each."""
    if "parent" in manifest:
        yield f"a fork: its learners come from {manifest['parent']['path']}"
    for name, stage in manifest["stages"].items():
        if stage.get("attempts", 1) > 1:
            first = ", ".join(f"{seconds:.1f} s" for seconds in stage.get("first_step_seconds", []))
            yield f"{name}: {stage['attempts']} attempts" + (f"; first steps after {first}" if first else "")
        saving = stage.get("saving", {"saves": 0})
        if saving["saves"]:
            yield (
                f"{name}: {saving['saves']} saves, waited for {saving['seconds']:.2f} s ({100 * saving['share']:.1f}%)"
            )
    for one in manifest.get("continued", []):
        where = f"from step {one['step']}" if one["step"] is not None else "after it"
        was, now = one["was"], one["is"]
        differs = [f"{key} {was.get(key)} -> {now[key]}" for key in now if was.get(key) != now[key]]
        yield (
            f"{one['at']}: {one['stage']} went on, {one['part']} {where}"
            + (
                f"; last bits may differ: {', '.join(differs)}"
                if one["bits_may_differ"]
                else ", the same bits"
            )
        )
    best = manifest["stages"].get("train", {}).get("best_imitators", {})
    if best:
        chosen = manifest["stages"]["train"]["chosen_by"]
        yield (
            f'imitators are chosen by checkpoint_rule = "{chosen}"; those of the lowest loss on '
            f"{next(iter(best.values()))['on']} lie in checkpoints/best_imitators"
        )


def _disk_use(path: pathlib.Path) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("in the folder")
    table.add_column("bytes", justify="right")
    table.add_column("", justify="right")
    for name, count in disk_use(path).items():
        if count:
            table.add_row(name, f"{count:,}", megabytes(count))
    return table
