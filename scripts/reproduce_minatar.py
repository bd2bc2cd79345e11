"""The published DQN on MinAtar: our learner's curves with the published points on them.

    python scripts/reproduce_minatar.py --games breakout --learners 4 --frames 1000000

Returns are means over a learner's last 100 episodes of training, as published. What is done so far is kept in
--folder, and the same command goes on from there (a game that is done is only drawn again); another configuration is
refused. One JSON line for each published point.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
from scipy import stats

from cl_imitate import block_size, checkpoint, cli, config, load_config, populations, progress, simulate

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "minatar_fidelity.toml"
# Young & Tian (2019), mean of 30 seeds, read off the figure: {frames: return}; their best step sizes.
PUBLISHED = {
    "breakout": {500_000: 8.4, 1_000_000: 9.2, 2_000_000: 9.7, 3_000_000: 10.0, 4_900_000: 10.1},
    "space_invaders": {500_000: 28, 1_000_000: 33, 2_000_000: 41, 3_000_000: 44, 4_900_000: 44},
    "asterix": {500_000: 1.0, 1_000_000: 6.9, 2_000_000: 14.4, 3_000_000: 15.6, 4_900_000: 16.8},
    "freeway": {500_000: 32, 1_000_000: 47.8, 2_000_000: 50.8, 3_000_000: 50.3, 4_900_000: 50.3},
}
STEP_SIZE = {"breakout": 2**-10, "space_invaders": 2**-12, "asterix": 2**-13, "freeway": 2**-11}
FRAMES = {"breakout": 3_000_000, "space_invaders": 3_000_000, "asterix": 2_000_000, "freeway": 2_000_000}
ACCEPTED = {
    "breakout": {1_000_000: (8.4, 10.0), 3_000_000: (9.2, 10.8)},
    "space_invaders": {3_000_000: (38, 50)},
    "freeway": {2_000_000: (48, 53)},
    "asterix": {2_000_000: (12, 16.5)},
}
EPISODES = 100
CHUNK_STEPS = 1000
SAVE_EVERY_STEPS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", nargs="+", choices=tuple(PUBLISHED), default=tuple(PUBLISHED))
    parser.add_argument("--learners", type=int, help="default: as in the config")
    parser.add_argument("--frames", type=int, help="default: 3M for Breakout and Space Invaders, else 2M")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/minatar_fidelity"))
    parser.add_argument(
        "--set", action="append", default=[], help="override the config, e.g. learner.products=tf32"
    )
    arguments = parser.parse_args()
    curves = {}
    for game in arguments.games:
        ends, returns = _live(game, arguments)
        curves[game] = (ends, returns)
        for line in _lines(game, ends, returns, arguments):
            print(json.dumps(line), flush=True)
    path = arguments.folder / "curves.png"
    _draw(curves, path)
    print(path)


def _experiment(game: str, arguments: argparse.Namespace) -> config.Experiment:
    overrides = [
        f"environment.game={game}",
        f"learner.learning_rate={STEP_SIZE[game]}",
        "simulation.block_size=1",
    ]
    if arguments.learners:
        overrides.append(f"simulation.num_recorded={arguments.learners}")
    return load_config.load(CONFIG, (*overrides, *arguments.set))


def _live(game: str, arguments: argparse.Namespace) -> tuple[list[list[int]], list[list[float]]]:
    """Frames at which episodes ended, and their returns, for each learner."""
    experiment = _experiment(game, arguments)
    population, fingerprint = populations.make("recorded", experiment), load_config.fingerprint(experiment)
    folder = arguments.folder / f"{game}_{population.num_learners}"
    num_frames = arguments.frames or FRAMES[game]
    episodes, ensemble, size = _resume(folder, population, fingerprint, num_frames)
    if ensemble is None:
        return episodes.ends, episodes.returns
    if size is None:
        size, rates = block_size.choose(population, chunk_steps=CHUNK_STEPS)
        print(
            f"{game}: block size {size} of { ({k: round(v) for k, v in rates.items()}) } steps/s", flush=True
        )
    population = dataclasses.replace(population, block_size=size)
    first = int(ensemble.clock.step)
    with progress.bar(game, (num_frames - first) * population.num_learners, "steps") as tick:
        for now, history in simulate.advance(
            ensemble,
            population.streams,
            population.env_params,
            population.rates,
            **population.static,
            num_steps=num_frames - first,
            chunk_steps=CHUNK_STEPS,
            keep_steps=range(0, num_frames, SAVE_EVERY_STEPS),
        ):
            episodes.add(np.asarray(history.reward), np.asarray(history.terminated))
            tick(history.action.size)
            if now is not None:
                _save(folder, now, episodes, block_size=size, fingerprint=fingerprint)
    return episodes.ends, episodes.returns


class Episodes:
    """Every episode of N learners: when it ended, and its return."""

    def __init__(self, num_learners: int):
        self.ends: list[list[int]] = [[] for _ in range(num_learners)]
        self.returns: list[list[float]] = [[] for _ in range(num_learners)]
        self.unfinished = [0.0] * num_learners
        self.frames = 0

    def add(self, reward: np.ndarray, done: np.ndarray) -> None:
        """Rewards and ends [N, T] of the next T frames."""
        for i, (rewards, is_end) in enumerate(zip(reward.astype(np.float64), done, strict=True)):
            so_far, ends = self.unfinished[i] + np.cumsum(rewards), np.flatnonzero(is_end)
            self.returns[i] += np.diff(so_far[ends], prepend=0.0).tolist()
            self.ends[i] += (self.frames + ends + 1).tolist()
            self.unfinished[i] = float(so_far[-1] - (so_far[ends[-1]] if len(ends) else 0.0))
        self.frames += reward.shape[1]


def _save(folder: pathlib.Path, ensemble: simulate.Ensemble, episodes: Episodes, **facts) -> None:
    """The snapshot, then the file that names it; a kill between the two leaves the one before in force."""
    step = int(ensemble.clock.step)
    shutil.rmtree(folder / f"step_{step}", ignore_errors=True)  # left by such a kill
    checkpoint.save(folder / f"step_{step}", ensemble)
    (folder / "episodes.json.tmp").write_text(json.dumps({"step": step, **facts, **vars(episodes)}))
    (folder / "episodes.json.tmp").replace(folder / "episodes.json")
    for old in folder.glob("step_*"):
        if old.name != f"step_{step}":
            shutil.rmtree(old)


def _resume(
    folder: pathlib.Path, population: populations.Population, fingerprint: str, num_frames: int
) -> tuple[Episodes, simulate.Ensemble | None, int | None]:
    """Where it stands (no ensemble: all frames are lived), and the block size it was begun with."""
    episodes = Episodes(population.num_learners)
    try:
        facts = json.loads((folder / "episodes.json").read_text())
    except FileNotFoundError:
        return episodes, population.newborn(), None
    step, size, found = (facts.pop(name) for name in ("step", "block_size", "fingerprint"))
    if found != fingerprint:
        raise SystemExit(f"{folder} was begun with another configuration. Fix: another --folder.")
    vars(episodes).update(facts)
    if episodes.frames >= num_frames:
        return episodes, None, size
    return episodes, checkpoint.load(folder / f"step_{step}", population.abstract()), size


# ---- what comes out


def _at(frame: int, ends: list[int], returns: list[float]) -> float:
    """The mean of the last 100 episodes before a frame (of fewer, at first)."""
    last = int(np.searchsorted(ends, frame, side="right"))
    return float(np.mean(returns[max(0, last - EPISODES) : last])) if last else np.nan


def _lines(game: str, ends, returns, arguments) -> list[dict]:
    lines = []
    for frame in PUBLISHED[game]:
        if frame > (arguments.frames or FRAMES[game]):
            continue
        values = np.array([_at(frame, *one) for one in zip(ends, returns, strict=True)])
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
        low, high = ACCEPTED[game].get(frame, (None, None))
        lines.append(
            {
                "bench": "minatar",
                "game": game,
                "frames": frame,
                "learners": len(values),
                "mean": round(values.mean(), 2),
                "ci95": [round(values.mean() - half, 2), round(values.mean() + half, 2)],
                "published": PUBLISHED[game][frame],
                "accepted": None if low is None else [low, high],
                "inside": None if low is None else bool(low <= values.mean() <= high),
                "device": str(jax.local_devices()[0].device_kind),
            }
        )
    return lines


def _draw(curves: dict, path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    columns = min(2, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.4 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (game, (ends, returns)) in zip(axes.flat, curves.items(), strict=False):
        last = max(one[-1] for one in ends)
        grid = np.arange(20_000, last + 1, 20_000)
        values = np.array([[_at(frame, *one) for frame in grid] for one in zip(ends, returns, strict=True)])
        for one in values:
            axis.plot(grid / 1e6, one, color="C0", alpha=0.25, linewidth=0.8)
        axis.plot(grid / 1e6, values.mean(axis=0), color="C0", label=f"ours, mean of {len(values)} learners")
        reached = {frame: ends for frame, ends in ACCEPTED[game].items() if frame <= last + 20_000}
        if reached:
            axis.vlines(
                np.array(list(reached)) / 1e6,
                *zip(*reached.values(), strict=True),
                color="0.6",
                linewidth=5,
                alpha=0.6,
                label="range to lie in",
            )
        points = {frame: value for frame, value in PUBLISHED[game].items() if frame <= 1.02 * last}
        axis.plot(
            np.array(list(points)) / 1e6, list(points.values()), "o", color="C3", label="published (30 seeds)"
        )
        axis.set(title=game.replace("_", " "), xlabel="million frames")
        axis.legend(frameon=False, fontsize=8)
    for row in axes:
        row[0].set_ylabel("return, mean of 100 episodes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    cli.set_up_jax()
    main()
