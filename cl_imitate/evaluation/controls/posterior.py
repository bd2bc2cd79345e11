"""The learner posterior as a control: what an ideal imitator would do, through the very protocols of the imitator.

*With the truth* it is the positive control: it knows the hidden causes of the learners (the keys of their
initialisation and replay), so that one of its hypotheses is the learner. Its posterior must find that one, and every
protocol must come out yes; else the instrument could not see a yes. *Without the truth* its shortfall is a result: with
the true hypothesis left out, and with hidden causes of its own. What training is to an imitator, recorded learners are
to it: they say which hypotheses to expect of a learner of which nothing has been seen (PROCESS from nothing).

Axes: n learners, H hypotheses, P particles, C chunks of steps.
"""

import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from cl_imitate import keys, sharding
from cl_imitate.config import Experiment
from cl_imitate.evaluation import posterior_arms, posterior_walk, results, rollouts, summary
from cl_imitate.evaluation.controls import posterior_answer
from cl_imitate.evaluation.controls.posterior_learners import (
    Company,
    meet,
    meeting_steps,
    num_learners,
    padded,
)
from cl_imitate.evaluation.controls.posterior_places import Place, hypotheses, places, without_truth
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.posterior_walk import Ensemble
from cl_imitate.evaluation.results import Cell
from cl_imitate.evaluation.scene import part_name
from cl_imitate.imitators import learner_posterior as lib
from cl_imitate.populations import Population

_LEAST_EVIDENCE = 1e-30
"""Of one recorded learner for a hypothesis; less is not told from none."""


def _with_truth(company: Company) -> Arrays:
    return _named("with_truth", _condition(company))


