"""The floor: how far a learner lies from its own clones, which differ in hidden randomness alone.

M continuations of one snapshot, from LATER's fork on. Clone 0 is the learner that goes on, with its own random numbers,
bit for bit; the others draw their own exploration coins and replay indices, which no imitator sees. The environment's
random numbers are clone 0's for all of them: what the environment does is seen, so it is not hidden, and of two
continuations that act alike it must not make two. (Where clones act differently, they see different things all the
same.) In symbolic families, where it costs little, the clones are made once more with environments of their own, as in
any real second life: `floor_own_environment`.

All are compared on the same observations, those of clone 0 in its last steps before each look, and at the same time:
each clone as it was when clone 0 saw the observation, as the imitator's prediction is of that moment. (Clones taken at
the look would have moved on since, and what they moved would be counted against the imitator alone.) So close to a look
the clones are lived an update at a time and asked after each. (States spread evenly over the horizon would cost no
less, and always fall on the same places of an episode.) Where an update comes only after several steps, one observation
in so many is taken. Of every clone j, total variation TV(pi_j, mean of the others) and KL(pi_j || mean of the others):
the mean is what one would predict who knows all that can be known but what is hidden, so the latter is the least that
any prediction can lose.

The imitator reads clone 0's stream behind the same prompt (teacher-forced). Its KL is KL(pi_j || imitator), the mean
over the clones j > 0 whose stream it does not read; its TV is TV(imitator, mean of these). The excess is over the
floor, on the same observations. TV's can be as low as minus the floor (the mean itself has none), KL's hardly below 0.
As it reads clone 0's acts, it can know more of clone 0 than its clones tell: `own_nats` is KL(pi_0 || imitator).

In closed loop states differ, so what is compared is the use of time: total variation between shares of state-action
pairs over the whole horizon, the imitator's and a clone's from the mean of the (other) clones.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import keys, simulate, statistics
from cl_imitate.config import Experiment
from cl_imitate.evaluation import divergence, summary
from cl_imitate.evaluation.controls.scenes import later_scene, rows
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.scene import Count, Scene, again, prompt_for
from cl_imitate.populations import Population
from cl_imitate.types import History, SymbolObservation

_MOST_LOOKS = 32


def measure(study: Study) -> Arrays:
    """Divergences of clones [L, M, K] and of imitators [S, L, K] at K looks, and over all of the horizon."""
    scene = later_scene(study, study.experiment.controls.floor_learners)
    looks = _looks(study.experiment, study.chunk_steps)
    states = _states(study.experiment, looks)
    lived = _Clones(study, scene, looks, states, own_environment=False)
    found = {"looks": looks, "task": scene.population.task, **_among(lived.policies)}
    found["clone_occupancy"] = _from_others(lived.visits)
    found |= _imitators(study, scene, lived, states)
    if isinstance(study.spec.observation, SymbolObservation):
        other = _Clones(study, scene, looks, states, own_environment=True)
        found |= {f"own_environment_{name}": values for name, values in _among(other.policies).items()}
    return found


def work(experiment: Experiment) -> int:
    """Steps of clones (where there are symbols, twice) and of imitators."""
    controls, learners = experiment.controls, _num_learners(experiment)
    passes = 1 if experiment.environment.family in ("minatar", "cart_pole") else 2
    streams = passes * controls.floor_clones + experiment.training.num_seeds
    return learners * streams * experiment.evaluation.later_steps


def answer(experiment: Experiment, arrays: Arrays) -> dict[str, Any]:
    """The floor as the mean total variation over the horizon; every imitator's divergence as excess over it."""
    task, rules = arrays["task"], experiment.rules

    def interval(values: np.ndarray, floor: np.ndarray | None = None) -> dict[str, Any]:
        rng = np.random.default_rng([experiment.seed, 7])
        floor = np.zeros((1, len(task))) if floor is None else floor
        found = statistics.estimate(
            _mean_difference, values, floor, task=task, rng=rng, samples=rules.bootstrap_samples
        )
        return {"estimate": found.value, "ci95": found.interval(rules.confidence)}

    def over_clones(name: str) -> np.ndarray:
        return arrays[name].mean(axis=(1, 2))[None]

    floor_tv, floor_nats = over_clones("clone_tv"), over_clones("clone_nats")
    floor_use = arrays["clone_occupancy"].mean(axis=1)[None]
    own = {
        key: interval(over_clones(f"own_environment_clone_{key}"))
        for key in ("tv", "nats")
        if f"own_environment_clone_{key}" in arrays
    }
    return {
        **interval(floor_tv),
        "unit": "total variation between action probabilities, of a clone from the mean of the others",
        "meaning": "What no imitator can foresee: learners from one snapshot that differ in exploration and replay "
        "alone come to differ by so much. An imitator's divergence is to be read as excess over it.",
        "floor_nats": interval(floor_nats),
        "floor_own_environment": own or None,
        "imitator_tv": interval(arrays["imitator_tv"].mean(axis=-1)),
        "imitator_nats": interval(arrays["imitator_nats"].mean(axis=-1)),
        "excess_tv": interval(arrays["imitator_tv"].mean(axis=-1), floor_tv),
        "excess_nats": interval(arrays["imitator_nats"].mean(axis=-1), floor_nats),
        "own_nats": interval(arrays["imitator_own_nats"].mean(axis=-1)),
        "closed_loop": {
            "unit": "total variation between shares of state-action pairs over the horizon",
            "floor": interval(floor_use),
            "imitator": interval(arrays["imitator_occupancy"]),
            "excess": interval(arrays["imitator_occupancy"], floor_use),
        },
        "replay": experiment.learner.replay,
        "num_clones": arrays["clone_tv"].shape[1],
        "num_learners": len(task),
        "curve": {
            "steps_after_fork": arrays["looks"],
            **{name: arrays[name].mean(axis=(0, 1)) for name in ("clone_tv", "clone_nats")},
            **{
                f"excess_{unit}": (arrays[f"imitator_{unit}"] - arrays[f"clone_{unit}"].mean(axis=1)).mean(
                    (0, 1)
                )
                for unit in ("tv", "nats")
            },
        },
    }


