"""Several runs side by side: tables on the terminal, and a CSV file, a figure and a page of them."""

import csv
import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import rich.box
import rich.console
import rich.markup
import rich.table

from cl_imitate import differences, excess, load_config, report
from cl_imitate.config import Experiment
from cl_imitate.evaluation import verdict, wording
from cl_imitate.figures.comparison import comparison


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ComparedRun:
    """A finished run, as its folder tells it."""

    name: str
    path: pathlib.Path
    experiment: Experiment
    verdict: Mapping[str, Any]

    @property
    def rules_sha256(self) -> str | None:
        """None: of a version that made no hash."""
        return self.verdict.get("rules_sha256")


def compare(paths: Sequence[pathlib.Path], out: pathlib.Path) -> list[str]:
    """Print the runs side by side, and write comparison.csv, comparison.png and index.html into `out`.

    Returns the warnings, which are printed too.

    Raises:
      ValueError: fewer than two runs, one given twice, or a folder that holds no finished run.
    """
    runs = [load(path) for path in paths]
    if len({one.path.resolve() for one in runs}) < max(len(runs), 2):
        raise ValueError(
            f"compare was given {', '.join(map(str, paths)) or 'nothing'}: give two or more different run folders."
        )
    runs = _with_own_names(runs)
    found = list(warnings(runs))
    for words in found:
        print(f"warning: {words}", file=sys.stderr)
    _print_tables(runs)
    excesses = [over_floor(runs[0], one) for one in runs[1:]]
    nearer = [
        one.told(runs[0].name, other.name)
        for other, some in zip(runs[1:], excesses, strict=True)
        for one in some
    ]
    print("\n".join(nearer), end="\n" * bool(nearer))
    figure = comparison([(one.name, one.verdict) for one in runs], runs[0].experiment.rules)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "comparison.csv").write_text(to_csv(runs, excesses), encoding="utf-8")
        (out / "comparison.png").write_bytes(figure.png)
        (out / "index.html").write_text(_page(runs, figure, found, nearer), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror}). Use another --out.") from error
    print(f"figure, table and page: {out.resolve()}")
    return found


def load(path: pathlib.Path) -> ComparedRun:
    """A run's folder.

    Raises:
      ValueError: it holds no run, or one without a verdict, or something is damaged.
    """
    if not (path / "manifest.json").is_file() or not (path / "config.toml").is_file():
        raise ValueError(f"{path} is not a run's folder: it has no manifest.json and config.toml.")
    if not (path / "verdict.json").is_file():
        raise ValueError(f"{path} has no verdict yet. Finish it: `cl-imitate run --resume --run-dir {path}`.")
    try:
        decided = json.loads((path / "verdict.json").read_text(encoding="utf-8"))
        verdict.rows(decided)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / 'verdict.json'} is damaged ({error}). Redo it: `cl-imitate report --again --run-dir {path}`."
        ) from error
    return ComparedRun(
        name=path.resolve().name,
        path=path,
        experiment=load_config.load_of_run(path),
        verdict=decided,
    )


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """The config fields in which the runs differ, by dotted key: each run's value; a dash where it has none."""
    return differences.leaves([one.experiment for one in runs])


