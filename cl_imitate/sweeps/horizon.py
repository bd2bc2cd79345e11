"""Sweeps and runs as one horizon: how far frozen imitation goes, and what moves the place where it breaks.

Sentences on the terminal; horizon.csv, the figures and a page of them in a folder.
"""

import csv
import io
import math
import pathlib
from collections.abc import Sequence

import jinja2

from cl_imitate import load_config, report
from cl_imitate.evaluation import findings, horizon
from cl_imitate.evaluation.horizon import Imitated, Point
from cl_imitate.figures import horizon as figures_horizon
from cl_imitate.figures import movers, needed_context
from cl_imitate.figures.canvas import Figure
from cl_imitate.sweeps import points as points_lib
from cl_imitate.sweeps.folder import SweepDir, is_sweep


def draw(paths: Sequence[pathlib.Path], out: pathlib.Path) -> list[str]:
    """Print what the sweeps and runs say together, and write horizon.csv, figures and index.html into `out`.

    Points without a result are left out, and told of. Returns the sentences.

    Raises:
      ValueError: no folder, one that holds neither a sweep nor a run, or no result in any.
    """
    if not paths:
        raise ValueError("horizon was given nothing: give the folder of a sweep, or several.")
    folders = list(dict.fromkeys(one for path in paths for one in _runs(path)))
    done = [one for one in folders if (one / "verdict.json").is_file()]
    if not done:
        raise ValueError(
            f"no point of {', '.join(map(str, paths))} has a result yet. See: cl-imitate show DIR"
        )
    points, num_again = horizon.one_each(point for one in done for point in points_lib.read(one))
    rules = load_config.load(done[0] / "config.toml").rules
    said = findings.findings(points)
    if len({load_config.rules_sha256(load_config.load(one / "config.toml")) for one in done}) > 1:
        said.append(
            "The decision rules differ from run to run, so answers are not comparable (shares are). Bounds drawn are "
            f"those of {done[0]}."
        )
    if len(done) < len(folders):
        said.append(f"{len(folders) - len(done)} of {len(folders)} runs have no result yet.")
    if num_again:
        said.append(
            f"{num_again} more points stand where others do, and are left out; the first of each place is drawn."
        )
    drawn = [
        figures_horizon.curves(points, rules),
        movers.movers(points, rules),
        needed_context.needed(horizon.breaks(points)),
        figures_horizon.surface(points),
    ]
    shown = [one for one in drawn if one is not None]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "horizon.csv").write_text(to_csv(points))
        for one in shown:
            (out / f"{one.name}.png").write_bytes(one.png)
        (out / "index.html").write_text(_page(points, shown, said), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror}). Use another --out.") from error
    print("\n".join(said))
    print(f"figures, table and page: {out.resolve()}")
    return said


def _runs(path: pathlib.Path) -> list[pathlib.Path]:
    if is_sweep(path):
        sweep = SweepDir(path)
        return [sweep.run_path(name) for name in sweep.names]
    if not (path / "config.toml").is_file():
        raise ValueError(f"{path} holds neither a sweep nor a run: it has no sweep.json and no config.toml.")
    return [path]


def to_csv(points: Sequence[Point]) -> str:
    """A line a point: where it stands, and what PROCESS and LATER came to."""
    rows = []
    for point in points:
        row = {
            "point": point.name,
            **{"learning_rate" if axis == "pace" else axis: value for axis, value in point.values.items()},
            "converged": point.converged,
            "later_converged": point.later_converged,
            "above_floor_nats": point.above_floor,
            "learner_time_constant_steps": point.tau_steps,
            "passes_gate": point.passes_gate,
            "rung_2b": point.elsewhere,
            "later.fork_step": point.later_values.get("fork"),
            "later.now_steps": point.later_values.get("now"),
        }
        for question in ("process", "later"):
            found = point.of(question)
            low, high = found.ci95
            row |= {
                f"{question}.answer": found.answer,
                f"{question}.share": found.share,
                f"{question}.low": low,
                f"{question}.high": high,
                f"{question}.departure_steps": found.departure_steps,
                f"{question}.departure_side": found.departure_side,
                f"{question}.departure_resolved": found.departure_is_resolved if found.is_answered else None,
                f"{question}.horizon_steps": found.horizon_steps,
                f"{question}.window": found.window,
                f"{question}.ceiling": found.ceiling,
            }
        rows.append(row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Departure horizon</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:.25rem .7rem .25rem 0;text-align:left;
border-bottom:1px solid #e4e4e4}img{max-width:100%}.first{font-size:1.15em}</style>
<h1>How far frozen imitation goes</h1>
<p class="first">{{ said[0] }}</p>
{% for figure in figures %}
<h2>{{ figure.title }}</h2>
<img src="{{ inline(figure.png) }}" width="{{ figure.width }}" alt="{{ figure.alt }}"><p>{{ figure.caption }}</p>
{% if loop.first %}<ul>{% for words in said[1:] %}<li>{{ words }}</li>{% endfor %}</ul>{% endif %}
{% endfor %}
<h2>Every point</h2>
<table><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></html>
"""


def _page(points: Sequence[Point], shown: Sequence[Figure], said: Sequence[str]) -> str:
    differ = horizon.varying(points)
    columns = [
        *(horizon.NAMES[axis] for axis in differ),
        "PROCESS",
        "LATER",
        "perfect window",
        "departs",
        "time constant",
        "training",
    ]
    rows = [
        [
            *(horizon.value_told(point.values[axis]) for axis in differ),
            _told(point.process),
            _told(point.later),
            _figure(point.process.window),
            _departs(point.process),
            _figure(point.tau_steps, 0),
            {True: "converged", False: "open", None: "open (measured too seldom)"}[point.converged],
        ]
        for point in points
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        said=said, figures=shown, inline=report.inline, columns=columns, rows=rows
    )


def _told(found: Imitated) -> str:
    if not found.is_answered:
        return found.answer
    ends = ", ".join(_figure(end) for end in found.ci95)
    return f"{found.answer} {_figure(found.share)} [{ends}]"


def _figure(number: float | None, digits: int = 2) -> str:
    return "–" if number is None or not math.isfinite(number) else f"{number:.{digits}f}"


def _departs(found: Imitated) -> str:
    if not found.is_answered:
        return "–"
    if found.departure_steps is not None:
        return f"{found.departure_side} after {found.departure_steps:,.0f}"
    return f"not within {found.horizon_steps:,}" if found.departure_is_resolved else "not resolved"
