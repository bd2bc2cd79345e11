"""The needed context L*(tau): the shortest context with which a frozen imitator goes through a learner's learning.

    python scripts/needed_context.py
    python scripts/needed_context.py --points "ring of 4" "ring of 8" --contexts 16 32 64 128

Learners of different slowness (ring, learning rate, epsilon) are variations of configs/needed_context.toml. For each,
contexts are bisected: every context asked about is a run in --folder, in which PROCESS from an empty context comes out
yes or not. A run that is there is read, one that was cut off goes on. Batches hold as many steps at every context.
`--kind linear_recurrence` bisects the imitator's width instead, with which its state grows; windows are whole lives.

One JSON line a learner (tau in steps, the bracket of L*, every answer, whether all trainings had converged), one for
the line through them, and a figure with its extrapolation to a learner of a million updates, marked as such.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from cl_imitate import cli, load_config
from cl_imitate.evaluation.needed import Line, Needed, bisect, fit
from cl_imitate.stages.corridor import run_all
from cl_imitate.stages.run import open_stage_run

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "needed_context.toml"
BATCH_STEPS = 4096
HEAD_SIZE = 16
THE_ESSAY_S = 1_000_000  # steps of the learner that the essay speaks of; its time constant is of that order

POINTS: dict[str, dict[str, object]] = {
    "ring of 4": {"environment.num_positions": 4, "steps": 512},
    "ring of 6": {"environment.num_positions": 6, "steps": 640},
    "ring of 8": {"steps": 960},
    "ring of 12": {"environment.num_positions": 12, "steps": 1280},
    "ring of 16": {"environment.num_positions": 16, "steps": 1920},
    "ring of 8, twice as fast": {"learner.learning_rate": 4e-3, "steps": 640},
    "ring of 8, half as fast": {"learner.learning_rate": 1e-3, "steps": 1920},
    "ring of 8, epsilon 0.2": {"learner.epsilon_start": 0.2, "learner.epsilon_end": 0.2, "steps": 960},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", nargs="+", choices=list(POINTS), default=list(POINTS))
    parser.add_argument(
        "--contexts", type=int, nargs="+", default=[16, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    )
    parser.add_argument("--kind", choices=["transformer", "linear_recurrence"], default="transformer")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128], help="of a recurrence")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/needed_context"))
    parser.add_argument("--set", action="append", default=[], help="override the config")
    arguments = parser.parse_args()
    sizes = arguments.contexts if arguments.kind == "transformer" else arguments.widths
    rows = []
    for point in arguments.points:
        asked: dict[int, dict] = {}

        def suffices(size: int, point: str = point, asked: dict[int, dict] = asked) -> bool:
            asked[size] = _ask(arguments, point, size)
            return asked[size]["answer"] == "yes"

        needed = bisect(sizes, suffices)
        rows.append({"learner": point, "kind": arguments.kind, **_row(needed, asked)})
        print(json.dumps(rows[-1]), flush=True)
    line = fit([row["tau_steps"] for row in rows], [Needed(*row["needed"]) for row in rows])
    if np.isfinite(line.slope):
        far = {"at_a_million_steps_extrapolated": line.at(THE_ESSAY_S)}
        print(json.dumps({"line": line._asdict(), **far}), flush=True)
    _plot(rows, line, arguments)


def overrides(point: str, size: int, kind: str) -> tuple[str, ...]:
    """What a point at a size changes in the config."""
    changes = dict(POINTS[point])
    steps = changes.pop("steps")
    context = size if kind == "transformer" else steps
    assert isinstance(context, int)
    width = (
        () if kind == "transformer" else (f"imitator.width={size}", f"imitator.num_heads={size // HEAD_SIZE}")
    )
    return (
        *(f"{key}={value}" for key, value in changes.items()),
        f"evaluation.fork_steps=[{steps}]",
        f"evaluation.now_fork_step={steps}",
        f"evaluation.later_fork_step={steps}",
        f'imitator.kind="{kind}"',
        f"imitator.context_steps={context}",
        f"training.batch_size={max(1, BATCH_STEPS // context)}",
        *width,
    )


def _ask(arguments: argparse.Namespace, point: str, size: int) -> dict:
    """PROCESS from an empty context, of one learner at one size."""
    experiment = load_config.load(CONFIG, (*overrides(point, size, arguments.kind), *arguments.set))
    folder = arguments.folder / arguments.kind / point.replace(" ", "_").replace(",", "") / f"size_{size}"
    run = open_stage_run(experiment, folder, CONFIG.parent)
    run_all(run)
    jax.clear_caches()  # a CPU's program keeps memory maps, of which a process has a limited number
    verdict = json.loads((run.path / "verdict.json").read_text())
    [stage] = verdict["questions"]["process"]["stages"]
    return {
        "answer": stage["answer"],
        "ratio": stage["ratio"],
        "ci95": stage["ci95"],
        "window": stage["window"]["estimate"],
        "tau_steps": stage["learner_time_constant_steps"],
        "converged": verdict["training"][0]["converged"],
    }


def _row(needed: Needed, asked: dict[int, dict]) -> dict:
    taus = [one.pop("tau_steps") for one in asked.values()]
    return {
        "tau_steps": float(np.mean(taus)),
        "needed": needed,
        "converged": all(one["converged"] for one in asked.values()),
        "asked": {str(size): asked[size] for size in sorted(asked)},
    }


def _plot(rows: list[dict], line: Line, arguments: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for row, color in zip(rows, plt.cm.viridis(np.linspace(0.0, 0.85, len(rows))), strict=True):
        low, high = row["needed"]
        ends = low or high, high or low
        style = "-" if low and high else ":"
        axis.plot([row["tau_steps"]] * 2, ends, style, color=color, linewidth=3, label=row["learner"])
        marker = "o" if row["converged"] else "$\\circ$"
        axis.plot(row["tau_steps"], np.sqrt(ends[0] * ends[1]), marker, color=color)
    if np.isfinite(line.slope):
        taus = [row["tau_steps"] for row in rows]
        near, far = np.geomspace(min(taus), max(taus), 20), np.geomspace(max(taus), THE_ESSAY_S, 20)
        axis.plot(near, [line.at(tau) for tau in near], color="0.3", linewidth=1)
        axis.plot(far, [line.at(tau) for tau in far], "--", color="0.6", linewidth=1, label="extrapolated")
        low, high = line.slope_ci95
        axis.set_title(f"slope {line.slope:.2f} [{low:.2f}, {high:.2f}], {line.num} learners", loc="left")
    what = (
        "needed context, steps" if arguments.kind == "transformer" else "needed width of a linear recurrence"
    )
    axis.set(xlabel="learner's time constant, steps", ylabel=what, xscale="log", yscale="log")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    path = arguments.folder / f"needed_{arguments.kind}.png"
    figure.savefig(path, dpi=150)
    print(path)


if __name__ == "__main__":
    cli.set_up_jax()
    main()
