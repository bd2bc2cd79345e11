"""What the learner posterior's figures mean: was the truth found, the protocols' answers, its shortfall, its cost."""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cl_imitate import cost, statistics
from cl_imitate.config import Experiment
from cl_imitate.envs import tasks
from cl_imitate.evaluation import answers, results
from cl_imitate.evaluation.controls.posterior_places import Place, hypotheses, places
from cl_imitate.evaluation.controls.study import Arrays
from cl_imitate.statistics import Estimate

FOUND = 0.99
"""The posterior on the truth from which it counts as found."""
SHARE_FOUND = 0.9
"""Of the learners, in so many the truth must be found. It cannot be in a learner whose stream does not tell it from
another hypothesis: where both would have acted unlike only in steps in which the learner explored."""

_ASKED = ("now", "process", "later")


def with_truth(experiment: Experiment, measured: Arrays) -> dict[str, Any]:
    """The positive control's answer. The figures on top are those of the last place; `places` holds all."""
    found = {place.name: _with_truth_at(place, _of(measured, place.name)) for place in places(experiment)}
    last = list(found)[-1]
    passed = all(one["passed"] for one in found.values())
    return {
        "estimate": found[last]["protocols"]["process"]["ratio"],
        "ci95": found[last]["protocols"]["process"]["ci95"],
        "unit": f"PROCESS from nothing on {last}: the posterior's gain over the learner's",
        "meaning": _meaning_with_truth(found),
        "passed": passed,
        **{
            key: found[last][key]
            for key in ("posterior_on_truth", "posterior_on_truth_ci95", "num_hypotheses")
        },
        "place": last,
        "places": found,
    }


def without_truth(experiment: Experiment, measured: Arrays) -> dict[str, Any]:
    """What is lost without the truth, or without its hidden causes. On top, the last place's without the truth."""
    found = {place.name: _without_truth_at(place, _of(measured, place.name)) for place in places(experiment)}
    last = list(found)[-1]
    removed = found[last]["truth_removed"]
    return {
        "estimate": removed["log_loss_shortfall"],
        "ci95": removed["log_loss_shortfall_ci95"],
        "unit": f"nats an action on {last}: the log-loss without the true hypothesis less that with it",
        "meaning": _meaning_without_truth(last, found[last]),
        "place": last,
        "places": found,
    }


def _of(arrays: Mapping[str, np.ndarray], name: str) -> Arrays:
    """Those whose names begin so, by the rest of their names."""
    return {
        key.removeprefix(f"{name}|"): values for key, values in arrays.items() if key.startswith(f"{name}|")
    }


def _with_truth_at(place: Place, measured: Arrays) -> dict[str, Any]:
    one = _of(measured, "with_truth")
    asked = _protocols(place, one)
    course = np.sum(one["weights"] * one["same"][:, None], axis=-1)  # [n, C]
    on_truth = _mean(place, course[:, -1], one["task"], "posterior on truth")
    after = np.cumsum(course > FOUND, axis=1) > 0
    after = np.concatenate(
        [np.zeros_like(after[:, :1]), after[:, :-1]], axis=1
    )  # the chunks after it was found
    greedy_steps = (one["greedy_steps"] * after).sum()
    first = np.where((course > FOUND).any(axis=1), np.argmax(course > FOUND, axis=1) + 1.0, math.inf)
    answered = [entry["answer"] for entry in asked.values() if entry["counts"]]
    share_found = float((course[:, -1] > FOUND).mean())
    passed = share_found >= SHARE_FOUND and bool(answered) and set(answered) == {"yes"}
    return {
        "passed": passed,
        "posterior_on_truth": on_truth.value,
        "posterior_on_truth_ci95": on_truth.interval(place.experiment.rules.confidence),
        "lowest_posterior_on_truth": course[:, -1].min(),
        "share_found": share_found,
        "found_after_steps": np.median(first)
        * place.chunk_steps,  # half of the learners; to the end of a chunk
        "distance_once_found": (one["distance"] * after).sum() / greedy_steps if greedy_steps else math.nan,
        "num_hypotheses": one["same"].shape[1],
        "num_learners": len(one["same"]),
        "same_as_truth": one["same"].sum(axis=1).mean(),
        "expected_of_truth": one["expected"][:, 0].mean(),
        "log_loss": _mean(place, one["log_loss"].mean(axis=1), one["task"], "log-loss").value,
        "protocols": asked,
        **costs(place),
    }


