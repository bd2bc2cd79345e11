"""A run's report: one self-contained HTML page, and its figures as PNG files beside it."""

import base64
import dataclasses
import importlib.resources
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from cl_imitate.config import Experiment, Rules
from cl_imitate.evaluation import lead
from cl_imitate.evaluation.distances import would_change
from cl_imitate.evaluation.results import Cell
from cl_imitate.figures.canvas import Figure, steps
from cl_imitate.figures.curves import curves
from cl_imitate.figures.headline import headline
from cl_imitate.figures.ladder import ladder
from cl_imitate.figures.losses import losses
from cl_imitate.figures.parity import parity
from cl_imitate.figures.points import points
from cl_imitate.figures.posterior_cost import posterior_cost

GLOSSARY = {
    "learner": "A deep-Q network whose weights are changed by TD updates as it acts: the target continual learner.",
    "imitator": "A transformer trained by gradient descent to predict the next action in learners' histories, then "
    "frozen: from then on, only its activations change.",
    "history": "Everything one learner observed and did, in order, from random initialisation.",
    "recorded, held-out learners": "Recorded learners train the imitator. It is tested on held-out ones: other seeds, "
    "and other tasks where the family has them.",
    "fork": "The step at which recording stops for all learners. Nothing later is in any training data.",
    "prompt": "The held-out learner's last steps before the fork, which the frozen imitator is given to act on from.",
    "context": "How many of its last steps the imitator acts on.",
    "held": "A learner with weights and epsilon fixed at the fork's.",
    "reference": "The mean return over the last tenth of the horizon of the learner that goes on, or of a fresh one.",
    "gain": "A return less the random policy's, as a share of the reference less the random policy's.",
    "wiped": "The imitator with its context cleared at every episode: it can learn nothing from one to the next.",
    "ceiling": "What perfect knowledge of the task would return at the learner's epsilon.",
    "perfect use of the window": "What the best policy would return that knows the family and remembers only as "
    "many last steps as the imitator, at the learner's epsilon. A break at this line says that the window does not "
    "hold what there is to know; a break below it says something about learning.",
    "rung": "A step of the novelty ladder: how far the new task is from those of training.",
    "time constant": "The steps an arm takes to half of its own gain. Pace: the imitator's over the learner's.",
    "rho": "NOW and MONTH: the frozen imitator's gain over random, as a share of the held learner's. 1 is as good.",
    "r": "PROCESS and LATER: what the frozen imitator gains over a span, as a share of what the learner gains over it. "
    "1 is as much, 0 nothing.",
    "departure": "The first of three consecutive blocks in which imitator and learner surely differ by over a tenth of "
    "the learner's range, each relative to its own level at the start. Not within the span: there are never three "
    "in which they could differ by so much. Not resolved: there are, the intervals being too wide to tell.",
    "void": "The run, or the question, cannot carry an answer; the reason stands beside it.",
    "IQM": "Interquartile mean: the mean of the middle half.",
}


