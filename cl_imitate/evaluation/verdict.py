"""The verdict: all answers, the gate, what makes a run void. Pure: no files, no clock."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cl_imitate import load_config
from cl_imitate.config import Experiment
from cl_imitate.evaluation import answers, convergence, lead, wording
from cl_imitate.evaluation.gate import gate_of
from cl_imitate.evaluation.results import Cell

SCHEMA = 1

COLUMNS = ("question", "measured", "estimate [95% interval]", "the essay predicts", "what it means")


def decide(
    experiment: Experiment,
    cells: Sequence[Cell],
    *,
    fingerprint: str,
    frozen: Mapping[str, str | Sequence[str] | Mapping[str, str]],
    seconds: Mapping[str, float],
    td_steps: int,
    imitator_steps: int,
    gate_cells: Sequence[Cell] | None = None,
    gate_facts: Mapping[str, Any] | None = None,
    controls: Mapping[str, Mapping[str, Any]] | None = None,
    loss_curves: Sequence[Mapping[str, Any]] = (),
) -> dict:
    """The verdict, ready for JSON (what could not be computed is null).

    Args:
      frozen: `sha256_before` and `sha256_after` of every imitator's parameters.
      gate_cells: the gate experiment's cells, where the gate is an experiment of its own.
      gate_facts: that experiment's `fingerprint` and `frozen`.
      controls: what every control that was run says (`controls.study.Control.answer`).
      loss_curves: what losses.json holds.
    """
    contexts = sorted({cell.context_steps for cell in cells if cell.protocol != "gate"})
    by_context = {
        context: answers.questions(experiment, [cell for cell in cells if cell.context_steps == context])
        for context in contexts
    }
    questions = by_context.get(experiment.imitator.context_steps) or answers.questions(experiment, [])
    gate = gate_of(experiment, cells if experiment.gate.experiment == "self" else gate_cells or [])
    if gate_facts is not None:
        gate |= {name: gate_facts[name] for name in ("fingerprint", "frozen")}
    void = _void_reasons(gate, frozen, controls or {})
    return _plain(
        {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "void": void,
            "summary": lead.summary(questions, experiment.rules, void, controls),
            "not_run": wording.not_run(experiment, controls or {}),
            "controls": dict(controls or {}),
            "gate": gate,
            "frozen": dict(frozen),
            "training": convergence.training(experiment.rules, loss_curves),
            "context_steps": experiment.imitator.context_steps,
            "context_at_least": experiment.imitator.context_at_least,
            "memory": experiment.imitator.memory,
            "questions": questions,
            "contexts": {str(context): by_context[context] for context in contexts},
            "seconds": dict(seconds),
            "td_steps": td_steps,
            "imitator_steps": imitator_steps,
            "rules": dataclasses.asdict(experiment.rules),
            "rules_sha256": load_config.rules_sha256(experiment),
        }
    )


def rows(verdict: Mapping) -> list[tuple[str, ...]]:
    """The verdict as a table under `COLUMNS`."""
    return [
        (
            one["question"],
            _measured(one),
            wording.number(one["estimate"], one["ci95"]),
            one["predicted"],
            one["meaning"],
        )
        for one in verdict["questions"].values()
    ]


def reasons(verdict: Mapping) -> list[str]:
    """Of what was asked: why an answer is void or undecided, or what a yes does not cover. A line each."""
    return [
        f"{name.upper()} is {one['answer']}: {one['reason']}"
        for name, one in verdict["questions"].items()
        if one.get("reason") and one["answer"] != "not run"
    ]


def _void_reasons(gate: dict, frozen: Mapping[str, Any], controls: Mapping[str, Mapping]) -> list[str]:
    reasons = []
    if gate["passed"] is None:
        reasons.append(f"the gate was not run: {gate['reason']}")
    elif not gate["passed"]:
        reasons.append(
            f"the gate failed: imitator {gate['imitator_gain']:.2f} of the learner's gain, wiped "
            f"{gate['wiped_gain']:.2f}, {gate['fraction_of_tasks_above_half']:.0%} of tasks above half"
        )
    reasons += [
        f"a positive control failed: {name.replace('_', ' ')}"
        for name, found in controls.items()
        if found.get("passed") is False
    ]
    reasons += _hash_reasons(frozen, "the frozen imitators'")
    if "frozen" in gate:
        reasons += _hash_reasons(gate["frozen"], "the gate's frozen imitators'")
    return reasons


def _hash_reasons(frozen: Mapping[str, Any], whose: str) -> list[str]:
    before, after = frozen.get("sha256_before"), frozen.get("sha256_after")
    if not before or not after:
        return [f"the hash of {whose} parameters was not recorded"]
    return [] if before == after else [f"{whose} parameters changed: SHA-256 before and after differ"]


def _measured(one: Mapping) -> str:
    return f"{one['answer']} (exceeds)" if one.get("exceeds") else one["answer"]


def _plain(value: Any) -> Any:
    """For JSON: no numpy types, null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
