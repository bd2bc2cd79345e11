"""Where a cell plays: what all of its arms share, and how an imitator is prompted there."""

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import compiling, config, keys, simulate, visibility
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.prompts import Prompt
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.histories import contexts
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.populations import Population
from cl_imitate.types import Causes, History

Tick = Callable[[int], None]
"""Told how many steps (summed over streams) have just been done."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Where a cell plays: the learners, their snapshot, their past, and the keys that all arms share."""

    protocol: Protocol
    population: Population
    snapshot: simulate.Ensemble  # at protocol.learner_step
    source: Population  # whose history prompts; the population itself but for ELSEWHERE
    past: History | None  # the source's history on the host, [N, T]
    env_keys: jax.Array  # keys [n]
    reset_keys: jax.Array  # keys [n]
    act_key: jax.Array
    block_steps: int
    chunk_steps: int
    best_history: float  # the best recorded learner's return just before the fork
    past_step: Callable[[int], int]  # from a step lived to a step of `past`, which may be thinned
    prompt_ends: np.ndarray | None = (
        None  # int [n]: steps of `past` at which prompts end, if not all at one step
    )
    causes: Causes | None = None  # of the learners [n], for imitators that see them
    source_causes: Causes | None = None  # of those whose past prompts, [n]
    first: int = 0  # which learner of all those in this place the first one here is


@dataclasses.dataclass
class Count:
    """What was spent."""

    td_updates: int = 0
    imitator_steps: int = 0
    acted: dict[str, set[str]] = dataclasses.field(default_factory=dict)  # imitators -> hashes after acting
    timed: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)  # arm -> seconds, steps

    @staticmethod
    def clock() -> float:
        """Seconds, of which those spent on compiling do not count."""
        return time.perf_counter() - compiling.seconds()

    def time(self, arm: str, since: float, num_steps: int) -> None:
        """Adds what the arm's `num_steps`, summed over streams, took `since` a reading of the clock."""
        seconds, steps = self.timed.get(arm, (0.0, 0))
        self.timed[arm] = (seconds + max(self.clock() - since, 0.0), steps + num_steps)

    @property
    def seconds_per_step(self) -> dict[str, float]:
        """Of one stream, of the arms that were timed."""
        return {arm: seconds / steps for arm, (seconds, steps) in self.timed.items() if steps}


def make_scene(
    protocol: Protocol,
    index: int,
    experiment: config.Experiment,
    population: Population,
    snapshot: simulate.Ensemble,
    source: Population,
    past: History | None,
    *,
    chunk_steps: int,
    best_history: float,
    past_step: Callable[[int], int] = int,
    first: int = 0,
) -> Scene:
    """The scene of the protocol at place `index` in `protocols.protocols(experiment)`.

    The population may be some of the learners that belong there, from number `first` on (with their snapshots and
    pasts): what they do is what they do among all.
    """
    root = keys.root(experiment.seed)
    env_key = keys.member(keys.stream(root, keys.Stream.ARM_ENV), index)
    num = population.num_learners
    prompting = source
    if source is not population and past is not None:
        prompting = source.members(np.arange(first, min(first + num, source.num_learners)))
    return Scene(
        protocol=protocol,
        population=population,
        snapshot=snapshot,
        source=source,
        past=past,
        env_keys=keys.members(keys.stream(env_key, keys.Stream.ENV), num, first=first),
        reset_keys=keys.members(keys.stream(env_key, keys.Stream.ENV_INIT), num, first=first),
        act_key=keys.member(keys.stream(root, keys.Stream.ARM_ACT), index),
        block_steps=experiment.evaluation.block_steps,
        chunk_steps=chunk_steps,
        best_history=best_history,
        past_step=past_step,
        causes=visibility.causes_of(population, experiment.imitator),
        source_causes=visibility.causes_of(prompting, experiment.imitator),
        first=first,
    )


def again(shared_keys: jax.Array) -> jax.Array:
    """The same keys for one more arm: that arms share their resets is the point."""
    return jax.random.clone(shared_keys)


def part_name(*words: object) -> str:
    """What a keeper calls an arm: a folder's name, another one for any other words."""
    told = " ".join(map(str, words))
    return (
        f"{re.sub(r'[^a-z0-9.+-]+', '_', told.lower())[:80]}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    )


def last_episode_end(past: History, step: int) -> np.ndarray:
    """For each learner the number of steps up to the end of its last episode before `step`, int32 [N]."""
    done = np.asarray(past.terminated | past.truncated)[:, :step]
    back = np.argmax(done[:, ::-1], axis=1)
    return np.where(done.any(axis=1), step - back, 0).astype(np.int32)


def prompt_for(frozen: Frozen, scene: Scene, step: int) -> Prompt:
    """What imitators read before they act from `step` on: what their context holds, or, where they have no window,
    the whole history, in pieces that are as long as those of training."""
    return make_prompt(scene, step, length=frozen.context_steps, is_whole=not frozen.imitator.has_window)


def make_prompt(scene: Scene, step: int, *, length: int, is_whole: bool = False) -> Prompt:
    """The scene's source learners' last `length` steps before `step` (of their thinned history, if it is), or before
    each one's own step where the scene has such. With `is_whole`, all the steps before these as well."""
    if scene.past is None:
        raise ValueError(f"the cell {scene.protocol.label} is prompted but its source has no history")
    num, spec = scene.population.num_learners, scene.source.family.env.spec
    past = jax.tree.map(lambda x: jnp.asarray(x[:num]), scene.past).replace(causes=scene.source_causes)
    ends = last_episode_end(past, scene.past_step(step)) if scene.prompt_ends is None else scene.prompt_ends
    end = jnp.asarray(ends, jnp.int32)
    num_pieces = max(1, -(-int(np.max(ends)) // length)) if is_whole else 1
    *earlier, (tokens, is_there) = (
        contexts.prompt_windows(
            past,
            end - piece * length,
            length=length,
            num_actions=spec.num_actions,
            tell_ages=scene.protocol.age_step is not None,
        )
        for piece in reversed(range(num_pieces))
    )
    rows = jnp.arange(num), jnp.maximum(end - 1, 0)
    return Prompt(
        tokens=tokens,
        is_there=is_there,
        last_action=past.action[rows].astype(jnp.int32),
        last_reward=past.reward[rows].astype(jnp.float32),
        earlier=tuple(earlier),
    )


def epsilon_of(population: Population, step: int) -> float:
    """The learners' exploration rate at an age in steps, if they learn or are held there (see `coin_rates`)."""
    learning_step = max(0, step - population.learner.learning_starts_steps)
    return float(dqn_lib.epsilon_at(population.rates, jnp.int32(learning_step))[0])


def coin_rates(population: Population, step: int, num_steps: int) -> jax.Array:
    """How often the learners' coin comes up at each step from an age on, float32 [num_steps]: before they learn they
    act at random, and it always does."""
    learning_step = step + jnp.arange(num_steps) - population.learner.learning_starts_steps
    first = jax.tree.map(lambda rate: rate[0], population.rates)
    return jnp.where(learning_step < 0, 1.0, dqn_lib.epsilon_at(first, jnp.maximum(learning_step, 0)))