def write(
    run_dir: pathlib.Path,
    *,
    experiment: Experiment,
    cells: Sequence[Cell],
    gate_cells: Sequence[Cell] | None,
    verdict: Mapping[str, Any],
    manifest: Mapping[str, Any],
    loss_curves: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Write `run_dir/report/index.html` and the PNG files; returns the page's path.

    Args:
      loss_curves: one an imitator: `context_steps`, `fork_step`, `updates [u]`, `train_loss [S, u]`,
        `held_out_update [v]`, `held_out_loss [S, v]`.
    """
    folder = run_dir / "report"
    folder.mkdir(parents=True, exist_ok=True)
    sections = _sections(experiment, cells, gate_cells or [], verdict, loss_curves)
    for figure in (one for found in sections.values() for one in found):
        _replace(folder / f"{figure.name}.png", figure.png)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": _number, "steps": steps, "inline": inline, "capital": _capital}
    source = importlib.resources.files("cl_imitate").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(source).render(
        experiment=experiment,
        verdict=verdict,
        how_sure=lead.how_sure(verdict),
        would_change=would_change(verdict, experiment.rules),
        sections=sections,
        facts=list(_facts(manifest)),
        configuration=toml_like(dataclasses.asdict(experiment)),
        command=manifest.get("command") or _command(run_dir, manifest),
        glossary=GLOSSARY,
        run_dir=run_dir,
    )
    path = folder / "index.html"
    _replace(path, page.encode())
    return path


def toml_like(config: Mapping[str, Any], prefix: str = "") -> str:
    """A resolved configuration as TOML would write it (None is left out)."""
    plain = [f"{key} = {_toml_value(value)}" for key, value in config.items() if _is_plain(value)]
    blocks = ["\n".join(plain)] if plain else []
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            blocks.append(f"[{name}]\n{toml_like(value, f'{name}.')}")
        elif value is not None and not _is_plain(value):
            blocks += [f"[[{name}]]\n{toml_like(one, f'{name}.')}" for one in value]
    return "\n\n".join(blocks)


def _sections(
    experiment: Experiment,
    cells: Sequence[Cell],
    gate_cells: Sequence[Cell],
    verdict: Mapping[str, Any],
    loss_curves: Sequence[Mapping[str, Any]],
) -> dict[str, list[Figure]]:
    """Figures by section of the page, the configured context's before the others'."""
    rules, own = experiment.rules, verdict["context_steps"]
    others = sorted({cell.context_steps for cell in cells} - {own})
    sections: dict[str, list[Figure | None]] = {
        "headline": [headline(cells, verdict, experiment.evaluation, rules)],
        "parity": [parity(verdict, rules)],
        "ladder": [ladder(verdict["questions"]["elsewhere"].get("rungs", []), rules)],
        "points": [points(_per_learner(experiment, cells), rules)],
        "losses": [losses(loss_curves)],
        "gate": [
            _gate_curve(gate_cells, rules),
            posterior_cost(verdict["controls"].get("learner_posterior", {})),
        ],
        "later": [],
        "process": [],
        "elsewhere": [],
    }
    for context in (own, *others):
        of_context = [cell for cell in cells if cell.context_steps == context]
        suffix = "" if context == own else f", context {context}"
        for name, figure in _curves(of_context, rules, suffix, "" if context == own else f"_{context}"):
            sections[name].append(figure)
    return {name: [one for one in found if one is not None] for name, found in sections.items()}


def _curves(cells: Sequence[Cell], rules: Rules, suffix: str, tail: str) -> Iterator[tuple[str, Figure]]:
    process = sorted((one for one in cells if one.protocol == "process"), key=lambda one: one.start_step)
    later = sorted((one for one in cells if one.protocol == "later"), key=lambda one: one.fork_step)
    nows = [
        one
        for one in cells
        if one.protocol == "now" and one.fork_step not in {two.fork_step for two in later}
    ]
    around = sorted([*later, *nows], key=lambda one: one.fork_step)
    if around:
        yield (
            "later",
            curves(
                f"forks{tail}",
                f"All arms around each fork{suffix}",
                "The vertical line is the fork: left of it, the same learners lived again from birth; right of it, "
                "the frozen imitator and the other arms, on the same tasks with the same random numbers.",
                around,
                rules,
                panel_title=lambda cell: f"fork at {steps(cell.fork_step)}",
                before=next((one for one in process if one.start_step == 0), None),
            ),
        )
    if process:
        yield (
            "process",
            curves(
                f"process{tail}",
                f"PROCESS: from each stage of a learner's life{suffix}",
                "The learner that goes on from a stage, and the frozen imitator prompted at the same stage (at 0: "
                "with nothing), over the rest of the recorded span.",
                process,
                rules,
                panel_title=lambda cell: (
                    f"from {steps(cell.start_step)}" if cell.start_step else "from nothing"
                ),
            ),
        )
    found = [one for one in cells if one.protocol == "elsewhere"]
    if found:
        yield (
            "elsewhere",
            curves(
                f"elsewhere{tail}",
                f"ELSEWHERE: a fresh learner and the frozen imitator, rung by rung{suffix}",
                "Both start from nothing in a task of the rung. Transplanted: the learner with the weights it has "
                "from its source task, and the imitator prompted from there.",
                sorted(found, key=lambda one: one.rung or ""),
                rules,
                panel_title=lambda cell: f"{cell.rung} · {cell.rung_name}",
            ),
        )


def _gate_curve(cells: Sequence[Cell], rules: Rules) -> Figure | None:
    empty = [one for one in cells if one.protocol in ("gate", "process") and one.start_step == 0]
    found = [one for one in empty if one.split == "held_out"]
    if not found:
        return None
    return curves(
        "gate",
        "The gate: a family where a yes is known to be possible",
        "The same code, from an empty context on unseen tasks of the gate's family.",
        [max(found, key=lambda one: (one.fork_step, one.context_steps))],
        rules,
        panel_title=lambda cell: f"context {cell.context_steps}",
    )


def _per_learner(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Cell]:
    wanted = {
        "NOW": ("now", experiment.evaluation.now_fork_step, None),
        "PROCESS, from nothing": ("process", None, 0),
        "LATER": ("later", experiment.evaluation.later_fork_step, None),
    }
    found = {}
    for title, (protocol, fork, stage) in wanted.items():
        usable = [
            one
            for one in cells
            if one.protocol == protocol
            and one.context_steps == experiment.imitator.context_steps
            and one.split == "held_out"
            and fork in (None, one.fork_step)
            and stage in (None, one.start_step)
        ]
        if usable:
            found[title] = max(usable, key=lambda one: one.fork_step)
    return found


def _command(run_dir: pathlib.Path, manifest: Mapping[str, Any]) -> str:
    parent = f" --parent {manifest['parent']['path']}" if "parent" in manifest else ""
    return f"cl-imitate run {run_dir / 'config.toml'}{parent}"


def _facts(manifest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """A manifest's entries as names and values, nested ones joined by dots, those of a list counted from 1."""
    for key, value in manifest.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for number, one in enumerate(value, start=1):
                yield from _facts(one, f"{prefix}{key}.{number}.")
        else:
            words = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            # a platform and its kind are often one word twice: "cpu cpu"
            yield f"{prefix}{key}", " ".join(dict.fromkeys(words.split())) if key == "device" else words


def _number(value: float | None, interval: Sequence[float | None] | None = None, digits: int = 2) -> str:
    """0.98, or 0.98 [0.95, 1.01]; a dash for what was not measured."""
    if value is None:
        return "–"
    shown = [
        "?" if one is None else f"{round(one, digits) + 0.0:.{digits}f}" for one in (value, *(interval or ()))
    ]
    return shown[0] if interval is None else f"{shown[0]} [{', '.join(shown[1:])}]"


def _capital(words: str) -> str:
    """A sentence begins so; what follows keeps its letters (`capitalize` would make all others small)."""
    return words[:1].upper() + words[1:]


def inline(png: bytes) -> str:
    """A PNG as an address that a page carries in itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is not None and not isinstance(value, Mapping)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(one) for one in value)}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Write whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
