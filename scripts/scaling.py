"""How the loss on learners not trained on falls with the width and the context of the imitator, and what is left.

    python scripts/scaling.py --widths 16 32 64 128

Each width is a run of configs/lock_scaling.toml in --folder, trained for every context of the config; a run that is
there is read, not made again. The floor is the entropy of an epsilon-greedy policy whose greedy action is known, which
no imitator of a learner with a constant epsilon can go below; each run's report draws it too, after `cl-imitate run
--run-dir FOLDER --resume`. One JSON line a width and context, and a PNG.
"""

import argparse
import json
import pathlib

import numpy as np

from cl_imitate import cli, load_config
from cl_imitate.stages.corridor import run_all
from cl_imitate.stages.run import open_stage_run

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "lock_scaling.toml"
HEAD_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/lock_scaling"))
    parser.add_argument("--set", action="append", default=[], help="override the config")
    arguments = parser.parse_args()
    rows = []
    for width in arguments.widths:
        sizes = (f"imitator.width={width}", f"imitator.num_heads={max(1, width // HEAD_SIZE)}")
        experiment = load_config.load(CONFIG, (*arguments.set, *sizes))
        run = open_stage_run(experiment, arguments.folder / f"width_{width}", CONFIG.parent)
        run_all(run, stop_after="train")
        curves = json.loads((run.path / "losses.json").read_text())
        new = losses(curves)
        for context_steps, (mean, seeds) in sorted(new.items()):
            rows.append(
                {
                    "width": width,
                    "context": context_steps,
                    "parameters": run.folder.manifest["stages"]["train"]["parameters"],
                    "loss": mean,
                    "seeds": seeds,
                    "floor": curves[0]["floor"],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    _plot(rows, arguments.folder / "scaling.png")


def losses(curves: list[dict]) -> dict[int, tuple[float, list[float]]]:
    """By context: the last loss on learners not trained on (nats an action), its mean over seeds and each seed's."""
    last = {one["context_steps"]: [curve[-1] for curve in one["held_out_loss"]] for one in curves}
    return {context: (float(np.mean(seeds)), seeds) for context, seeds in last.items()}


def _plot(rows: list[dict], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    contexts = sorted({row["context"] for row in rows})
    for context, color in zip(contexts, plt.cm.viridis(np.linspace(0.0, 0.85, len(contexts))), strict=True):
        found = [row for row in rows if row["context"] == context]
        widths = [row["width"] for row in found]
        axis.plot(widths, [row["loss"] for row in found], "o-", color=color, label=f"context {context}")
        for row in found:
            axis.plot([row["width"]] * len(row["seeds"]), row["seeds"], ".", color=color, alpha=0.5)
    if (floor := rows[0]["floor"]) is not None:
        axis.axhline(floor, color="0.4", linestyle="--", label="floor: the learner's greedy action known")
    axis.set_xscale("log", base=2)
    axis.set_xticks(
        sorted({row["width"] for row in rows}), [str(w) for w in sorted({row["width"] for row in rows})]
    )
    axis.set(xlabel="width of the imitator", ylabel="loss on learners not trained on (nats an action)")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(path)


if __name__ == "__main__":
    cli.set_up_jax()
    main()
