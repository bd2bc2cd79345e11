"""A finished run as points of a horizon: one for each context length, where it stands on every axis."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cl_imitate import load_config
from cl_imitate.config import DarkRoom, Environment, Experiment, Lock
from cl_imitate.evaluation.horizon import Imitated, Point, Shown
from cl_imitate.evaluation.trained import Trained

_NOT_ASKED = {"answer": "not run", "estimate": None, "ci95": (None, None)}
_NO_SETTINGS = {
    "environment": {
        *("family", "game", "num_positions", "size", "symbols"),
        *("initial_positions", "grow_every_steps", "grow_from_step"),
    },
    "learner": {"learning_rate", "discount", "epsilon_start", "epsilon_end", "replay"},
    # Heads go with the width, refills with the context.
    "imitator": {
        *("kind", "context_steps", "also_context_steps", "width", "num_layers", "sees"),
        *("num_heads", "refill_steps", "rematerialise"),
    },
    # Batches hold as many steps at every context, warm-up and looks go with the updates; the rest says where it is
    # computed, or how many imitators there are.
    "training": {
        *("num_updates", "batch_size", "warmup_updates", "evaluate_every_updates", "evaluate_windows"),
        *("feed", "stream_learners", "stream_devices", "shard", "num_seeds", "first_seed", "block_size"),
    },
}
"""Axes of their own, what follows from them, and what no answer depends on."""


def read(path: pathlib.Path) -> list[Point]:
    """A finished run's points, one for each context length.

    Raises:
      ValueError: its verdict is damaged, or the parameters of its imitators changed.
    """
    experiment = load_config.load_of_run(path)
    try:
        decided = json.loads((path / "verdict.json").read_text(encoding="utf-8"))
        points = list(_points(experiment, decided, path.name))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path / 'verdict.json'} is damaged ({error!r}). Redo it: `cl-imitate report --again --run-dir {path}`."
        ) from error
    # A gate that is the point's own PROCESS fails where the answer is no: the page says how many pass. All else counts.
    is_own = experiment.gate.experiment == "self"
    if broken := [one for one in decided["void"] if not (is_own and one.startswith("the gate failed"))]:
        raise ValueError(f"{path} is void: {'; '.join(broken)}. Leave it out, or mend it.")
    return points


def _points(experiment: Experiment, decided: Mapping[str, Any], name: str) -> Iterator[Point]:
    last, later_fork = experiment.recorded_steps, experiment.evaluation.later_fork_step
    trained = {(one["context_steps"], one["fork_step"]): one for one in decided["training"]}
    for context, questions in decided["contexts"].items():
        stages = questions["process"].get("stages", ())
        first = next((one for one in stages if one["stage_step"] == 0), {})
        rungs = [one for one in questions["elsewhere"].get("rungs", ()) if one["rung"] == "2b"]
        yield Point(
            name=name,
            values=values(experiment, int(context)),
            training=_trained(trained.get((int(context), last), {})),
            later_training=_trained(trained.get((int(context), later_fork), {})),
            tau_steps=first.get("learner_time_constant_steps"),
            passes_gate=decided["gate"]["passed"],
            process=_imitated(first or _NOT_ASKED, last),
            later=_imitated(questions["later"], experiment.evaluation.later_steps),
            elsewhere=next((one["recovered"] for one in rungs if one["counted"]), None),
            shown=_shown(decided),
            settings=settings(experiment),
            later_values=later_values(experiment),
        )


def values(experiment: Experiment, context_steps: int) -> dict[str, Any]:
    """Where a run stands on every axis of `evaluation.horizon`."""
    environment, learner, simulation = experiment.environment, experiment.learner, experiment.simulation
    return {
        "context": context_steps,
        "ring": environment.num_positions if isinstance(environment, Lock) else None,
        "room": environment.size if isinstance(environment, DarkRoom) else None,
        "memory": experiment.imitator.kind,
        "updates": experiment.training.num_updates,
        "width": experiment.imitator.width,
        "layers": experiment.imitator.num_layers,
        "learners": simulation.num_recorded,
        "tasks": simulation.num_tasks or "one each",
        "pace": learner.learning_rate,
        "epsilon": learner.epsilon_end,
        "family": getattr(environment, "game", environment.family),
        "symbols": getattr(environment, "symbols", None),
        "growth": _growth(environment),
        "sees": experiment.imitator.sees,
        "replay": learner.replay,
        "discount": learner.discount,
        "seed": experiment.seed,
        "span": experiment.recorded_steps,
        "rest": hashlib.sha256(repr(sorted(settings(experiment).items())).encode()).hexdigest()[:6],
    }


def later_values(experiment: Experiment) -> dict[str, int]:
    """Where its LATER stands, on every axis of `horizon.LATER_AXES`."""
    asked = experiment.evaluation
    return {"fork": asked.later_fork_step, "onward": asked.later_steps, "now": asked.now_steps}


def settings(experiment: Experiment) -> dict[str, Any]:
    """By dotted key, what is no axis, does not follow from one, and could yet move an answer."""
    found = {}
    for section, others in _NO_SETTINGS.items():
        values = dataclasses.asdict(getattr(experiment, section))
        found |= {f"{section}.{key}": value for key, value in values.items() if key not in others}
    learner = experiment.learner
    found["learner's epsilon falls"] = learner.epsilon_start != learner.epsilon_end
    return found


def _growth(environment: Environment) -> str | None:
    if not isinstance(environment, Lock) or not environment.grow_every_steps:
        return None
    return (
        f"from {environment.initial_positions}, one in {environment.grow_every_steps} steps from "
        f"{environment.grow_from_step} on"
    )


def _shown(decided: Mapping[str, Any]) -> Shown | None:
    """Verdicts made before this was counted have the control without it."""
    entry = ((decided.get("controls") or {}).get("novelty") or {}).get("shown") or {}
    if entry.get("estimate") is None or None in entry["ci95"]:
        return None
    return Shown(entry["estimate"], *entry["ci95"])


def _trained(entry: Mapping[str, Any]) -> Trained:
    own = ("converged", "held_out_loss", "above_floor", "memorises")
    return Trained(**{name: entry.get(name) for name in own})


def _imitated(entry: Mapping[str, Any], horizon_steps: int) -> Imitated:
    low, high = entry["ci95"]
    window = entry.get("window") or {}
    departs = entry.get("departure_step")
    return Imitated(
        answer=entry["answer"],
        share=entry.get("ratio", entry.get("estimate")),
        ci95=(low, high),
        horizon_steps=horizon_steps,
        learner_gain=entry.get("learner_gain"),
        departure_steps=departs,
        departure_side=entry.get("departure_side"),
        # Verdicts made before this was told: what they did not see, they may have been unable to see.
        departure_is_resolved=entry.get("departure_resolved", departs is not None),
        window=window.get("estimate"),
        window_low=window.get("ci95", (None,))[0],
        ceiling=(entry.get("ceiling") or {}).get("estimate"),
    )
