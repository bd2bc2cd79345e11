"""Sweeps and runs as one horizon: how far frozen imitation goes, and what moves the place where it breaks.

Sentences on the terminal; horizon.csv, the figures and a page of them in a folder.
"""

import csv
import io
import pathlib
from collections.abc import Sequence

from cl_imitate import load_config
from cl_imitate.evaluation import findings, horizon
from cl_imitate.evaluation.horizon import Point
from cl_imitate.evaluation.longer import beside_longer
from cl_imitate.evaluation.trained import Trained
from cl_imitate.figures import horizon as figures_horizon
from cl_imitate.figures import movers, needed_context
from cl_imitate.figures import shown as shown_lib
from cl_imitate.sweeps import horizon_page
from cl_imitate.sweeps import points as points_lib
from cl_imitate.sweeps.folder import SweepDir, is_sweep


def draw(paths: Sequence[pathlib.Path], out: pathlib.Path) -> list[str]:
    """Print what the sweeps and runs say together, and write horizon.csv, figures and index.html into `out`.

    Points without a result are left out, and told of. Returns the sentences.

    Raises:
      ValueError: no folder, one that holds neither a sweep nor a run, or no result in any.
    """
    if not paths:
        raise ValueError("horizon was given nothing: give the folder of a sweep, or several.")
    runs = {path: _runs(path) for path in paths}
    folders = list(dict.fromkeys(one for some in runs.values() for one in some))
    done = [one for one in folders if (one / "verdict.json").is_file()]
    if not done:
        raise ValueError(
            f"no point of {', '.join(map(str, paths))} has a result yet. See: cl-imitate show DIR"
        )
    rules = load_config.load(done[0] / "config.toml").rules
    points, num_again = horizon.one_each(point for one in done for point in points_lib.read(one))
    points = beside_longer(points, rules)
    about = _about(folders, done, num_again)
    drawn = [
        figures_horizon.curves(points, rules),
        movers.movers(points, rules),
        needed_context.needed(horizon.breaks(points)),
        figures_horizon.surface(points),
        shown_lib.later_by_shown(points, rules),
    ]
    shown = [one for one in drawn if one is not None]
    sources = [horizon_page.source(path, some) for path, some in runs.items()]
    others = [*findings.others(points), *about]
    page = horizon_page.render(points, shown, others, sources=sources, rules=rules, out=out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "horizon.csv").write_text(to_csv(points), encoding="utf-8")
        for one in shown:
            (out / f"{one.name}.png").write_bytes(one.png)
        (out / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror}). Use another --out.") from error
    said = [*findings.findings(points), *about]
    print("\n".join(said))
    print(f"figures, table and page: {out.resolve()}")
    return said


def _about(folders: Sequence[pathlib.Path], done: Sequence[pathlib.Path], num_again: int) -> list[str]:
    """What else is to be said of the runs: other rules, those without a result, places that were taken."""
    said = []
    if len({load_config.rules_sha256(load_config.load(one / "config.toml")) for one in done}) > 1:
        said.append(
            "The decision rules differ from run to run, so answers are not comparable (shares are). Bounds drawn are "
            f"those of {done[0]}."
        )
    if len(done) < len(folders):
        said.append(f"{len(folders) - len(done)} of {len(folders)} runs have no result yet.")
    if num_again:
        said.append(
            f"{num_again} more points stand where others do, and are left out; the first of each place is drawn."
        )
    return said


def _runs(path: pathlib.Path) -> list[pathlib.Path]:
    if is_sweep(path):
        sweep = SweepDir(path)
        return [sweep.run_path(name) for name in sweep.names]
    if not (path / "config.toml").is_file():
        raise ValueError(f"{path} holds neither a sweep nor a run: it has no sweep.json and no config.toml.")
    return [path]


def to_csv(points: Sequence[Point]) -> str:
    """A line a point: where it stands, and what PROCESS and LATER came to."""
    rows = []
    for point in points:
        row = {
            "point": point.name,
            **{"learning_rate" if axis == "pace" else axis: value for axis, value in point.values.items()},
            **_trained(point.training),
            "memorises": point.training.memorises,
            **{f"later.{name}": value for name, value in _trained(point.later_training).items()},
            "learner_time_constant_steps": point.tau_steps,
            "passes_gate": point.passes_gate,
            "rung_2b": point.elsewhere,
            "later.fork_step": point.later_values.get("fork"),
            "later.now_steps": point.later_values.get("now"),
            "later.shown": point.shown.share if point.shown else None,
            "later.shown_low": point.shown.low if point.shown else None,
            "later.shown_high": point.shown.high if point.shown else None,
        }
        for question in ("process", "later"):
            found = point.of(question)
            low, high = found.ci95
            row |= {
                f"{question}.answer": found.answer,
                f"{question}.share": found.share,
                f"{question}.low": low,
                f"{question}.high": high,
                f"{question}.learner_gain": found.learner_gain,
                f"{question}.departure_steps": found.departure_steps,
                f"{question}.departure_side": found.departure_side,
                f"{question}.departure_resolved": found.departure_is_resolved if found.is_answered else None,
                f"{question}.horizon_steps": found.horizon_steps,
                f"{question}.window": found.window,
                f"{question}.ceiling": found.ceiling,
            }
        rows.append(row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _trained(training: Trained) -> dict[str, object]:
    longer = training.longer
    return {
        "converged": training.converged,
        "closed": training.is_closed,
        "held_out_nats": training.held_out_loss,
        "above_floor_nats": training.above_floor,
        "longer_updates": longer.num_updates if longer else None,
        "longer_falls_nats": longer.fall if longer else None,
    }