FLOOR = Control(measure=measure, answer=answer, work=work)


def _num_learners(experiment: Experiment) -> int:
    return min(experiment.controls.floor_learners, experiment.simulation.num_held_out)


def _looks(experiment: Experiment, chunk_steps: int) -> np.ndarray:
    """After how many steps the clones are looked at: ends of blocks and of chunks, int [K]."""
    every = math.lcm(chunk_steps, experiment.evaluation.block_steps)
    horizon = experiment.evaluation.later_steps
    every *= -(-horizon // every // _MOST_LOOKS) or 1
    return np.arange(every, horizon + 1, every) if every <= horizon else np.array([horizon])


def _states(experiment: Experiment, looks: np.ndarray) -> np.ndarray:
    """The steps since the fork at which all are compared before each look, int [K, X]: one between any two updates."""
    back = experiment.learner.steps_per_update * np.arange(experiment.controls.floor_states, 0, -1)
    return np.maximum(looks[:, None] - back, 0)


def _pieces(looks: np.ndarray, states: np.ndarray, *, few: int, one: int) -> list[tuple[int, int]]:
    """(steps, steps of a chunk) from 0 to the last look: `few` at once up to a look's states, and `one` from there."""
    pieces, lived = [], 0
    for look, first in zip(looks.tolist(), states[:, 0].tolist(), strict=True):
        slow_from = max(lived, first // few * few)
        pieces += [(slow_from - lived, few), (look - slow_from, one)]
        lived = look
    return [piece for piece in pieces if piece[0]]


def clone_streams(
    population: Population, env_keys: jax.Array, num_clones: int, *, own_environment: bool
) -> simulate.Streams:
    """Streams [L * M], a learner's clones side by side: clone 0 has the learner's own, the others' are folded anew.

    `env_keys` [L] are what clone 0's environment draws from; the others' too, unless each has an `own_environment`.
    """
    which = jnp.arange(num_clones)

    def of_learner(learner_key, act, env, replay):
        def of_clone(clone):
            key = keys.member(keys.stream(learner_key, keys.Stream.ARM_ACT), clone)
            other = keys.member(keys.stream(learner_key, keys.Stream.ARM_ENV), clone)
            fresh = keys.stream(key, keys.Stream.ACT), other, keys.stream(key, keys.Stream.REPLAY)
            is_first = clone == 0
            return (
                jnp.where(is_first, act, fresh[0]),
                jnp.where(is_first | (not own_environment), env, fresh[1]),
                jnp.where(is_first, replay, fresh[2]),
            )

        return jax.vmap(of_clone)(which)

    streams = population.streams
    found = jax.vmap(of_learner)(
        again(population.learner_keys), again(streams.act), again(env_keys), again(streams.replay)
    )
    act, env, replay = (one.reshape(-1) for one in found)
    return simulate.Streams(act=act, env=env, replay=replay)


class _Clones:
    """M clones of each of L learners, having lived the horizon.

    Attributes:
      policies: float [L, M, K, X, A], before every look on X observations of clone 0, when it saw them.
      visits: int [L, M, V].
      history: clone 0's, [L, T].
    """

    def __init__(
        self, study: Study, scene: Scene, looks: np.ndarray, states: np.ndarray, *, own_environment: bool
    ):
        num_clones = study.experiment.controls.floor_clones
        num = scene.population.num_learners
        index = np.repeat(np.arange(num), num_clones)
        population = scene.population.members(index)
        first = int(scene.snapshot.clock.step)
        ensemble = simulate.begin_episode(
            rows(scene.snapshot, index),
            again(scene.reset_keys)[index],
            population.env_params,
            env=population.family.env,
            dqn=population.dqn,
        )
        streams = clone_streams(scene.population, scene.env_keys, num_clones, own_environment=own_environment)
        histories: list[History] = []
        found: dict[int, np.ndarray] = {}
        self.visits = np.zeros((num * num_clones, summary.num_places(study.spec)), np.int64)
        if not states.min():
            found[0] = _asked(population, ensemble, num_clones)
        for kept, history in _live(ensemble, population, streams, looks, states, scene.chunk_steps):
            if kept is not None and int(kept.clock.step) - first in states:
                found[int(kept.clock.step) - first] = _asked(population, kept, num_clones)
            histories.append(jax.tree.map(lambda leaf: np.asarray(leaf)[::num_clones], history))
            self.visits += summary.visits_of(study.spec, history.obs, history.action)  # pyright: ignore
            study.tick(history.action.size)
        self.history: History = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *histories)
        policies = np.stack([found[step] for step in states.ravel().tolist()], axis=1)
        self.policies = policies.reshape(num, num_clones, *states.shape, -1)
        self.visits = self.visits.reshape(num, num_clones, -1)


def _live(
    ensemble: simulate.Ensemble,
    population: Population,
    streams: simulate.Streams,
    looks: np.ndarray,
    states: np.ndarray,
    chunk_steps: int,
) -> Iterator[tuple[simulate.Ensemble | None, History]]:
    """What `simulate.advance` yields up to the last look; the ensemble at all of the states, else now and then."""
    first = int(ensemble.clock.step)
    plan = functools.partial(simulate.chunk_plan, (chunk_steps,), population.learner)
    one = plan(at_most=population.learner.steps_per_update)
    few = plan(at_most=one * states.shape[1])
    for num_steps, size in _pieces(looks, states, few=few, one=one):
        kept = None
        for kept, history in simulate.advance(
            ensemble,
            streams,
            population.env_params,
            population.rates,
            **population.static,
            num_steps=num_steps,
            chunk_steps=size,
            keep_steps={first + step for step in states.ravel().tolist()},
        ):
            yield kept, history
        assert kept is not None  # the last one is
        ensemble = kept


def _asked(population: Population, ensemble: simulate.Ensemble, num_clones: int) -> np.ndarray:
    """Probabilities [N, A] of all clones as they are, on what their clone 0 sees now."""
    obs = jnp.repeat(ensemble.obs[::num_clones], num_clones, axis=0)
    return _policies(population, ensemble, obs[:, None])[:, 0]


def _policies(population: Population, ensemble: simulate.Ensemble, obs: np.ndarray | jax.Array) -> np.ndarray:
    """Probabilities [N, X, A] of learners as they are, on observations [N, X, ...]."""
    learning_step = jnp.maximum(ensemble.clock.step - population.learner.learning_starts_steps, 0)
    learner = ensemble.learner.replace(target_params=None, opt_state=None, rows=None)
    return np.asarray(
        divergence.policies(learner, population.rates, jnp.asarray(obs), learning_step, dqn=population.dqn)
    )


def mean_of_others(values: np.ndarray) -> np.ndarray:
    """For each clone the mean of the others, along axis 1: `[L, M, ...] -> [L, M, ...]`."""
    return (values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1)


def _among(policies: np.ndarray) -> Arrays:
    """Of each clone from the mean of the others, averaged over the observations: [L, M, K]."""
    policies = policies.astype(np.float64)
    others = mean_of_others(policies)
    return {
        "clone_tv": divergence.total_variation(policies, others).mean(axis=-1),
        "clone_nats": divergence.nats(policies, others).mean(axis=-1),
    }


def _from_others(visits: np.ndarray) -> np.ndarray:
    """How differently from the mean of the others each clone spent its time: [L, M, V] -> [L, M]."""
    return summary.occupancy_distance(visits, mean_of_others(visits.astype(np.float64)))


def _imitators(study: Study, scene: Scene, lived: _Clones, states: np.ndarray) -> Arrays:
    """The frozen imitators' divergences, teacher-forced [S, L, K] and in closed loop [S, L]."""
    experiment, protocol = study.experiment, scene.protocol
    frozen = study.imitators[experiment.imitator.context_steps][protocol.fork_step]
    prompt = prompt_for(frozen, scene, protocol.prompt_step)
    wanted = np.unique(states)
    log_probs = divergence.forced_over(frozen.imitator, frozen.params, prompt, lived.history, wanted)
    imitator = np.exp(log_probs.astype(np.float64))[:, :, np.searchsorted(wanted, states)]  # [S, L, K, X, A]
    clones = lived.policies.astype(np.float64)
    others = clones[:, 1:].mean(axis=1)
    from_each = np.stack(
        [
            divergence.nats(clones[:, 1:], one[:, None]).mean(axis=(1, -1)) for one in imitator
        ]  # seed by seed, for the memory
    )
    arms = imitator_arms(
        scene,
        frozen,
        ways=("imitator",),
        prompt_step=protocol.prompt_step,
        num_steps=experiment.evaluation.later_steps,
        count=Count(),
        tick=study.tick,
    )
    return {
        "imitator_tv": divergence.total_variation(imitator, others[None]).mean(axis=-1),
        "imitator_nats": from_each,
        "imitator_own_nats": divergence.nats(clones[None, :, 0], imitator).mean(axis=-1),
        "imitator_occupancy": summary.occupancy_distance(
            arms.visits["imitator"], lived.visits[None, :, 1:].mean(axis=2)
        ),
    }


def _mean_difference(values: np.ndarray, floor: np.ndarray) -> np.ndarray:
    return (values - floor).mean(axis=(-2, -1))
