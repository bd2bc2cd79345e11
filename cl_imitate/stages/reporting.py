"""The last stage: decide, and draw."""

from typing import Any

from cl_imitate import processes
from cl_imitate.config import Experiment
from cl_imitate.envs import tasks
from cl_imitate.evaluation import costs, results, verdict
from cl_imitate.evaluation.controls import registry
from cl_imitate.files import read_json
from cl_imitate.stages.controlling import load_controls
from cl_imitate.stages.run import Run, gate_run, has_own_gate


def report_stage(run: Run) -> dict[str, Any]:
    """The verdict and the page; needs no accelerator. Returns the verdict; of a job, only the first process has one."""
    from cl_imitate import report  # here: the plotting library is slow to import and no other stage needs it

    run.folder.require("evaluate")
    experiment, fingerprint = run.experiment, run.folder.fingerprint
    gate_cells = None
    if not has_own_gate(experiment):
        run.folder.require("gate")
        gate = gate_run(run)
        gate_cells = results.load_cells(
            gate.path / "evaluation" / "cells.npz", fingerprint=gate.folder.fingerprint
        )
    if experiment.controls.run:
        run.folder.require("control")
    with run.folder.stage("report"):
        if not processes.is_first():
            return {}
        cells = results.load_cells(run.path / "evaluation" / "cells.npz", fingerprint=fingerprint)
        manifest = run.folder.manifest
        losses = read_json(
            run.path / "losses.json",
            whose="a run's losses",
            kind=list,
            fix="Redo it: `cl-imitate train --again` with this --run-dir.",
        )
        manifest.pop("attempts")  # this stage's own, which is under way
        stages = manifest["stages"]
        decided = verdict.decide(
            experiment,
            cells,
            fingerprint=fingerprint,
            frozen=stages["evaluate"]["frozen"],
            seconds={name: facts["seconds"] for name, facts in stages.items()},
            td_steps=sum(facts.get("td_updates", 0) for facts in stages.values()),
            imitator_steps=stages["evaluate"]["imitator_steps"],
            gate_cells=gate_cells,
            gate_facts=stages.get("gate"),
            controls=registry.answers(experiment, load_controls(run)),
            loss_curves=losses,
        )
        decided["cost"] = _costs(experiment, cells, stages, decided["controls"])
        run.folder.write_json("verdict.json", decided)
        report.write(
            run.path,
            experiment=experiment,
            cells=cells,
            gate_cells=gate_cells,
            verdict=decided,
            manifest=manifest,
            loss_curves=losses,
        )
    return decided


def _costs(experiment: Experiment, cells: list[results.Cell], stages: dict, controls: dict) -> dict[str, Any]:
    timed = stages["evaluate"].get("seconds_per_step", {})
    names = {"learner": "learner", "imitator": f"imitator, context {experiment.imitator.context_steps}"}
    seconds = {arm: timed[name] for arm, name in names.items() if name in timed}
    took = stages.get("control", {}).get("took", {}).get("learner_posterior")
    if took:
        seconds["posterior"] = took["seconds"] / took["steps"]
    spec = tasks.make(experiment.environment, shapes=experiment.shapes).env.spec
    posterior = controls.get("learner_posterior")
    return costs.costs(experiment, spec, cells, seconds_per_step=seconds, posterior=posterior)
