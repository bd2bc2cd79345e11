"""What can be asked for at the command line: one dataclass a command, its fields the options, its texts the help."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Saving:
    """What a stage under way saves."""

    save_every_seconds: float = 300.0
    """How often a stage under way saves what --resume goes on from (0: only when told to stop)."""
    save_every_steps: int = 0
    """The same, counted in steps of what is under way (0: not counted)."""
    keep_saves: int = 2
    """How many last saves of what is under way are kept; the next one is tried where one is damaged."""


@dataclasses.dataclass(frozen=True)
class Job:
    """The processes that make one run together."""

    distributed: Literal["auto", "on", "off"] = "auto"
    """Whether this process is one of a job of several. auto: with --coordinator, or as one of several tasks of a Slurm
    step; on: also as any other cluster tells (Open MPI, TPU pods)."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where the job's first process listens; for all of its processes the same. Left out: the cluster tells."""
    num_processes: int | None = None
    """How many processes the job has. Left out: the cluster tells."""
    process_id: int | None = None
    """Which of them this is, from 0 on. Left out: the cluster tells."""
    cpu_devices: int = 0
    """Without an accelerator: into how many devices this process's cores are divided (0: one a core, at most 8)."""


@dataclasses.dataclass(frozen=True)
class StageArguments(Job, Saving):
    """Which configuration, and which folder."""

    config: Annotated[pathlib.Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = None
    """A TOML file, e.g. configs/quickstart.toml. Left out: the one in --run-dir."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The run's folder. Default: runs/<config name>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Override one value, e.g. --set training.num_seeds=5. May be repeated."""
    parent: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Of a fork, the folder of the run that it was forked from, where that has moved."""


@dataclasses.dataclass(frozen=True)
class OneStage(StageArguments):
    """One stage alone."""

    again: bool = False
    """Redo a stage from its beginning; what it and later stages left in the folder is replaced."""


@dataclasses.dataclass(frozen=True)
class Run(StageArguments):
    """From random initialisation to a verdict: every stage in order."""

    resume: bool = False
    """Start, or go on from where the run in this folder was left, bit for bit."""


@dataclasses.dataclass(frozen=True)
class Simulate(OneStage):
    """Run the learners and record their whole histories."""


@dataclasses.dataclass(frozen=True)
class Gate(OneStage):
    """Run the gate's experiment, where it is one of its own."""


@dataclasses.dataclass(frozen=True)
class Train(OneStage):
    """Train the imitators on the recorded histories."""


@dataclasses.dataclass(frozen=True)
class Evaluate(OneStage):
    """Roll out the frozen imitators beside the learners that go on."""


@dataclasses.dataclass(frozen=True)
class Control(OneStage):
    """Make the controls that the config names: what says how far the answers can be believed."""


@dataclasses.dataclass(frozen=True)
class Report(OneStage):
    """Decide, and draw the figures and the page. Needs no accelerator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fork(Saving):
    """A run whose learners start as another run's were at a step, and live on with what --set changes.

    The learners' rates may be changed, and all that comes after learners: imitator, training, evaluation, gate, rules.
    What was lived before is read from the other run, not copied. Every stage is run.
    """

    run: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of the run to fork; it needs no more than its simulate stage."""
    at: Annotated[int, tyro.conf.arg(metavar="STEP")]
    """The learners' age; their snapshots were kept at evaluation.fork_steps."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The fork's folder. Default: runs/<config name>-fork-<step>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Change one value, e.g. --set learner.learning_rate=1e-4. May be repeated."""
    resume: bool = False
    """Start, or go on from where the fork in this folder was left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Saving):
    """Every point of a config with a [sweep], those of equal shapes as one ensemble; then a table of all."""

    config: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """A TOML file with a [sweep], e.g. configs/sweep.toml."""
    run_dir: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="DIR")] = None
    """The sweep's folder. Default: runs/<config name>."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Override one value of all points, e.g. --set training.num_updates=50. May be repeated."""
    resume: bool = False
    """Run only what is missing; points under way go on from inside a stage, bit for bit."""
    launcher: Literal["local", "slurm", "ray"] = "local"
    """Where points are computed: in this process, as Slurm jobs (extra "slurm"), as Ray tasks (extra "ray")."""
    launcher_set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An option of the launcher, e.g. --launcher-set gpus_per_node=1. May be repeated."""
    memory_gib: float | None = None
    """So much memory one job may use; points are split into waves that fit. Default: what is free here."""


@dataclasses.dataclass(frozen=True)
class Show:
    """What a run's folder holds, and its verdict; or where the points of a sweep stand."""

    run_dir: Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of a run or of a sweep."""
    watch: bool | None = None
    """A sweep: show it again and again until all is done. Default: on a terminal, while it runs."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Several finished runs side by side: a table, and a CSV file, a figure and a page."""

    run_dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR DIR ...")]
    """The runs' folders, two or more."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/comparison")
    """Where comparison.csv, comparison.png and index.html go; what was there of these names is replaced."""


@dataclasses.dataclass(frozen=True)
class Horizon:
    """How far frozen imitation goes and what moves the break, from sweeps (and runs) that are done or under way."""

    dirs: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR DIR ...")]
    """Folders of sweeps, e.g. runs/horizon, or of runs."""
    out: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/horizon_page")
    """Where horizon.csv, the figures and index.html go; what was there of these names is replaced."""


@dataclasses.dataclass(frozen=True)
class Envs:
    """The environment families that a config can name."""


Command = (
    Run
    | Simulate
    | Gate
    | Train
    | Evaluate
    | Control
    | Report
    | Fork
    | Sweep
    | Show
    | Compare
    | Horizon
    | Envs
)
