"""How long a point takes in a sweep of many, and how long the same run takes alone: one JSON line each.

    python scripts/bench_sweep.py configs/sweep.toml --points 32

Points differ in seed and learning rate (vmappable axes). Alone, the first point runs once to compile, then again and
again before and after the sweep, and the fastest counts, at the best of the given block sizes; the sweep runs at that
block size. Everything happens in one process, from random initialisation to `--stop-after`. `seconds` are whole stages
by the clock, compilation included where there is any (`compile_seconds`); the ratio is a point's time in the sweep over
the fastest time alone. `cpu_ratio` is the same in the seconds that the processor worked for this process, which others
on a shared machine disturb less. No time is asserted.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ("simulate", "train", "evaluate", "report")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=pathlib.Path, nargs="?", default=ROOT / "configs" / "sweep.toml")
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--block-sizes", type=int, nargs="+", help="default: the config's")
    parser.add_argument("--repeat", type=int, default=2, help="runs alone, before and after the sweep each")
    parser.add_argument("--stop-after", choices=STAGES, default="report")
    parser.add_argument("--set", action="append", default=[], help="override, as for cl-imitate")
    arguments = parser.parse_args()
    from cl_imitate.start_jax import set_up_jax

    set_up_jax()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(bench(pathlib.Path(folder), arguments)), flush=True)


def bench(folder: pathlib.Path, arguments: argparse.Namespace) -> dict:
    """The figure of all, after a line for each run alone and for the sweep."""
    import jax

    from cl_imitate import load_config

    values = load_config.load_values(arguments.config, tuple(arguments.set))
    values.pop("sweep", None)
    base = load_config.build(values, origin=str(arguments.config))
    sizes = arguments.block_sizes or [base.simulation.block_size]
    fastest, least_cpu = dict.fromkeys(sizes, float("inf")), float("inf")
    num_runs = 0

    def runs_alone(sizes, repeat: int, counts: bool = True) -> None:
        nonlocal num_runs, least_cpu
        for _ in range(repeat):
            for size in sizes:
                num_runs += 1
                cpu = time.process_time()
                seconds = alone(folder / f"alone{num_runs}", point(base, 0, size), arguments.stop_after)
                if counts:
                    fastest[size] = min(fastest[size], sum(seconds.values()))
                    least_cpu = min(least_cpu, time.process_time() - cpu)
                tell(kind="alone", block_size=size, warm_up=not counts, seconds=seconds)

    runs_alone(sizes, 1, counts=False)
    runs_alone(sizes, arguments.repeat)
    best = min(sizes, key=lambda size: fastest[size])
    points = [point(base, index, best) for index in range(arguments.points)]
    start, cpu = time.perf_counter(), time.process_time()
    seconds = together(folder / "together", points, arguments.stop_after)
    whole, cpu = time.perf_counter() - start, time.process_time() - cpu
    tell(kind="together", block_size=best, points=len(points), seconds=seconds)
    runs_alone([best], arguments.repeat)
    a_point = whole / len(points)
    return {
        "kind": "ratio",
        "points": len(points),
        "block_size": best,
        "stop_after": arguments.stop_after,
        "seconds_a_point_in_the_sweep": round(a_point, 3),
        "seconds_alone": round(fastest[best], 3),
        "ratio": round(a_point / fastest[best], 3),
        "cpu_ratio": round(cpu / len(points) / least_cpu, 3),
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "config": arguments.config.name,
        "fingerprint": load_config.fingerprint(points[0])[:12],
    }


def tell(**told) -> None:
    print(json.dumps(told), flush=True)


def point(base, index: int, block_size):
    """The index-th of a sweep over seeds and learning rates."""
    import dataclasses

    from cl_imitate.stages.run import with_block_size

    learner = dataclasses.replace(
        base.learner, learning_rate=base.learner.learning_rate * (1.0 + 0.01 * index)
    )
    return with_block_size(dataclasses.replace(base, seed=index, learner=learner), block_size)


def open_run(folder: pathlib.Path, experiment):
    from cl_imitate.stages.run import open_stage_run

    return open_stage_run(experiment, folder, ROOT / "configs")


def alone(folder: pathlib.Path, experiment, stop_after: str) -> dict[str, float]:
    """Seconds of the stages of one run."""
    from cl_imitate.stages.corridor import run_all

    run = open_run(folder, experiment)
    start = time.perf_counter()
    run_all(run, stop_after=stop_after)
    whole = time.perf_counter() - start
    return stage_seconds([run], whole)


def together(folder: pathlib.Path, experiments: list, stop_after: str) -> dict[str, float]:
    """Seconds of the stages of all runs, as a sweep's job does them."""
    from cl_imitate.stages.corridor import STAGE_FUNCTIONS
    from cl_imitate.stages.simulating import simulate_together
    from cl_imitate.stages.training import train_together

    runs = [open_run(folder / str(index), experiment) for index, experiment in enumerate(experiments)]
    start = time.perf_counter()
    for stage in STAGES[: STAGES.index(stop_after) + 1]:
        if stage in ("simulate", "train"):
            errors = simulate_together(runs) if stage == "simulate" else train_together(runs)
            if errors:
                sys.exit(f"points diverged, so that nothing is measured: {errors}")
        else:
            for run in runs:
                STAGE_FUNCTIONS[stage](run)
    return stage_seconds(runs, time.perf_counter() - start)


def stage_seconds(runs: list, whole: float) -> dict[str, float]:
    """Of all runs, by stage; what lies between stages is told apart."""
    found: dict[str, float] = {}
    for run in runs:
        for stage, facts in run.folder.manifest["stages"].items():
            found[stage] = found.get(stage, 0.0) + facts["seconds"]
    return {
        **{stage: round(seconds, 3) for stage, seconds in found.items()},
        "between": round(whole - sum(found.values()), 3),
    }


if __name__ == "__main__":
    main()
