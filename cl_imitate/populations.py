"""Which learners a run has: recorded, held-out, and those newly born for a rung. Derived from config and seed.

Nothing here is stored: keys, tasks and rates of every learner can be made again at any time.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, keys, processes, simulate
from cl_imitate.envs import tasks
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.seating import Seating


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """N learners with their tasks."""

    name: str
    family: tasks.Family
    learner: config.Learner  # without its rates
    dqn: dqn_lib.DQN
    block_size: int
    learner_keys: jax.Array  # keys [N]
    streams: simulate.Streams  # keys [N] each
    rates: dqn_lib.DQNHyperparams  # [N]
    env_params: Any  # [N, ...]
    task: np.ndarray  # int [N]: learners with equal numbers share a task

    @property
    def num_learners(self) -> int:
        return len(self.task)

    @property
    def program(self) -> dict[str, Any]:
        """The static arguments of `simulate.run_chunk` that do not depend on how learners are dealt out."""
        return {"env": self.family.env, "dqn": self.dqn, "learner": self.learner}

    @property
    def static(self) -> dict[str, Any]:
        """The static arguments of `simulate.advance`."""
        return {**self.program, "block_size": self.block_size}

    def members(self, index: np.ndarray) -> "Population":
        """Some of these learners, int [n], as a population of its own; one may be named twice."""

        def some(tree):
            return jax.tree.map(lambda x: x[index], tree)

        return dataclasses.replace(
            self,
            learner_keys=some(self.learner_keys),
            streams=some(self.streams),
            rates=some(self.rates),
            env_params=some(self.env_params),
            task=self.task[index],
        )

    def shares(self) -> list[range]:
        """Which of these learners each process of the job takes: whole blocks, in order; some may get none."""
        num_blocks = -(-self.num_learners // self.block_size)
        blocks = [processes.share(num_blocks, process) for process in range(processes.count())]
        return [
            range(
                min(one.start * self.block_size, self.num_learners),
                min(one.stop * self.block_size, self.num_learners),
            )
            for one in blocks
        ]

    def own_share(self) -> range:
        """This process's."""
        return self.shares()[processes.index()]

    def newborn(self) -> simulate.Ensemble:
        """All learners at random initialisation."""
        return simulate.init_ensemble(self.learner_keys, self.env_params, env=self.family.env, dqn=self.dqn)

    def abstract(self) -> simulate.Ensemble:
        """The shapes of a snapshot, for reading one."""
        return jax.eval_shape(self.newborn)


def _make(
    name: str,
    experiment: config.Experiment,
    family: tasks.Family,
    *,
    stream: keys.Stream,
    num_learners: int,
    num_tasks: int,
    task_stream: keys.Stream,
    index: int = 0,
) -> Population:
    block_size = experiment.simulation.block_size
    if block_size == "auto":
        raise ValueError('simulation.block_size = "auto" has not been measured: the simulate stage does so.')
    root = keys.root(experiment.seed)
    task_keys = keys.members(keys.stream(keys.stream(root, keys.Stream.TASK), task_stream), num_tasks)
    env_params = _sample_tasks(task_keys[jnp.arange(num_learners) % num_tasks], sample=family.sample)
    learner_keys = keys.members(keys.member(keys.stream(root, stream), index), num_learners)
    return Population(
        name=name,
        family=family,
        learner=dqn_lib.without_rates(experiment.learner),
        dqn=dqn_lib.make_dqn(experiment.learner, family.env.spec),
        block_size=block_size,
        learner_keys=learner_keys,
        streams=simulate.make_streams(learner_keys),
        rates=dqn_lib.hyperparams(experiment.learner, num_learners),
        env_params=env_params,
        task=task_numbers(env_params),
    )


def join(some: Sequence[Population]) -> tuple[Population, Seating]:
    """Populations of equally many learners that differ in keys, tasks and rates, as one; and who sits where in it."""
    first = some[0]
    seating = Seating(first.num_learners, len(some), first.block_size)
    learner_keys, streams, rates, env_params, task = seating.join(
        [(one.learner_keys, one.streams, one.rates, one.env_params, one.task) for one in some]
    )
    joined = dataclasses.replace(
        first,
        learner_keys=learner_keys,
        streams=streams,
        rates=rates,
        env_params=env_params,
        task=np.asarray(task),
    )
    return joined, seating


@functools.partial(jax.jit, static_argnames=("sample",))
def _sample_tasks(task_keys: jax.Array, *, sample: Callable[[jax.Array], Any]) -> Any:
    return jax.vmap(sample)(task_keys)


def task_numbers(env_params: Any) -> np.ndarray:
    """Tasks [N, ...] -> int [N]: equal tasks have equal numbers, counted in the order of their first learners.

    A family with few tasks draws the same one more than once; such learners are not independent samples of tasks.
    """
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(env_params)]
    rows = np.concatenate([leaf.reshape(len(leaf), -1).view(np.uint8) for leaf in leaves], axis=1)
    _, first, number = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number.reshape(-1)]


def num_train_tasks(simulation: config.Simulation, training: config.Training) -> int:
    """How many tasks the imitators are trained on: those of recorded learners not kept for validation."""
    return simulation.num_tasks or simulation.num_recorded - training.num_validation


def make(name: str, experiment: config.Experiment) -> Population:
    """A recorded population: "recorded", "held_out" or "held_out_train_tasks"."""
    simulation = experiment.simulation
    num_learners, num_tasks, stream, task_stream = {
        "recorded": (
            simulation.num_recorded,
            simulation.num_tasks or simulation.num_recorded,
            keys.Stream.RECORDED,
            keys.Stream.RECORDED,
        ),
        "held_out": (
            simulation.num_held_out,
            simulation.num_held_out_tasks or simulation.num_held_out,
            keys.Stream.HELD_OUT,
            keys.Stream.HELD_OUT,
        ),
        "held_out_train_tasks": (
            simulation.num_held_out_train_tasks,
            num_train_tasks(simulation, experiment.training),
            keys.Stream.HELD_OUT_TRAIN_TASKS,
            keys.Stream.RECORDED,
        ),
    }[name]
    split = "held_out" if name == "held_out" else "train"
    family = tasks.make(experiment.environment, shapes=experiment.shapes, split=split)
    return _make(
        name,
        experiment,
        family,
        stream=stream,
        num_learners=num_learners,
        num_tasks=num_tasks,
        task_stream=task_stream,
    )


def on_rung(experiment: config.Experiment, rung: config.Rung, index: int) -> Population:
    """Newly born learners on the tasks of one rung of the ladder (`index` its place in the config)."""
    family = tasks.make(
        rung.environment or experiment.environment,
        shapes=experiment.shapes,
        variants=rung.variants,
        split=rung.split,
    )
    num_learners = experiment.evaluation.elsewhere_learners
    train_tasks = num_train_tasks(experiment.simulation, experiment.training)
    return _make(
        f"rung {rung.rung} {rung.name}",
        experiment,
        family,
        stream=keys.Stream.RUNG,
        num_learners=num_learners,
        num_tasks=min(num_learners, train_tasks) if rung.split == "train" else num_learners,
        task_stream=keys.Stream.RECORDED if rung.split == "train" else keys.Stream.HELD_OUT,
        index=index,
    )
