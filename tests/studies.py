"""Tiny trained runs as controls see them, made in memory: learners that lived, and imitators that are given."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, keys, load_config, populations, simulate
from cl_imitate.evaluation import protocols
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.controls.study import Study
from cl_imitate.imitators.base import Imitator
from cl_imitate.imitators.make import make_imitator
from cl_imitate.stages.run import chunk_steps
from cl_imitate.types import History

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"


@functools.cache
def experiment(*overrides: str) -> config.Experiment:
    alone = ("evaluation.rungs=[]", "evaluation.months=[]", "imitator.also_context_steps=[]")
    return load_config.load(SMOKE, (*alone, *overrides))


@functools.cache
def lived(
    of: config.Experiment, name: str
) -> tuple[populations.Population, dict[int, simulate.Ensemble], History]:
    """A population, its snapshots by step, and its whole histories."""
    population = populations.make(name, of)
    wanted = protocols.snapshot_steps(of, name)
    snapshots, parts = {0: population.newborn()}, []
    for step, (kept, history) in enumerate(
        simulate.advance(
            population.newborn(),
            population.streams,
            population.env_params,
            population.rates,
            **population.static,
            num_steps=of.recorded_steps,
            chunk_steps=chunk_steps(of),
            keep_steps=wanted,
        ),
        start=1,
    ):
        parts.append(jax.tree.map(np.asarray, history))
        if kept is not None:
            snapshots[step * chunk_steps(of)] = jax.tree.map(jnp.copy, kept)
    return population, snapshots, jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


def nothing(_: int) -> None:
    pass


def study(of: config.Experiment, imitator: Imitator | None = None, tick=nothing) -> Study:
    """The run of `of`; its imitators are untrained, or `imitator` acts for each seed."""
    population = lived(of, "held_out")[0]
    spec, context = population.family.env.spec, of.imitator.context_steps
    used = make_imitator(of.imitator, spec, context_steps=context) if imitator is None else imitator
    params = jax.vmap(used.init)(keys.members(keys.root(5), of.training.num_seeds))
    frozen = Frozen(imitator=used, context_steps=context, params=params, num_seeds=of.training.num_seeds)

    def snapshot(population, step):
        return jax.tree.map(jnp.copy, lived(of, population.name)[1][step])

    return Study(
        experiment=of,
        spec=spec,
        chunk_steps=chunk_steps(of),
        population=lambda name: lived(of, name)[0],
        snapshot=snapshot,
        history=lambda name: lived(of, name)[2],
        imitators={context: dict.fromkeys(of.evaluation.fork_steps, frozen)},
        tick=tick,
    )
