"""The page of a horizon: the answer, the figures, every point, the rules, and where all of it comes from."""

import dataclasses
import importlib.resources
import json
import math
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

import cl_imitate
from cl_imitate import load_config, report
from cl_imitate.circumstances import git_revision
from cl_imitate.config import Rules
from cl_imitate.evaluation import findings, horizon
from cl_imitate.evaluation.horizon import Imitated, Point
from cl_imitate.evaluation.longer import TIMES
from cl_imitate.evaluation.moved import NO_CHANGE
from cl_imitate.figures.canvas import Figure

_TERMS = (
    *("learner", "imitator", "recorded, held-out learners", "fork", "context", "gain", "ceiling"),
    *("perfect use of the window", "time constant", "departure", "void"),
)
_NOT_KNOWN = "not recorded"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSource:
    """A run that has a result."""

    path: pathlib.Path
    fingerprint: str
    revision: str
    begun: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A folder that was given: a sweep's, or a run's."""

    path: pathlib.Path
    num_runs: int
    done: list[RunSource]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def revisions(self) -> str:
        return ", ".join(dict.fromkeys(one.revision for one in self.done)) or "–"

    @property
    def begun(self) -> str:
        """The first and the last day."""
        days = sorted({one.begun.partition(" ")[0] for one in self.done if one.begun != _NOT_KNOWN})
        return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "–"


def source(path: pathlib.Path, folders: Sequence[pathlib.Path]) -> Source:
    """What a given folder holds: `folders` are its runs, with a result or without."""
    done = [_run_source(one) for one in folders if (one / "verdict.json").is_file()]
    return Source(path=path, num_runs=len(folders), done=done)


def _run_source(folder: pathlib.Path) -> RunSource:
    told = load_config.manifest_of_run(folder)
    return RunSource(
        path=folder,
        fingerprint=told.get("fingerprint")
        or load_config.fingerprint(load_config.load(folder / "config.toml")),
        revision=told.get("git_revision") or _NOT_KNOWN,
        begun=told.get("started") or _NOT_KNOWN,
    )


def render(
    points: Sequence[Point],
    shown: Sequence[Figure],
    others: Sequence[str],
    *,
    sources: Sequence[Source],
    rules: Rules,
    out: pathlib.Path,
) -> str:
    """The page, whole. `others`: what is said beside the lead and the table of needed contexts."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": number, "inline": report.inline}
    template = importlib.resources.files("cl_imitate").joinpath("horizon.html.jinja")
    columns, rows = _table(points)
    given = [shlex.quote(str(one.path)) for one in sources]
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        lead=findings.lead(points),
        needs=findings.needs(points),
        voids=[one for one in others if one.startswith("VOID")],
        others=others,
        figures=shown,
        columns=columns,
        rows=rows,
        questions=_questions(sources),
        rules=_rules(rules),
        glossary={term: report.GLOSSARY[term] for term in _TERMS},
        sources=sources,
        command=f"cl-imitate horizon {' '.join(given)} --out {shlex.quote(str(out))}",
        drawn=time.strftime("%Y-%m-%d", time.gmtime()),
        version=cl_imitate.__version__,
        revision=git_revision() or _NOT_KNOWN,
    )


def _questions(sources: Sequence[Source]) -> list[Mapping[str, Any]]:
    """PROCESS and LATER as the first run's verdict has them; the findings say where rules differ from run to run."""
    first = next((run for one in sources for run in one.done), None)
    if first is None:
        return []
    decided = json.loads((first.path / "verdict.json").read_text(encoding="utf-8"))["questions"]
    return [decided[name] for name in ("process", "later") if name in decided]


def _rules(rules: Rules) -> dict[str, str]:
    blocks, margin = rules.departure_blocks, f"{rules.departure_margin:.0%}"
    return {
        "needed context": "The shortest context from which on PROCESS is yes at every converged point of a setting.",
        "converged": f"A training of at least {TIMES} times the updates, all else being equal, ends with a loss on "
        f"unseen learners that is lower by less than {rules.converged_share:.0%} of what is left of it. Where none is "
        "drawn here: the loss fell by less than that over the last quarter of the updates. The learning rate falls to "
        "its end meanwhile, so that says only that the schedule had nothing left to give. Other points are open: drawn "
        "hollow, and counted nowhere.",
        "memorises": "The loss on unseen learners turned up again while that on the recorded ones went on falling: "
        "more learners to watch could bring these imitators further, more updates could not.",
        "left out": "PROCESS over a recording that ends before the learning does: half of the learner's gain took "
        "more than half of it.",
        "moves the answer": "Two converged points that differ in one thing alone (in the updates: two whose own curves "
        "were flat) have different answers, and their intervals do not overlap. "
        "That it does not move the share is said only where the farthest ends of every two "
        f"intervals are less than {NO_CHANGE:g} apart, half of what lies between the bounds of a no and a yes.",
        "departs": f"At the first of {blocks} consecutive blocks in which the 95% interval of imitator less learner "
        f"lies wholly outside {margin} of the learner's range on either side. Not within the horizon: there are never "
        f"{blocks} in a row in which it reaches out of {margin}. Not resolved: there are, the intervals being too wide "
        "to tell.",
        "line": "The needed context against the learner's time constant, both in logarithms, of the greatest "
        "likelihood; fitted where all else is equal.",
    }


def _table(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and a row a point."""
    differ = horizon.varying(points)
    has_shown = any(one.shown for one in points)
    later = [axis for axis in horizon.LATER_AXES if len({one.later_values.get(axis) for one in points}) > 1]
    columns = [
        *(horizon.NAMES[axis] for axis in differ),
        "PROCESS",
        "perfect window",
        "departs",
        *(horizon.LATER_AXES[axis] for axis in later),
        *(["recorded lives come so far"] if has_shown else ()),
        "LATER",
        "departs",
        "time constant",
        "training",
    ]
    rows = [
        [
            *(horizon.value_told(point.values[axis]) for axis in differ),
            told(point.process) + (" (left out)" if point.is_cut_short else ""),
            number(point.process.window),
            departs(point.process),
            *(horizon.value_told(point.later_values.get(axis, "–")) for axis in later),
            *([point.shown.told if point.shown else "–"] if has_shown else ()),
            told(point.later),
            departs(point.later),
            number(point.tau_steps, 0),
            point.training.told,
        ]
        for point in points
    ]
    return columns, rows


def told(found: Imitated) -> str:
    """An answer with its share: `yes 0.98 [0.93, 1.03]`."""
    if not found.is_answered:
        return found.answer
    ends = ", ".join("unbounded" if end is None else number(end) for end in found.ci95)
    return f"{found.answer} {number(found.share)} [{ends}]"


def departs(found: Imitated) -> str:
    """`behind after 320`, `not within 1,920`, or that it is not resolved."""
    if not found.is_answered:
        return "–"
    if found.departure_steps is not None:
        return f"{found.departure_side} after {found.departure_steps:,.0f}"
    return f"not within {found.horizon_steps:,}" if found.departure_is_resolved else "not resolved"


def number(value: float | None, digits: int = 2) -> str:
    """1,024.00, or a dash for what was not measured."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