def _without_truth_at(place: Place, measured: Arrays) -> dict[str, Any]:
    whole, confidence = _of(measured, "with_truth"), place.experiment.rules.confidence
    found: dict[str, Any] = {}
    for name in ("truth_removed", "own_causes"):
        one = _of(measured, name)
        more = one["log_loss"].mean(axis=1) - whole["log_loss"].mean(axis=1)
        shortfall = _mean(place, more, one["task"], name)
        found[name] = {
            "log_loss_shortfall": shortfall.value,
            "log_loss_shortfall_ci95": shortfall.interval(confidence),
            "log_loss": one["log_loss"].mean(),
            "posterior_on_true_setting": one["weights"][:, -1, 0].mean(),
            "num_hypotheses": one["same"].shape[1],
            "protocols": _protocols(place, one),
        }
    found["log_loss_with_truth"] = whole["log_loss"].mean()
    found["own_causes"]["num_initialisations"] = place.experiment.controls.posterior.num_initialisations
    return found


def _protocols(place: Place, one: Arrays) -> dict[str, dict[str, Any]]:
    """The protocols' answers, the posterior in the imitator's place; `counts`: not void for the learner's own sake."""
    cells = results.unpack(_of(one, "cells"), json.loads(str(one["index"])))
    found = answers.questions(place.experiment, cells)
    asked = {}
    for name in _ASKED:
        entry = found[name]
        asked[name] = {
            "answer": entry["answer"],
            "ratio": entry["estimate"],
            "ci95": entry["ci95"],
            "reason": entry["reason"],
            # a posterior that fails NOW makes LATER void too, and that counts
            "counts": entry["void_because"] != "learner",
        }
    return asked


def costs(place: Place) -> dict[str, Any]:
    """Operations a step and bytes, of one stream: of learner, posterior and imitator; and where they meet.

    `hypotheses_at_transformer_flops` is how many hypotheses (of this mix) cost what the imitator costs.
    """
    experiment = place.experiment
    spec = tasks.make(experiment.environment, shapes=experiment.shapes).env.spec
    learners = [one.learner for one in hypotheses(experiment.learner, experiment.controls.posterior)]
    imitator = experiment.imitator
    of_each = {
        "learner": cost.learning(experiment.learner, spec),
        "posterior": cost.posterior(learners, spec),
        "transformer": cost.acting(imitator, spec, context_steps=imitator.context_steps),
    }
    flops = {name: one.flops_per_step for name, one in of_each.items()}
    return {
        "flops_per_step": flops,
        "bytes": {name: one.bytes for name, one in of_each.items()},
        "hypotheses_at_transformer_flops": flops["transformer"] / (flops["posterior"] / len(learners)),
    }


def _mean(place: Place, values: np.ndarray, task: np.ndarray, name: str) -> Estimate:
    """The mean over learners, with an interval over tasks and learners."""
    seed = zlib.crc32(f"{place.experiment.seed} {place.name} {name}".encode())
    return statistics.estimate(
        lambda one: one.mean(axis=(-2, -1)),
        values[None],
        task=task,
        rng=np.random.default_rng(seed),
        samples=place.experiment.rules.bootstrap_samples,
    )


def _meaning_with_truth(found: Mapping[str, Mapping[str, Any]]) -> str:
    said = []
    for name, one in found.items():
        words = [f"{asked.upper()} {entry['answer']}" for asked, entry in one["protocols"].items()]
        num = one["num_learners"]
        said.append(
            f"On {name}, given the hidden causes, {one['num_hypotheses']} learners run inside put "
            f"{one['posterior_on_truth']:.3f} on the true one, and found it in {round(one['share_found'] * num)} of "
            f"{num}; {', '.join(words)}."
        )
    if all(one["passed"] for one in found.values()):
        return f"{' '.join(said)} {_seen(found)}"
    return (
        f"{' '.join(said)} That is no yes throughout: what this run says of the imitator cannot be believed."
    )


def _seen(found: Mapping[str, Mapping[str, Any]]) -> str:
    """To which questions a yes was seen, and to which it was not because the learners leave them void."""
    yes = {
        name for one in found.values() for name, entry in one["protocols"].items() if entry["answer"] == "yes"
    }
    shown = [name.upper() for name in _ASKED if name in yes]
    missing = [name.upper() for name in _ASKED if name not in yes]
    said = f"The instrument can see a yes to {', '.join(shown)}."
    return f"{said} To {', '.join(missing)} this is not shown." if missing else said


def _meaning_without_truth(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    removed, own = (found[one] for one in ("truth_removed", "own_causes"))

    def ratios(one: Mapping[str, Any]) -> str:
        shown = (
            f"{asked.upper()} {entry['answer'] if entry['answer'] == 'void' else format(entry['ratio'], '.2f')}"
            for asked, entry in one["protocols"].items()
        )
        return ", ".join(shown)

    return (
        f"On {name}, the true learner left out: {ratios(removed)} of the learner's gain. With random initialisations "
        f"instead of the learner's own: {own['log_loss_shortfall']:.3f} nats worse, {ratios(own)}."
    )
