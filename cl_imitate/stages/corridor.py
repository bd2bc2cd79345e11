"""The corridor: every stage in order. Each reads what earlier ones left in the run folder, and leaves its own there."""

from cl_imitate.stages.controlling import control_stage
from cl_imitate.stages.evaluating import evaluate_stage
from cl_imitate.stages.reporting import report_stage
from cl_imitate.stages.run import Run, gate_run, has_own_gate
from cl_imitate.stages.simulating import simulate_stage
from cl_imitate.stages.training import train_stage


def gate_stage(run: Run) -> None:
    """Run the experiment that shows that this instrument can see a yes, inside this run's folder."""
    if has_own_gate(run.experiment):
        raise ValueError(
            'gate.experiment = "self": the gate is this run\'s own PROCESS, and there is nothing to run for it.'
        )
    with run.folder.stage("gate") as facts:
        gate = gate_run(run)
        run_all(gate, stop_after="evaluate")
        done = gate.folder.manifest["stages"]
        facts["fingerprint"] = gate.folder.fingerprint
        facts["frozen"] = done["evaluate"]["frozen"]
        # Those of all attempts at its stages, where this stage itself only knows of what it saw the end of.
        spent = {
            name: round(sum(one[name] for one in done.values()), 2) for name in ("seconds", "compile_seconds")
        }
        spent["td_updates"] = sum(one.get("td_updates", 0) for one in done.values())
        if (name := gate.folder.manifest.get("copied_from")) is None:
            facts.update(spent)
        else:  # a point of the same sweep, which counts them as its own
            facts.update({key: type(value)(0) for key, value in spent.items()})
            facts.update(copied_from=name, copied=spent)


STAGE_FUNCTIONS = {
    "simulate": simulate_stage,
    "gate": gate_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "control": control_stage,
    "report": report_stage,
}


def run_all(run: Run, *, stop_after: str = "report") -> None:
    """Every stage that has not finished in this folder, in order."""
    for name, stage in STAGE_FUNCTIONS.items():
        if name == "gate" and has_own_gate(run.experiment):
            continue
        if name == "control" and not run.experiment.controls.run:
            continue
        if not run.folder.is_done(name):
            stage(run)
        if name == stop_after:
            return
