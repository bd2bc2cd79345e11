"""What saving costs a run, and how long one that was killed takes to its first steps.

    python scripts/resume_costs.py          # configs/breakout_small.toml, shortened
    python scripts/resume_costs.py --full   # the whole of it

Two measurements, one JSON line each for every stage, and one for all:

- kills: every stage alone, saving every 60 s (--every), is killed (SIGKILL) as soon as it has a save, and goes on. Its
  manifest tells how long the stage waited for saves, as a share of its seconds, and the seconds from the second
  process's start to its first steps. What a save took also gives the share at every 300 s. Not counted there: that
  the device waits while the state is handed over, and what is written beside takes from the cores.
- pairs: the simulate stage with a save every few seconds and without any, in turn, in one process. The difference in
  wall time, for one save, counts everything; it is noisy where other work shares the machine.

Sizes are those of the config in both cases; only lives, training and horizons are shorter. Shares bear a loaded machine
better than seconds do.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "breakout_small.toml"
SHORT = (
    "evaluation.fork_steps=[10000]",
    "evaluation.now_fork_step=10000",
    "evaluation.later_fork_step=10000",
    "evaluation.block_steps=2000",
    "evaluation.now_steps=2000",
    "evaluation.later_steps=8000",
    "evaluation.elsewhere_steps=4000",
    "training.num_updates=100",
)
STAGES = ("simulate", "train", "evaluate")
USUAL_SECONDS = 300.0  # between saves, where --save-every-seconds is left out


def main() -> None:
    arguments = _arguments()
    overrides = (*(() if arguments.full else SHORT), *arguments.set)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or pathlib.Path(temporary)
        rows = []
        if "kills" in arguments.measure:
            for stage in STAGES:
                rows.append(kill_once(folder / "run", stage, overrides, every=arguments.every))
                print(json.dumps(rows[-1]), flush=True)
            print(json.dumps(whole(rows)), flush=True)
        if "pairs" in arguments.measure:
            print(json.dumps(pairs(folder / "pairs", overrides, arguments)), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the config as it is")
    parser.add_argument("--measure", nargs="+", choices=("kills", "pairs"), default=("kills", "pairs"))
    parser.add_argument("--every", type=float, default=60.0, help="seconds between saves")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--pair-steps", type=int, default=6_000, help="of each life in a pair")
    parser.add_argument("--pair-every", type=float, default=10.0, help="seconds between saves in a pair")
    parser.add_argument("--set", action="append", default=[], help="as of cl-imitate")
    parser.add_argument("--folder", type=pathlib.Path, help="default: a temporary one")
    return parser.parse_args()


def kill_once(path: pathlib.Path, stage: str, overrides: tuple[str, ...], *, every: float) -> dict:
    """A stage that is killed when it has a save and then goes on to its end; what its manifest tells."""
    process, killed = start(path, stage, overrides, every), False
    while process.poll() is None:
        if not killed and any((path / "resume" / stage).glob("*/step_*.json")):
            process.kill()
            process.wait()
            process, killed = start(path, stage, overrides, every), True
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{stage} failed: {log_of(path)}")
    told = json.loads((path / "manifest.json").read_text())["stages"][stage]
    saving = told["saving"]
    a_save = saving["seconds"] / saving["saves"] if saving["saves"] else None
    return {
        "bench": "resume_costs",
        "stage": stage,
        "seconds": told["seconds"],
        "saves": saving["saves"],
        "seconds_a_save": a_save and round(a_save, 3),
        f"share_every_{every:.0f}_s": round(saving["share"], 5),
        f"share_every_{USUAL_SECONDS:.0f}_s_by_what_a_save_took": a_save and round(a_save / USUAL_SECONDS, 5),
        "killed_and_went_on": killed,
        "seconds_to_first_steps": told.get("first_step_seconds", []),
    }


def start(path: pathlib.Path, stage: str, overrides: tuple[str, ...], every: float) -> subprocess.Popen:
    """A process that does a stage, or goes on with it."""
    words = [word for value in overrides for word in ("--set", value)]
    command = [sys.executable, "-m", "cl_imitate", stage, str(CONFIG), "--run-dir", str(path), *words]
    path.parent.mkdir(parents=True, exist_ok=True)
    with log_of(path).open("a") as log:
        return subprocess.Popen([*command, "--save-every-seconds", str(every)], stdout=log, stderr=log)


def log_of(path: pathlib.Path) -> pathlib.Path:
    """Beside the run's folder, which has to be empty at first."""
    return path.with_suffix(".log")


def whole(rows: list[dict]) -> dict:
    """All stages together."""
    seconds = sum(row["seconds"] for row in rows)
    saving = sum((row["seconds_a_save"] or 0.0) * row["saves"] for row in rows)
    saves = sum(row["saves"] for row in rows)
    return {
        "bench": "resume_costs",
        "stage": "all",
        "seconds": round(seconds, 1),
        "saves": saves,
        "share": round(saving / seconds, 5),
        f"share_every_{USUAL_SECONDS:.0f}_s_by_what_a_save_took": round(saving / saves / USUAL_SECONDS, 5)
        if saves
        else None,
        "load": pathlib.Path("/proc/loadavg").read_text().split()[:3],
    }


def pairs(folder: pathlib.Path, overrides: tuple[str, ...], arguments: argparse.Namespace) -> dict:
    """The simulate stage without and with saves, in turn; the first one, which compiles, does not count."""
    from cl_imitate.cli import set_up_jax

    set_up_jax()
    from cl_imitate import load_config
    from cl_imitate.keeper import Schedule
    from cl_imitate.stages.run import open_stage_run
    from cl_imitate.stages.simulating import simulate_stage

    steps = arguments.pair_steps
    ends = [f"evaluation.{name}={steps}" for name in ("now_fork_step", "later_fork_step")]
    experiment = load_config.load(CONFIG, (*overrides, f"evaluation.fork_steps=[{steps}]", *ends))

    def stage(name: str, every: float) -> dict:
        run = open_stage_run(experiment, folder / name, CONFIG.parent, Schedule(every_seconds=every))
        simulate_stage(run)
        return run.folder.manifest["stages"]["simulate"]

    stage("warm", 0.0)
    extra, waited, saves, ratios = [], [], [], []
    for number in range(arguments.pairs):
        order = (0.0, arguments.pair_every) if number % 2 == 0 else (arguments.pair_every, 0.0)
        found = {every: stage(f"{number}_{every:.0f}", every) for every in order}
        without, with_saves = found[0.0], found[arguments.pair_every]
        saves.append(with_saves["saving"]["saves"])
        if not saves[-1]:
            raise SystemExit(
                f"no save fell into the {with_saves['seconds']:.1f} s of a stage: give a --pair-every below that, or "
                "more --pair-steps"
            )
        ratios.append(with_saves["seconds"] / without["seconds"])
        extra.append((with_saves["seconds"] - without["seconds"]) / saves[-1])
        waited.append(with_saves["saving"]["seconds"] / saves[-1])
    return {
        "bench": "resume_costs",
        "stage": "simulate, with and without saves in turn",
        "saves": saves,
        "wall_with_over_without": [round(one, 4) for one in ratios],
        "extra_seconds_a_save": [round(one, 3) for one in extra],
        "of_which_waited_for": [round(one, 3) for one in waited],
        "share_every_60_s": round(statistics.median(extra) / 60.0, 5),
        f"share_every_{USUAL_SECONDS:.0f}_s": round(statistics.median(extra) / USUAL_SECONDS, 5),
        "load": pathlib.Path("/proc/loadavg").read_text().split()[:3],
    }


if __name__ == "__main__":
    main()
