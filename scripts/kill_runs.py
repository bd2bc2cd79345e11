"""Kill a run at random instants, go on, kill it again: what it leaves in the end must be what an unkilled run leaves.

    python scripts/kill_runs.py --kills 200

A tiny run of every stage (configs/smoke.toml, shrunk) that saves as often as it can. SIGKILL comes after a time drawn
uniformly between a process's start and what a whole run takes; a run that ends before it is compared, and another one
begins. One JSON line a finished run and one for all; exit code 1 if any differs.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import run_artifacts

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
TINY = (
    "simulation.num_recorded=4",
    "simulation.num_held_out=2",
    "simulation.num_held_out_train_tasks=2",
    "simulation.block_size=2",
    "simulation.chunk_steps=16",
    "training.num_updates=8",
    "training.evaluate_every_updates=2",
    "training.batch_size=4",
    "evaluation.elsewhere_learners=2",
    "evaluation.months=[]",
    'evaluation.rungs=[{rung="1", name="unseen task"}]',
    "imitator.also_context_steps=[]",
    "rules.bootstrap_samples=50",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, help="default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = kill_runs(
            arguments.folder or pathlib.Path(temporary), kills=arguments.kills, seed=arguments.seed
        )
    print(json.dumps(result))
    sys.exit(1 if result["different"] else 0)


def kill_runs(folder: pathlib.Path, *, kills: int, seed: int) -> dict:
    """Runs killed `kills` times in all; how many were finished, and what differed in which."""
    rng = random.Random(seed)
    start(folder / "warm").wait()  # fills the cache of compiled programs
    begun = time.monotonic()
    if start(folder / "whole").wait():
        raise SystemExit("the unkilled run failed")
    seconds = time.monotonic() - begun
    expected = run_artifacts.artifacts(folder / "whole" / "run")
    killed, finished, number, different = 0, 0, 0, {}
    stages_killed: dict[str, int] = {}
    found_something = 0
    while killed < kills or number > finished:
        path = folder / f"killed_{finished}"
        number, is_new, begun = finished + 1, not (path / "run").exists(), time.monotonic()
        process = start(path)
        # Within the first part of what a whole run takes: what goes on is nearer to its end, and is killed there.
        code = wait(process, rng.uniform(0.0, 0.6 * seconds) if killed < kills else None)
        if code is None:
            os.kill(process.pid, 9)
            process.wait()
            killed += 1
            stage = stage_of(path)
            stages_killed[stage] = stages_killed.get(stage, 0) + 1
            found_something += any((path / "run" / "resume").glob("*/*/*.json"))
            continue
        if code:
            said = (path / "log.txt").read_text()[-3000:]
            raise SystemExit(
                f"{said}\na run that went on failed with exit code {code}: {path}, {killed} kills so far"
            )
        finished += 1
        if (
            is_new
        ):  # nobody killed it: the machine was busier before, and such late instants would kill nobody
            seconds = min(seconds, time.monotonic() - begun)
        if names := run_artifacts.differences(run_artifacts.artifacts(path / "run"), expected):
            different[path.name] = names
        facts = {"bench": "kills", "run": path.name, "killed_so_far": killed, "differs_in": names}
        print(json.dumps(facts), flush=True)
    return {
        "bench": "kills",
        "kills": killed,
        "during": stages_killed,
        "left_saves_or_results": found_something,
        "runs_finished": finished,
        "different": different,
        "seconds_unkilled": round(seconds, 1),
    }


def start(path: pathlib.Path) -> subprocess.Popen:
    """A process that begins the run at `path`, or goes on with it."""
    path.mkdir(parents=True, exist_ok=True)
    overrides = [word for value in TINY for word in ("--set", value)]
    save = ["--save-every-seconds", "0", "--save-every-steps", "1"]
    command = [sys.executable, "-m", "cl_imitate", "run", str(CONFIG), "--run-dir", str(path / "run")]
    with (path / "log.txt").open("a") as log:
        return subprocess.Popen([*command, "--resume", *save, *overrides], stdout=log, stderr=log)


def wait(process: subprocess.Popen, seconds: float | None) -> int | None:
    """Its exit code, or None if it still runs after so many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def stage_of(path: pathlib.Path) -> str:
    """The stage that was under way."""
    try:
        done = json.loads((path / "run" / "manifest.json").read_text())["stages"]
    except FileNotFoundError:
        return "start"
    return next(
        name for name in ("simulate", "train", "evaluate", "control", "report", "end") if name not in done
    )


if __name__ == "__main__":
    main()
