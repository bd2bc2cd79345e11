"""The needed context L*(tau): the shortest context with which a frozen imitator goes through a learner's learning.

    python scripts/needed_context.py
    python scripts/needed_context.py --points "ring of 4" "ring of 8" --contexts 16 32 64 128

Learners of different slowness (ring, learning rate, epsilon) are variations of configs/needed_context.toml. For each,
contexts are bisected: every context asked about is a run in --folder, in which PROCESS from an empty context comes out
yes or not. A run that is there is read, one that was cut off goes on. Batches hold as many steps at every context.
`--kind linear_recurrence` bisects the imitator's width instead, with which its state grows; windows are whole lives.

One JSON line a learner (tau in steps, the bracket of L*, every answer; open where a training that was asked about had
not converged, or the learner learned too little: such a one is neither drawn nor in a line); one for
the line through all of them, one for the line through those that learn one ring at another pace; and a figure with
both, carried on to a time constant of a million steps and marked as an extrapolation.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from cl_imitate import compiling, load_config
from cl_imitate.evaluation import horizon
from cl_imitate.evaluation.horizon import Break
from cl_imitate.evaluation.needed import Needed, bisect
from cl_imitate.figures import needed_context
from cl_imitate.interruption import InterruptedRunError, noticed
from cl_imitate.keeper import Schedule
from cl_imitate.stages.corridor import run_all
from cl_imitate.stages.run import open_stage_run
from cl_imitate.start_jax import set_up_jax
from cl_imitate.sweeps import points

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "needed_context.toml"
BATCH_STEPS = 4096
HEAD_SIZE = 16
RING_KEY, RING = "environment.num_positions", 8  # of configs/needed_context.toml
THE_ESSAY_S = 1_000_000  # steps of the learner that the essay speaks of; its time constant is of that order

POINTS: dict[str, dict[str, object]] = {
    "ring of 4": {"environment.num_positions": 4, "steps": 512},
    "ring of 6": {"environment.num_positions": 6, "steps": 640},
    "ring of 8": {"steps": 960},
    "ring of 12": {"environment.num_positions": 12, "steps": 1280},
    "ring of 16": {"environment.num_positions": 16, "steps": 1920},
    "ring of 8, twice as fast": {"learner.learning_rate": 4e-3, "steps": 640},
    "ring of 8, half as fast": {"learner.learning_rate": 1e-3, "steps": 1920},
    "ring of 8, a quarter as fast": {"learner.learning_rate": 5e-4, "steps": 1920},
    "ring of 8, an eighth as fast": {"learner.learning_rate": 2.5e-4, "steps": 2560},
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
    found = [_break(row) for row in rows if row["tau_steps"] is not None and not row["is_open"]]
    for named, line in (
        ("over all learners", horizon.line(found)),
        ("one ring, the learner slowed", horizon.line(found, same_task=True)),
    ):
        if np.isfinite(line.slope):
            far = {"at_a_million_steps_extrapolated": line.at(THE_ESSAY_S)}
            ends = [end if np.isfinite(end) else None for end in line.slope_ci95]
            print(json.dumps({"line": named, **line._asdict(), "slope_ci95": ends, **far}), flush=True)
    _draw(found, arguments)


def _break(row: dict) -> Break:
    ring = POINTS[row["learner"]].get(RING_KEY, RING)
    return Break(row["tau_steps"], Needed(*row["needed"]), (("ring", ring),))


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
    with noticed() as notice:
        run = open_stage_run(experiment, folder, CONFIG.parent, Schedule(notice=notice))
        with run.folder.lock():
            run_all(run)
    compiling.release_programs()  # the next size has programs of its own
    [found] = points.read(folder)
    return {
        "answer": found.process.answer,
        "ratio": found.process.share,
        "ci95": found.process.ci95,
        "window": found.process.window,
        "tau_steps": found.tau_steps,
        "converged": found.training.converged,
    }


def _row(needed: Needed, asked: dict[int, dict]) -> dict:
    taus = [tau for one in asked.values() if (tau := one.pop("tau_steps")) is not None]
    return {
        "tau_steps": float(np.mean(taus)) if taus else None,
        "needed": needed,
        "is_open": not all(one["converged"] and one["answer"] != "void" for one in asked.values()),
        "asked": {str(size): asked[size] for size in sorted(asked)},
    }


def _draw(found: list[Break], arguments: argparse.Namespace) -> None:
    name = "context, steps" if arguments.kind == "transformer" else "width of a linear recurrence"
    figure = needed_context.needed(found, size_name=name, far_steps=THE_ESSAY_S)
    if figure is not None:
        path = arguments.folder / f"needed_{arguments.kind}.png"
        path.write_bytes(figure.png)
        print(path)


if __name__ == "__main__":
    set_up_jax()
    try:
        main()
    except InterruptedRunError as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(interrupted.exit_code)
