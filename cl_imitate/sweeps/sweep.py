"""A sweep from its config to its table: plan, estimate, launch, collect."""

import collections
import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax

from cl_imitate import load_config
from cl_imitate.evaluation import power
from cl_imitate.interruption import Notice
from cl_imitate.keeper import Schedule
from cl_imitate.stages.run import check_runnable
from cl_imitate.sweeps import memory, table
from cl_imitate.sweeps.axes import groups, load_points, without_leaves
from cl_imitate.sweeps.folder import SweepDir, open_sweep
from cl_imitate.sweeps.job import Job
from cl_imitate.sweeps.launchers import LAUNCHERS

_GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    config: pathlib.Path
    overrides: tuple[str, ...] = ()
    folder: pathlib.Path | None = None  # None: runs/<config's name>
    resume: bool = False
    launcher: str = "local"
    launcher_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    memory_gib: float | None = None  # None: as much as there is here
    schedule: Schedule = dataclasses.field(default_factory=Schedule)  # of saves


def run_sweep(request: Request, notice: Notice) -> SweepDir:
    """Run every point that has no result yet; table and states are then complete.

    Raises:
      ValueError: the config or the folder is wrong; then nothing was run.
      InterruptedRunError: there was a notice to stop.
    """
    sweep = _open(request)
    with sweep.lock():
        jobs = _jobs(sweep, request)
        try:
            if jobs:
                LAUNCHERS[request.launcher](jobs, request.launcher_options, notice)
        finally:
            table.write(sweep)
    return sweep


def _open(request: Request) -> SweepDir:
    path = request.config
    if not path.exists():
        path = load_config.find(str(path), beside=pathlib.Path())
    points = load_points(path, request.overrides)
    if points[0].experiment.fork is not None:
        raise ValueError(
            f"{path} is a fork's: its points would not know where the run lies that it was forked from. Fork once for "
            "each point: cl-imitate fork RUN --at STEP --set ..."
        )
    for group in groups(points):
        check_runnable(group[0].experiment, path.parent)
    name = points[0].experiment.name
    folder = request.folder or pathlib.Path("runs", name)
    return open_sweep(folder, points, name=name, origin=path.parent, resume=request.resume)


def _jobs(sweep: SweepDir, request: Request) -> list[Job]:
    """What is missing, in waves that fit into memory; the estimate is printed."""
    by_shape: dict[Any, list[str]] = {}
    missing = sweep.missing()
    experiments = {name: sweep.experiment(name) for name in missing}
    for name, experiment in experiments.items():
        by_shape.setdefault(without_leaves(experiment), []).append(name)
    print(
        f"{len(sweep.names)} points, {len(missing)} to run, in {len(by_shape)} group"
        f"{'s' * (len(by_shape) != 1)} of equal programs",
        file=sys.stderr,
    )
    for note, num in collections.Counter(
        note for experiment in experiments.values() for note in power.notes(experiment)
    ).items():
        print(f"note, of {num} of them: {note}", file=sys.stderr)
    if request.memory_gib is None:
        limit, source = memory.limit()
    else:
        limit, source = int(request.memory_gib * _GIB), "--memory-gib"
    jobs = []
    for index, names in enumerate(by_shape.values(), start=1):
        estimated = memory.estimate(experiments[names[0]])
        num = memory.num_in_a_wave(estimated, limit, len(names))
        waves = [names[first : first + num] for first in range(0, len(names), num)]
        print(
            f"group {index}: {_told(estimated, len(names), num, limit, source)}", file=sys.stderr, flush=True
        )
        jobs += [
            Job(sweep=sweep.path.resolve(), names=tuple(wave), group=index, schedule=request.schedule)
            for wave in waves
        ]
    return jobs


def _told(estimated: memory.Estimate, num_points: int, num: int, limit: int, source: str) -> str:
    most = max(num * estimated.simulate, estimated.train, estimated.evaluate)
    told = (
        f"{num_points} points, {num} at once, {-(-num_points // num)} waves; estimated {most / _GIB:.2f} GiB (simulate "
        f"{num} x {estimated.simulate / _GIB:.3f}, train {estimated.train / _GIB:.3f}, evaluate "
        f"{estimated.evaluate / _GIB:.3f}) of {limit / _GIB:.1f} GiB ({source}; {jax.default_backend()})"
    )
    if most > limit:
        told += ". WARNING: that is more than there is; make the points smaller, or raise --memory-gib"
    return told