def _without_truth(company: Company) -> Arrays:
    """With the truth first: to compare with, and because it tells which hypotheses are the truth by another name."""
    copies = company.place.experiment.controls.posterior.num_initialisations

    def truth_removed(devices: sharding.Devices) -> Arrays:
        whole = _condition(company, acts=False, devices=devices)
        removed = _condition(company, removed=whole["same"], devices=devices)
        return _named("with_truth", whole) | _named("truth_removed", removed)

    def own_causes(devices: sharding.Devices) -> Arrays:
        return _named("own_causes", _condition(company, copies=copies, shares_causes=False, devices=devices))

    population = company.population
    num_blocks = -(-population.num_learners // population.block_size)
    removed, own = posterior_arms.both(num_blocks, truth_removed, own_causes)
    return removed | own


def _named(name: str, arrays: Arrays) -> Arrays:
    return {f"{name}|{key}": values for key, values in arrays.items()}


Conditions = Callable[[Company], Arrays]


def _places(experiment: Experiment, conditions: Conditions) -> tuple[Place, ...]:
    found = places(experiment)
    return found if conditions is _with_truth else tuple(without_truth(place) for place in found)


def _measure(study: Study, *, conditions: Conditions) -> Arrays:
    found: Arrays = {}
    for place in _places(study.experiment, conditions):
        part = part_name("learner posterior", conditions.__name__, place.name)
        done = study.keeper.finished(part) if study.keeper is not None else None
        if done is not None:
            arrays = done[0]
            study.tick(_work_at(place, conditions))
        else:
            arrays = conditions(meet(place, study.tick))
            if study.keeper is not None:
                study.keeper.finish(part, arrays, {})
        found |= _named(place.name, arrays)
    return found


def _work(experiment: Experiment, *, conditions: Conditions) -> int:
    return sum(_work_at(place, conditions) for place in _places(experiment, conditions))


def _work_at(place: Place, conditions: Conditions) -> int:
    experiment = place.experiment
    held_out, recorded = (
        padded(num_learners(name, experiment), experiment) for name in ("held_out", "recorded")
    )
    reading, acting = experiment.recorded_steps, sum(one.horizon_steps for one in place.protocols)
    whole = (held_out + recorded) * reading + held_out * acting
    posteriors = whole if conditions is _with_truth else 2 * whole + held_out * reading
    return meeting_steps(place) + posteriors


def _condition(
    company: Company,
    *,
    copies: int = 1,
    shares_causes: bool = True,
    removed: np.ndarray | None = None,
    acts: bool = True,
    devices: sharding.Devices | None = None,
) -> Arrays:
    """What one posterior finds and, unless told not to act, does.

    Args:
      copies: particles of each hypothesis. shares_causes: they have the learners' keys, not their own.
      removed: bool [n, H]: hypotheses that it does not have.
      devices: where its blocks are followed; None: on all local ones.
    """
    population = company.population
    make = functools.partial(_ensemble, company, copies=copies, shares_causes=shares_causes)
    ensemble = make(population)
    num, shape = population.num_learners, (population.num_learners, ensemble.mixture.num_hypotheses)
    allowed = np.where(np.zeros(shape, bool) if removed is None else removed, -np.inf, 0.0)
    uniform = scipy.special.log_softmax(allowed, axis=1)
    expected = uniform
    if acts:
        expected = scipy.special.log_softmax(
            allowed + _expected(company, make(company.recorded), devices), axis=1
        )
    of_block = functools.partial(_block, company, ensemble, uniform=uniform, expected=expected, acts=acts)
    parts = posterior_arms.by_block(num, population.block_size, of_block, devices)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    same = np.zeros(shape, bool)
    if shares_causes:
        same[:, ensemble.mixture.hypothesis_of] = joined["same"]
    same[:, ensemble.truth] = True
    found = {key: values for key, values in joined.items() if not key.startswith("acted|")}
    found |= {"same": same, "expected": np.exp(expected), "task": population.task}
    if acts:
        cells = [cell for index in range(len(company.scenes)) for cell in _cells(company, index, joined)]
        arrays, index = results.pack(cells)
        found |= _named("cells", arrays) | {"index": np.array(json.dumps(index))}
    return found


def _ensemble(company: Company, population: Population, *, copies: int, shares_causes: bool) -> Ensemble:
    experiment = company.place.experiment
    asked = experiment.controls.posterior
    whom = hypotheses(experiment.learner, asked)
    mixture, settings = lib.make_mixture(
        whom, population.family.env.spec, copies=copies, at_once=asked.at_once
    )
    shape = (copies * len(whom), population.num_learners)
    if shares_causes:
        init = jax.vmap(lambda key: keys.stream(key, keys.Stream.LEARNER_INIT))(population.learner_keys)
        replay = population.streams.replay
        causes = lib.make_causes(mixture, jnp.broadcast_to(init, shape), jnp.broadcast_to(replay, shape))
    else:
        root = keys.stream(keys.root(experiment.seed), keys.Stream.FRESH)
        whose = keys.Stream.HELD_OUT if population.name == "held_out" else keys.Stream.RECORDED
        by_learner = keys.members(keys.stream(root, whose), shape[1])
        own = jax.vmap(lambda key: keys.members(key, shape[0]), out_axes=1)(by_learner)

        def named(stream: keys.Stream) -> jax.Array:
            return jax.vmap(jax.vmap(lambda key: keys.stream(key, stream)))(own)

        causes = lib.make_causes(mixture, named(keys.Stream.LEARNER_INIT), named(keys.Stream.REPLAY))
    return Ensemble(
        mixture=mixture,
        settings=settings,
        causes=causes,
        truth=0,
        power=asked.likelihood_power,
        resample_below=asked.resample_below,
    )


def _expected(company: Company, ensemble: Ensemble, devices: sharding.Devices | None) -> np.ndarray:
    """Log-evidence [H] of all recorded learners: each starts from equal weights, and their posteriors multiply."""
    population, history = company.recorded, company.recorded_history
    num_hypotheses = ensemble.mixture.num_hypotheses

    def of_block(streams: np.ndarray, count: int) -> np.ndarray:
        uniform = np.full((len(streams), num_hypotheses), -np.log(num_hypotheses))
        lived, _ = _read(company, population, history, ensemble, streams, uniform, ())
        return lived.weights[:count, -1]

    evidence = posterior_arms.by_block(population.num_learners, population.block_size, of_block, devices)
    return np.log(np.maximum(np.concatenate(evidence), _LEAST_EVIDENCE)).sum(axis=0)


def _read(company, population, history, ensemble, streams, log_prior, keep_steps):
    """Read the lives of some streams."""
    members, own = population.members(streams), ensemble.members(streams)
    return posterior_arms.read(
        posterior_walk.begin(members, own, log_prior),
        members,
        jax.tree.map(lambda leaf: leaf[streams], history),
        own,
        act_keys=keys.members(company.scenes[0].act_key, population.num_learners)[streams],
        chunk_steps=company.place.chunk_steps,
        keep_steps=keep_steps,
        tick=company.tick,
    )


def _block(
    company: Company,
    ensemble: Ensemble,
    streams: np.ndarray,
    count: int,
    *,
    uniform: np.ndarray,
    expected: np.ndarray,
    acts: bool,
) -> Arrays:
    """One block of streams, of which the first `count` count: read from equal weights, then in every scene."""
    population = company.population
    members, own = population.members(streams), ensemble.members(streams)
    prompts = {one.protocol.prompt_step for one in company.scenes} if acts else set()
    lived, walks = _read(
        company, population, company.history, ensemble, streams, uniform[streams], tuple(prompts)
    )
    chunks = lived.weights.shape[1]
    distance = lived.distance.reshape(len(streams), chunks, -1)
    found = {
        "log_loss": lived.log_loss.reshape(len(streams), chunks, -1).mean(axis=-1),
        "distance": np.nansum(distance, axis=-1),
        "greedy_steps": np.isfinite(distance).sum(axis=-1),
        "weights": lived.weights,
        "same": lived.same,
    }
    for index, scene in enumerate(company.scenes if acts else ()):
        step, horizon = scene.protocol.prompt_step, scene.protocol.horizon_steps
        walk = walks[step] if step else posterior_walk.begin(members, own, expected[streams])
        acted = posterior_arms.act(walk, members, own, scene, streams, num_steps=horizon, tick=company.tick)
        found |= {f"acted|{index}|returns": acted.returns, f"acted|{index}|visits": acted.visits}
    return {key: values[:count] for key, values in found.items()}


def _cells(company: Company, index: int, joined: Arrays) -> list[Cell]:
    """The cells of one scene, the mixture in the imitator's place."""
    scene, learners = company.scenes[index], company.arms[index]
    protocol = scene.protocol
    whole_life = protocol.prompt_step + protocol.horizon_steps
    mixture, visits = joined[f"acted|{index}|returns"][None], joined[f"acted|{index}|visits"][None]
    random = learners.random_level
    later: dict = {**learners.returns, "imitator": mixture}
    scalars = {}
    if protocol.goes_on:
        scalars["imitator_occupancy_distance"] = summary.occupancy_distance(visits, learners.visits[None])
    if protocol.name == "process":
        return [rollouts.cell(scene, whole_life, "process", later, random, scalars)]
    num_now = protocol.now_steps // scene.block_steps
    now = {arm: values[..., :num_now] for arm, values in later.items() if arm != "learner"}
    cells = [rollouts.cell(scene, whole_life, "now", now, random)]
    if protocol.goes_on:
        cells.append(rollouts.cell(scene, whole_life, "later", later, random, scalars))
    return cells


WITH_TRUTH = Control(
    measure=functools.partial(_measure, conditions=_with_truth),
    answer=posterior_answer.with_truth,
    work=functools.partial(_work, conditions=_with_truth),
)
WITHOUT_TRUTH = Control(
    measure=functools.partial(_measure, conditions=_without_truth),
    answer=posterior_answer.without_truth,
    work=functools.partial(_work, conditions=_without_truth),
)
