"""A sweep's folder on the terminal, while other processes fill it."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.live
import rich.markup
import rich.table
import rich.text

from cl_imitate.evaluation.wording import number
from cl_imitate.run_dir import STAGES
from cl_imitate.sweeps.folder import SweepDir

_EVERY_SECONDS = 2.0
_COLOURS = {"done": "green", "running": "cyan", "failed": "bold red", "diverged": "red", "stopped": "yellow"}


def show(sweep: SweepDir, *, watch: bool | None = None, console: rich.console.Console | None = None) -> None:
    """Print where every point stands, with its headline figures. `watch`: again and again until no point is running;
    None: so on a terminal, if one is running."""
    console = console or rich.console.Console()
    plan = sweep.plan
    states = _states(sweep, plan)
    if watch is None:
        watch = console.is_terminal and _is_running(states)
    if watch:
        with rich.live.Live(table(sweep, plan, states), console=console, auto_refresh=False) as live:
            while not _is_over(states):
                time.sleep(_EVERY_SECONDS)
                states = _states(sweep, plan)
                live.update(table(sweep, plan, states), refresh=True)
    else:
        console.print(table(sweep, plan, states))
    for name, state in states.items():
        if state["error"]:
            told = rich.markup.escape(state["error"])  # it may hold brackets: paths, package extras
            console.print(f"{name}: [{_COLOURS[state['state']]}]{state['state']}[/] {told}", highlight=False)
    if (sweep.path / "table.csv").exists():
        written = (sweep.path / "table.csv").resolve()
        console.print(f"table: {written}", highlight=False, markup=False, soft_wrap=True)


def table(sweep: SweepDir, plan: Mapping[str, Any], states: Mapping[str, Mapping]) -> rich.console.Group:
    """How many points stand where, and the points, a row each."""
    counts = [state["state"] for state in states.values()]
    told = ", ".join(f"{counts.count(one)} {one}" for one in dict.fromkeys(sorted(counts)))
    found = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    short = [axis.split(",")[0].strip().split(".")[-1] for axis in plan["axes"]]
    for name in (*short, "state", "progress", "left"):
        found.add_column(name, overflow="fold")
    decided = {name: _verdict(sweep, name) for name, state in states.items() if state["state"] == "done"}
    questions = list(dict.fromkeys(name for one in decided.values() for name in _asked(one)))
    for question in questions:
        found.add_column(question)
    left = seconds_left(states)
    for point in plan["points"]:
        name, state = point["name"], states[point["name"]]
        colour = _COLOURS.get(state["state"], "")
        found.add_row(
            *(rich.markup.escape(str(value)) for value in point["values"].values()),
            f"[{colour}]{state['state']}[/]" if colour else state["state"],
            _progress(state),
            _duration(left[name]),
            *(_answer(decided.get(name), question) for question in questions),
        )
    return rich.console.Group(rich.text.Text(f"{told}: {sweep.path}", no_wrap=True, overflow="fold"), found)


def seconds_left(states: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each point the time that the stages take which it has not done, as they took other points on average.

    None where some stage was not seen yet, or nothing is to come. Points wait for each other: these are times of work.
    """
    seen = {
        stage: statistics.fmean(times)
        for stage in STAGES
        if (times := [state["seconds"][stage] for state in states.values() if stage in state["seconds"]])
    }
    is_whole = "report" in seen
    return {
        name: sum(seconds for stage, seconds in seen.items() if stage not in state["seconds"])
        if is_whole and state["state"] in ("waiting", "running", "stopped")
        else None
        for name, state in states.items()
    }


def _states(sweep: SweepDir, plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {point["name"]: sweep.state(point["name"]) for point in plan["points"]}


def _is_running(states: Mapping[str, Mapping]) -> bool:
    return any(state["state"] == "running" for state in states.values())


def _is_over(states: Mapping[str, Mapping]) -> bool:
    return not any(state["state"] in ("running", "waiting") for state in states.values())


def _progress(state: Mapping[str, Any]) -> str:
    if state["state"] not in ("running", "stopped"):
        return _duration(sum(state["seconds"].values()) or None)
    share = "" if state["progress"] is None else f" {state['progress']:.0%}"
    return f"{state['stage']}{share}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _verdict(sweep: SweepDir, name: str) -> dict[str, Any]:
    return json.loads((sweep.run_path(name) / "verdict.json").read_text(encoding="utf-8"))


def _asked(decided: Mapping[str, Any]) -> Sequence[str]:
    return [name for name, question in decided["questions"].items() if question["answer"] != "not run"]


def _answer(decided: Mapping[str, Any] | None, question: str) -> str:
    if decided is None:
        return ""
    if question not in decided["questions"]:
        return ""
    one = decided["questions"][question]
    void = "void run: " if decided["void"] else ""
    return f"{void}{one['answer']} {number(one['estimate'], one['ci95'])}"
