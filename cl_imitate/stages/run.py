"""A configuration and its folder, and what building can tell of them before anything runs."""

import dataclasses
import pathlib

from cl_imitate import config, load_config, processes, simulate, spread
from cl_imitate.envs import tasks
from cl_imitate.evaluation import protocols
from cl_imitate.evaluation.controls import posterior_places
from cl_imitate.imitators.make import make_imitator
from cl_imitate.keeper import Keeper, Schedule
from cl_imitate.open_run import open_run
from cl_imitate.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and its folder. `origin` is the folder of the config file, for the gate's path."""

    written: config.Experiment  # as the file and the overrides say
    folder: RunDir
    origin: pathlib.Path
    schedule: Schedule = dataclasses.field(
        default_factory=Schedule
    )  # when a stage saves what it can go on from

    @property
    def experiment(self) -> config.Experiment:
        """The configuration, with a block size that was measured in this folder in the place of "auto"."""
        if self.written.simulation.block_size != "auto":
            return self.written
        measured = self.folder.manifest.get("block_size")
        return with_block_size(self.written, measured["picked"]) if measured else self.written

    @property
    def path(self) -> pathlib.Path:
        return self.folder.path


def open_stage_run(
    experiment: config.Experiment,
    path: pathlib.Path,
    origin: pathlib.Path,
    schedule: Schedule | None = None,
) -> Run:
    """The run of `experiment` in `path`, made or opened."""
    folder = open_run(
        path, fingerprint=load_config.fingerprint(experiment), config_text=load_config.dump(experiment)
    )
    return Run(experiment, folder, origin, schedule or Schedule())


def keeper_of(run: Run, stage: str, *, together: bool = False) -> Keeper:
    """What keeps the saves of a stage: each process's own ones, or those of what all do `together`."""
    folder, attempt, num = run.folder.keeper_path(stage), run.folder.attempt(stage), processes.count()
    if num == 1:
        return Keeper(folder, run.schedule, attempt)
    whose = 0 if together else processes.index()
    return Keeper(
        folder / f"process_{whose}_of_{num}", run.schedule, attempt, writes=whose == processes.index()
    )


def with_block_size(experiment: config.Experiment, size: int) -> config.Experiment:
    """The experiment with a block size that was measured in the place of "auto"."""
    simulation = dataclasses.replace(experiment.simulation, block_size=size)
    return dataclasses.replace(experiment, simulation=simulation)


def chunk_steps(experiment: config.Experiment) -> int:
    """Env steps in one compiled chunk."""
    return simulate.chunk_plan(
        protocols.boundary_steps(experiment),
        experiment.learner,
        at_most=experiment.simulation.chunk_steps,
    )


def contexts_of(experiment: config.Experiment) -> tuple[int, ...]:
    """The context lengths of all imitators, the headline one first."""
    return (experiment.imitator.context_steps, *experiment.imitator.also_context_steps)


def has_own_gate(experiment: config.Experiment) -> bool:
    """Whether the gate is this run's own PROCESS from an empty context."""
    return experiment.gate.experiment == "self"


def gate_experiment(
    experiment: config.Experiment, origin: pathlib.Path
) -> tuple[config.Experiment, pathlib.Path]:
    """The gate's experiment with the run's seed, and the folder of its file."""
    path = load_config.find(experiment.gate.experiment, beside=origin)
    return load_config.load(path, overrides=(f"seed={experiment.seed}",)), path.parent


def gate_run(run: Run) -> Run:
    """The gate's own run, inside this run's folder."""
    experiment, origin = gate_experiment(run.experiment, run.origin)
    return open_stage_run(experiment, run.path / "gate", origin, run.schedule)


def gate_fingerprint(run: Run) -> str:
    """Of the gate's experiment: which gate it is."""
    return load_config.fingerprint(gate_experiment(run.experiment, run.origin)[0])


def check_for_a_job(experiment: config.Experiment, origin: pathlib.Path) -> None:
    """What several processes could not train, said before they simulate.

    Raises:
      ValueError: this is one of several processes, and they cannot share these imitators evenly, or one of them alone
        would stream.
    """
    if processes.count() == 1:
        return
    training = experiment.training
    if training.feed == "stream" and training.stream_devices == "split":
        raise ValueError(
            'training.stream_devices = "split" is for one process, and this is one of '
            f'{processes.count()}. Use "shared".'
        )
    spread.make_mesh(training.num_seeds * len(experiment.evaluation.fork_steps), training)
    if not has_own_gate(experiment):
        check_for_a_job(*gate_experiment(experiment, origin))


def check_runnable(experiment: config.Experiment, origin: pathlib.Path) -> None:
    """Raises ValueError for what only building can tell: sizes that do not fit, variants that do not apply.

    `origin` is the config file's folder, where the gate's experiment is looked for first.
    """
    chunk_steps(experiment)
    own = tasks.make(experiment.environment, shapes=experiment.shapes)
    tasks.make(experiment.environment, shapes=experiment.shapes, split="held_out")
    for context_steps in contexts_of(experiment):
        make_imitator(experiment.imitator, own.env.spec, context_steps=context_steps)
    if not has_own_gate(experiment):
        check_runnable(*gate_experiment(experiment, origin))
    if experiment.controls.posterior.also is not None:
        for place in posterior_places.places(experiment):
            tasks.make(place.experiment.environment, shapes=experiment.shapes)
            chunk_steps(place.experiment)
    for index, rung in enumerate(experiment.evaluation.rungs):
        family = tasks.make(
            rung.environment or experiment.environment,
            shapes=experiment.shapes,
            variants=rung.variants,
            split=rung.split,
        )
        is_symmetry = rung.variants == ("permute_actions",) and isinstance(
            rung.environment or experiment.environment, config.Lock | config.Bandit
        )
        if is_symmetry and rung.rung not in ("0", "1"):
            raise ValueError(
                f"evaluation.rungs[{index}] ({rung.name}): permuted actions make just another task of this family. "
                "Call it rung 1, or choose another variant."
            )
        if family.env.spec.observation != own.env.spec.observation:
            raise ValueError(
                f"evaluation.rungs[{index}] ({rung.name}): its observations are {family.env.spec.observation}, the "
                f"imitator's {own.env.spec.observation}. A rung must stay among symbols or among screens."
            )