def warnings(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """What makes answers not comparable."""
    hashes = {one.name: (one.rules_sha256 or "none")[:12] for one in runs}
    if len(set(hashes.values())) > 1:
        told = ", ".join(f"{name} {sha}" for name, sha in hashes.items())
        yield (
            f"the decision rules differ, so answers are not comparable (estimates are): {told}. Bounds drawn are "
            f"those of {runs[0].name}."
        )
    for one in runs:
        if one.verdict["void"]:
            yield f"{one.name} is void: {'; '.join(one.verdict['void'])}"


def over_floor(first: ComparedRun, other: ComparedRun) -> list[excess.Difference]:
    """The other run's excess over the floor less the first's; nothing where either has measured no floor."""
    found = [excess.load(one.path, one.experiment, one.verdict["fingerprint"]) for one in (first, other)]
    return [] if found[0] is None or found[1] is None else excess.differences(found[0], found[1])


def to_csv(runs: Sequence[ComparedRun], excesses: Sequence[Sequence[excess.Difference]]) -> str:
    """A line a run: where it lies, what differs, every answer and estimate with its interval, every control's.

    `excesses`: what `over_floor` says of each run after the first.
    """
    fields = differing(runs)
    rows = []
    for number, (one, over) in enumerate(zip(runs, [[], *excesses], strict=True)):
        row: dict[str, Any] = {
            "run": one.name,
            "path": str(one.path),
            "fingerprint": one.verdict["fingerprint"],
            "rules_sha256": one.rules_sha256,
            "void": "; ".join(one.verdict["void"]),
            "gate": one.verdict["gate"]["passed"],
            **{name: values[number] for name, values in fields.items()},
        }
        for name, question in one.verdict["questions"].items():
            row[name] = question["answer"]
            row |= _estimate(name, question)
        for name, control in one.verdict.get("controls", {}).items():
            row |= _estimates(f"control.{name}", control)
        for difference in over:
            row |= _estimate(difference.key, dataclasses.asdict(difference))
        rows.append(row)
    stream = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(stream, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _estimate(name: str, found: Mapping) -> dict[str, Any]:
    low, high = found["ci95"]
    return {f"{name}.estimate": found["estimate"], f"{name}.low": low, f"{name}.high": high}


def _estimates(name: str, found: Mapping) -> dict[str, Any]:
    """Every estimate with an interval in a control's answer, however deep."""
    row = _estimate(name, found) if {"estimate", "ci95"} <= set(found) else {}
    for key, value in found.items():
        if isinstance(value, Mapping):
            row |= _estimates(f"{name}.{key}", value)
    return row


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    """Cells in words; the first of each row, and of the header, is a name."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def turned(self) -> "_Table":
        """Rows for columns."""
        first, *rest = zip(self.header, *self.rows, strict=True)
        return _Table(header=first, rows=rest)


def _fields(runs: Sequence[ComparedRun]) -> _Table:
    """Where the configs differ: a row a key, a column a run."""
    found = differences.entries([one.experiment for one in runs])
    return _Table(
        header=["where they differ", *(one.name for one in runs)],
        rows=[[name, *values] for name, values in found.items()],
    )


def _answers(runs: Sequence[ComparedRun]) -> _Table:
    """A row a run, a column a question."""
    words = {True: "passed", False: "FAILED", None: "not run"}
    return _Table(
        header=["run", *(name.upper() for name in runs[0].verdict["questions"]), "gate"],
        rows=[
            [
                f"{one.name} (VOID)" if one.verdict["void"] else one.name,
                *(
                    f"{question['answer']} {wording.number(question['estimate'], question['ci95'])}"
                    for question in one.verdict["questions"].values()
                ),
                words[one.verdict["gate"]["passed"]],
            ]
            for one in runs
        ],
    )


def _print_tables(runs: Sequence[ComparedRun]) -> None:
    """Where they differ, then the answers: a row a run where the terminal is wide enough, else a row a question."""
    console = rich.console.Console()
    answers = _answers(runs)
    wide = _drawn(answers)
    is_wide_enough = (
        console.measure(wide, options=console.options.update(width=10_000)).maximum <= console.width
    )
    for table in _narrow(_fields(runs), console.width):
        console.print(table, highlight=False)
    for table in [wide] if is_wide_enough else _narrow(answers.turned, console.width):
        console.print(table, highlight=False)


_LEAST_WIDTH = 20  # characters of a run's column


def _narrow(table: _Table, width: int) -> Iterator[rich.table.Table]:
    """A column a run; so many runs beside each other as are readable in `width` characters, the others below."""
    names = max(len(one[0]) for one in (table.header, *table.rows))
    at_once = max((width - names) // (_LEAST_WIDTH + 2), 1)
    for first in range(1, len(table.header), at_once) if table.rows else ():
        here = slice(first, first + at_once)
        header, *rows = ([one[0], *one[here]] for one in (table.header, *table.rows))
        yield _drawn(_Table(header=header, rows=rows))


def _drawn(table: _Table) -> rich.table.Table:
    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(table.header):
        drawn.add_column(rich.markup.escape(name), overflow="fold", no_wrap=number == 0)
    for row in table.rows:
        drawn.add_row(*map(rich.markup.escape, row))
    return drawn


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ figure.title }}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.3rem .8rem .3rem 0;text-align:left;border-bottom:1px solid #e4e4e4}
img{max-width:100%}.warning{color:#a33c00}</style>
<h1>{{ figure.title }}</h1>
{% for words in warnings %}<p class="warning">{{ words }}</p>{% endfor %}
<img src="{{ png }}" width="{{ figure.width }}" alt="{{ figure.alt }}"><p>{{ figure.caption }}</p>
{% for table in tables %}<table><tr>{% for name in table.header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
{% endfor %}{% for words in nearer %}<p>{{ words }}</p>{% endfor %}</html>
"""


def _page(runs: Sequence[ComparedRun], figure: Any, found: Sequence[str], nearer: Sequence[str]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        figure=figure,
        png=report.inline(figure.png),
        warnings=found,
        nearer=nearer,
        tables=[_fields(runs), _answers(runs)],
    )


def _with_own_names(runs: list[ComparedRun]) -> list[ComparedRun]:
    """Folders of one name are called by their paths."""
    names = [one.name for one in runs]
    return [
        dataclasses.replace(one, name=str(one.path)) if names.count(one.name) > 1 else one for one in runs
    ]
