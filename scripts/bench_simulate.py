"""Learners a second: ours against other designs on the same work, interleaved in one process.

    python scripts/bench_simulate.py --quick                  # 5 minutes on 2 cores
    python scripts/bench_simulate.py --plot bench_simulate.png
    python scripts/bench_simulate.py --learners 1 64 1024 4096 # on a GPU

Needs `pip install '.[bench]'`. One JSON line a row on stdout. Ours starts with a full replay, the others with the few
rows they have added: a sample of theirs comes from less memory. Rows of one learner get one core, the others all.
A row is refused if its updates were not made, if two learners have equal weights, or if it implies more FLOP/s than
the machine's measured matrix-product peak.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

ENVIRONMENTS = ("cart_pole", "dark_room", "breakout")
# What an update of a batch of 32 takes, by count, whether or not an implementation finds a shorter way: two forward
# passes and a backward one of twice their cost, and weights (4 B) read by each, with gradients and Adam's two moments
# read and written.
WEIGHTS = {
    "cart_pole": 4 * 120 + 120 * 84 + 84 * 2,
    "dark_room": 81 * 64 + 64 * 5,
    "breakout": 1024 * 128 + 128 * 6,
}
CONVOLUTION_PRODUCTS = {"breakout": 64 * 9 * 4 * 16}
BYTES_PER_WEIGHT = 4 * 12


def main() -> None:
    arguments = _arguments()
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        _child(arguments)
        return
    rows, everything = [], len(os.sched_getaffinity(0))
    for cores in _core_counts(arguments, everything):
        command = [sys.executable, __file__, *sys.argv[1:], "--cores", str(cores), "--all", str(everything)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout:
                print(line, end="", flush=True)
                rows.append(json.loads(line))
        if child.returncode:
            sys.exit(child.returncode)
    _print_ratios(rows)
    if arguments.plot:
        _plot(rows, arguments.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter timings, 1 and 8 learners")
    parser.add_argument("--learners", type=int, nargs="+", help="default: 1 8 32")
    parser.add_argument("--environments", nargs="+", choices=ENVIRONMENTS, default=ENVIRONMENTS)
    parser.add_argument("--implementations", nargs="+", default=["ours", "rejax", "purejaxrl_style", "naive"])
    parser.add_argument("--replay", type=int, nargs="+", default=[10_000], help="capacities")
    parser.add_argument(
        "--products", default="float32", choices=("float32", "tf32", "bfloat16"), help="ours only"
    )
    parser.add_argument(
        "--recording", action="store_true", help="ours only: without, with, and with the disk"
    )
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of timing for each row (default 6; quick: 2)"
    )
    parser.add_argument("--plot", help="a PNG")
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)  # in a child: how many it keeps
    parser.add_argument("--all", type=int, help=argparse.SUPPRESS)  # and how many there are
    arguments = parser.parse_args()
    arguments.learners = arguments.learners or ([1, 8] if arguments.quick else [1, 8, 32])
    arguments.seconds = arguments.seconds or (2.0 if arguments.quick else 6.0)
    return arguments


def _core_counts(arguments: argparse.Namespace, everything: int) -> list[int]:
    return sorted({1 if num == 1 else everything for num in arguments.learners})


# ---- one process, one number of cores


def _child(arguments: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", arguments.cores)
    import simulate_entries

    peak_flops, bandwidth = _peaks()
    for name in arguments.environments:
        for num_learners in arguments.learners:
            if (1 if num_learners == 1 else arguments.all) != arguments.cores:
                continue
            made = [simulate_entries.entries(arguments, name, num_learners, it) for it in arguments.replay]
            entries = [entry for some in made for entry in some]
            _time(entries, arguments.seconds)
            for entry in _best_of_each(entries):
                print(json.dumps(_row(entry, name, peak_flops, bandwidth)), flush=True)


def _time(entries: list, seconds: float) -> None:
    """All in turn, again and again, so that what else the machine does falls on each alike."""
    for entry in entries:
        entry.turn()
        entry.turn()
        entry.seconds.clear()
    start_updates = [entry.updates() for entry in entries]
    deadline = time.perf_counter() + seconds * len(entries)
    while time.perf_counter() < deadline or len(entries[0].seconds) < 3:
        for entry in entries:
            entry.turn()
    for entry, before in zip(entries, start_updates, strict=True):
        made, due = entry.updates() - before, len(entry.seconds) * entry.num_steps * entry.num_learners
        if made != due:
            raise SystemExit(f"{entry.labels}: made {made} updates where {due} were timed")
        _refuse_equal_learners(entry)


def _refuse_equal_learners(entry) -> None:
    import jax
    import numpy as np

    leaves = jax.tree.leaves(entry.params(entry.carry))
    weights = np.concatenate([np.asarray(leaf).reshape(entry.num_learners, -1) for leaf in leaves], axis=1)
    distinct = len(np.unique(weights[:, :: max(1, weights.shape[1] // 4096)], axis=0))
    if distinct != entry.num_learners:
        raise SystemExit(f"{entry.labels}: {distinct} different learners of {entry.num_learners}")


def _best_of_each(entries: list) -> list:
    best: dict[Any, Any] = {}
    for entry in entries:
        key = (entry.labels["impl"], entry.labels["replay"], entry.labels.get("recording"))
        if key not in best or _median(entry) < _median(best[key]):
            best[key] = entry
    return list(best.values())


def _median(entry) -> float:
    return sorted(entry.seconds)[len(entry.seconds) // 2]


def flop_per_update(name: str) -> float:
    return 2.0 * 32 * 4 * (WEIGHTS[name] + CONVOLUTION_PRODUCTS.get(name, 0))


def _row(entry, name: str, peak_flops: float, bandwidth: float) -> dict[str, Any]:
    import jax

    rate = entry.num_learners * entry.num_steps / _median(entry)
    if rate * flop_per_update(name) > peak_flops:
        raise SystemExit(
            f"{entry.labels}: {rate:.0f} updates/s imply more than the peak of {peak_flops:.3g} FLOP/s"
        )
    ceiling = peak_flops / flop_per_update(name)
    if jax.local_devices()[0].platform != "cpu":
        ceiling = min(ceiling, bandwidth / (BYTES_PER_WEIGHT * WEIGHTS[name]))
    device = jax.local_devices()[0]
    return {
        "bench": "simulate",
        "env": name,
        **entry.labels,
        "learners": entry.num_learners,
        "td_per_s": round(rate, 1),
        "env_steps_per_s": round(rate, 1),
        "compile_s": round(entry.compile_s, 2),
        "peak_bytes": entry.peak_bytes,
        "ceiling_share": round(rate / ceiling, 4),
        "device": f"{device.platform} {device.device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "turns": len(entry.seconds),
    }


def _peaks() -> tuple[float, float]:
    """Measured: float32 matrix products, FLOP/s over all devices; bytes/s of a large copy (read and written)."""
    import jax
    import jax.numpy as jnp

    def best(function, values, in_a_row=10):
        """Seconds a call, on all devices at once; waiting for each would measure the way to the device too."""
        times = []
        for _ in range(5):
            jax.block_until_ready(values)
            start = time.perf_counter()
            for _ in range(in_a_row):
                values = [function(value) for value in values]
            jax.block_until_ready(values)
            times.append((time.perf_counter() - start) / in_a_row)
        return min(times)

    devices = jax.local_devices()
    size, length = (1536, 1 << 24) if devices[0].platform == "cpu" else (8192, 1 << 28)
    noise = jax.random.normal(jax.random.key(0), (size, size))
    square = [(jax.device_put(noise, device),) * 2 for device in devices]
    product = jax.jit(lambda xy: (xy[0], jnp.matmul(*xy, precision="highest") / size**0.5))
    flops = 2.0 * size**3 * len(devices) / best(product, square)
    large = [jax.device_put(jnp.ones((length,)), device) for device in devices]
    copied = 2.0 * large[0].nbytes * len(devices) / best(jax.jit(lambda x: x + 1.0), large)
    return flops, copied


# ---- what comes out


def _print_ratios(rows: list[dict]) -> None:
    ours = {
        (row["env"], row["learners"], row["replay"]): row
        for row in rows
        if row["impl"] == "ours" and row["recording"] == "memory"
    }
    for row in rows:
        mine = ours.get((row["env"], row["learners"], row["replay"]))
        if row["impl"] != "ours" and mine:
            ratio = mine["td_per_s"] / row["td_per_s"]
            words = f"{row['env']}, {row['learners']} learners, replay {row['replay']}: ours / {row['impl']}"
            print(f"{words} = {ratio:.2f}", file=sys.stderr)


def _plot(rows: list[dict], path: str) -> None:
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    names = [name for name in ENVIRONMENTS if any(row["env"] == name for row in rows)]
    figure, axes = plt.subplots(
        1, len(names), figsize=(4 * len(names), 3.4), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[0], names, strict=True):
        for implementation in dict.fromkeys(row["impl"] for row in rows):
            some = [row for row in rows if row["env"] == name and row["impl"] == implementation]
            some = [row for row in some if row["replay"] == rows[0]["replay"]]
            some = [row for row in some if row.get("recording", "memory") == "memory"]
            axis.plot(
                [row["learners"] for row in some],
                [row["td_per_s"] for row in some],
                marker="o",
                label=implementation,
            )
        axis.set(title=name.replace("_", " "), xlabel="learners", yscale="log")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted({row["learners"] for row in rows}))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axis.yaxis.set_minor_formatter(ticker.EngFormatter(sep=""))
    axes[0][0].set_ylabel("TD updates a second, all learners")
    axes[0][-1].legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
