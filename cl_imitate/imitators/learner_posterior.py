"""The learner posterior: the essay's "huge ensemble of learning algorithms", made finite and actually run.

Every hypothesis is a learner: a setting of its rates, a variant of its algorithm, and its hidden causes (the key of its
initialisation and that of its replay). Each lives, off-policy, on the one visible stream that it is shown; each says
how likely it would have been to act so; the weights are Bayes' rule, and the mixture acts. This is the one imitator
that may know learners, and what an ideal imitator would be if one of its hypotheses is the truth. Its own actions
count as observed: to draw an action from the mixture and to condition on it is to draw a hypothesis, and follow it.

Particles are hypotheses with hidden causes of their own. All particles of a stream see the same transitions, so one
replay serves them all; particles whose programs are the same form a group, and are computed together.

Particles are computed one after the other, each for all streams at once, as the learners themselves are: then the
truth's weights are the learner's, bit for bit, where as many streams are followed at once as a block has learners
(`simulation.block_size`). Several at once are faster on an accelerator, and round differently: where two actions are
worth the same to the last bit, they part.

Axes: N streams, H hypotheses, P particles, G particles of a group, A actions.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cl_imitate import config, keys
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.learners import replay as replay_lib
from cl_imitate.types import Spec

NEVER = 2**31 - 1
MIN_PROBABILITY = 1e-6
"""No action is less likely under any hypothesis: one that rounding turned must not rule out the truth for good."""

_SCHEDULE = ("replay_capacity", "learning_starts_steps", "steps_per_update", "updates_per_iteration")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One learner that the observed one could be."""

    name: str
    learner: config.Learner
    stops_at_step: int = NEVER  # after so many steps its weights stay as they are: the snapshot of that age


class Group(NamedTuple):
    """Hypotheses that one program computes; static."""

    dqn: dqn_lib.DQN
    target_period_updates: int
    hypotheses: tuple[int, ...]


class Mixture(NamedTuple):
    """What is static about a set of hypotheses."""

    groups: tuple[Group, ...]
    learner: config.Learner  # whose schedule and replay capacity all hypotheses share
    copies: int  # particles of each hypothesis
    at_once: int  # so many particles side by side
    num_hypotheses: int

    @property
    def hypothesis_of(self) -> np.ndarray:
        """int [P]: which hypothesis each particle is of (before any resampling)."""
        return np.concatenate([np.repeat(group.hypotheses, self.copies) for group in self.groups])


@struct.dataclass(kw_only=True)
class Settings:
    """What can be computed side by side: a leaf for each hypothesis, [H]."""

    rates: dqn_lib.DQNHyperparams
    stops_at_step: jax.Array  # int32


@struct.dataclass(kw_only=True)
class Causes:
    """What an observer does not see of the learners, keys [G, N] of each group."""

    init: tuple[jax.Array, ...]
    replay: tuple[jax.Array, ...]


@struct.dataclass(kw_only=True)
class Particles:
    """Of one group, [G, N, ...]."""

    params: Any
    target_params: Any
    opt_state: Any
    hypothesis: jax.Array  # int32 [G, N]: where in `Settings`


@struct.dataclass(kw_only=True)
class Posterior:
    """N streams' mixtures at one moment; counters are shared."""

    particles: tuple[Particles, ...]
    rows: jax.Array  # the replay of all of a stream's particles, uint8 [N, capacity, row bytes]
    log_weights: jax.Array  # float32 [P, N], over P of sum 1
    step: jax.Array  # int32 []: steps lived
    update: jax.Array  # int32 []: gradient steps taken
    cursor: replay_lib.Cursor


def make_mixture(
    hypotheses: Sequence[Hypothesis], spec: Spec, *, copies: int = 1, at_once: int = 1
) -> tuple[Mixture, Settings]:
    """The hypotheses as few programs: those that differ in rates alone share one.

    Raises:
      ValueError: they do not share their schedule (when updates are made) and the capacity of their replay.
    """
    first = hypotheses[0].learner
    members: dict[config.Learner, list[int]] = {}
    for index, one in enumerate(hypotheses):
        for name in _SCHEDULE:
            if getattr(one.learner, name) != getattr(first, name):
                raise ValueError(
                    f"hypothesis {one.name}: learner.{name} = {getattr(one.learner, name)}, but "
                    f"{hypotheses[0].name} has {getattr(first, name)}. All hypotheses live in lockstep on one "
                    "replay: give them the same."
                )
        members.setdefault(dqn_lib.without_rates(one.learner), []).append(index)
    rates = [dqn_lib.hyperparams(one.learner, 1) for one in hypotheses]
    settings = Settings(
        rates=jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rates),
        stops_at_step=jnp.array([one.stops_at_step for one in hypotheses], jnp.int32),
    )
    groups = tuple(
        Group(dqn_lib.make_dqn(learner, spec), learner.target_period_updates, tuple(found))
        for learner, found in members.items()
    )
    return Mixture(groups, dqn_lib.without_rates(first), copies, at_once, len(hypotheses)), settings


def make_causes(mixture: Mixture, init: jax.Array, replay: jax.Array) -> Causes:
    """Keys [P, N] of initialisations and replays, dealt out to the groups."""
    ends = np.cumsum([len(group.hypotheses) * mixture.copies for group in mixture.groups])[:-1]
    whole = slice(None)
    parts = [slice(*pair) for pair in zip([None, *ends], [*ends, None], strict=True)] or [whole]
    return Causes(init=tuple(init[part] for part in parts), replay=tuple(replay[part] for part in parts))


def init(mixture: Mixture, causes: Causes, obs: jax.Array, log_prior: jax.Array) -> Posterior:
    """Newborn particles that see their first observation [N, ...]; `log_prior` [H, N], over H of sum 1."""
    particles = []
    for group, init_keys, (params, opt_state) in zip(
        mixture.groups, causes.init, _newborn(mixture, causes.init), strict=True
    ):
        which = jnp.asarray(np.repeat(group.hypotheses, mixture.copies), jnp.int32)
        particles.append(
            Particles(
                params=params,
                target_params=jax.tree.map(jnp.copy, params),
                opt_state=opt_state,
                hypothesis=jnp.broadcast_to(which[:, None], init_keys.shape),
            )
        )
    log_weights = log_prior[mixture.hypothesis_of] - np.float32(np.log(mixture.copies))
    return Posterior(
        particles=tuple(particles),
        rows=mixture.groups[0].dqn.replay.init(obs),
        log_weights=log_weights.astype(jnp.float32),
        step=jnp.int32(0),
        update=jnp.int32(0),
        cursor=replay_lib.first_cursor(),
    )


def _newborn(mixture: Mixture, init_keys: tuple[jax.Array, ...]) -> list[tuple[Any, Any]]:
    """Weights and optimisers of each group. Groups that begin alike, though they learn differently, are made together:
    most of the time that this takes is its compiler's."""
    alike: dict[Callable, list[int]] = {}
    for index, group in enumerate(mixture.groups):
        alike.setdefault(group.dqn.newborn, []).append(index)
    found: dict[int, tuple[Any, Any]] = {}
    for newborn, members in alike.items():
        made = jax.vmap(jax.vmap(newborn))(jnp.concatenate([init_keys[index] for index in members]))
        first = 0
        for index in members:
            end = first + len(init_keys[index])
            found[index] = jax.tree.map(lambda leaf, part=slice(first, end): leaf[part], made)
            first = end
    return [found[index] for index in range(len(mixture.groups))]


def _over_particles(mixture: Mixture, function: Callable, xs: Any) -> Any:
    """`function` of each of the particles [G, ...], in turn or some at once."""
    return jax.lax.map(function, xs, batch_size=mixture.at_once if mixture.at_once > 1 else None)


def policies(mixture: Mixture, posterior: Posterior, settings: Settings, obs: jax.Array) -> jax.Array:
    """Every particle's action probabilities at observations [N, ...], float32 [P, N, A]."""
    learning_step = jnp.maximum(posterior.step - mixture.learner.learning_starts_steps, 0)
    found = []
    for group, particles in zip(mixture.groups, posterior.particles, strict=True):

        def one(params, hypothesis, obs, dqn=group.dqn):
            state = dqn_lib.DQNState(params=params, target_params=None, opt_state=None, rows=None)  # pyright: ignore
            return dqn.policy(state, _rates_of(settings, hypothesis), obs, learning_step)

        def of_all_streams(particle, one=one):
            return jax.vmap(one)(*particle, obs)

        found.append(_over_particles(mixture, of_all_streams, (particles.params, particles.hypothesis)))
    return jnp.maximum(jnp.concatenate(found), MIN_PROBABILITY)


def _rates_of(settings: Settings, hypothesis: jax.Array) -> dqn_lib.DQNHyperparams:
    return jax.tree.map(lambda leaf: leaf[hypothesis], settings.rates)


def log_mixture(log_weights: jax.Array, policy: jax.Array) -> jax.Array:
    """Log-probabilities of the mixture's actions: weights [P, N] and policies [P, N, A] -> [N, A]."""
    return jax.nn.logsumexp(log_weights[..., None] + jnp.log(policy), axis=0)


def weigh(log_weights: jax.Array, likelihood: jax.Array, *, power: float = 1.0) -> jax.Array:
    """Bayes' rule: weights [P, N] after an action that the particles gave these likelihoods [P, N].

    A `power` under 1 tempers the likelihood: a wrong prediction counts for less, as it should where none of the
    hypotheses is the truth.
    """
    unnormalised = log_weights + power * jnp.log(likelihood)
    return unnormalised - jax.nn.logsumexp(unnormalised, axis=0, keepdims=True)


def observe(
    mixture: Mixture,
    posterior: Posterior,
    *,
    obs: jax.Array,
    action: jax.Array,
    reward: jax.Array,
    terminated: jax.Array,
    final_obs: jax.Array,
) -> Posterior:
    """What an action brought, [N, ...] each, goes into the replay; one step has been lived."""
    replay = mixture.groups[0].dqn.replay
    rows = replay.add(posterior.rows, posterior.cursor, obs, action, reward, terminated, final_obs)
    return posterior.replace(rows=rows, step=posterior.step + 1, cursor=replay_lib.advance(posterior.cursor))


def restart(mixture: Mixture, posterior: Posterior, obs: jax.Array) -> Posterior:
    """A new episode was begun from outside, at observations [N, ...]."""
    replay = mixture.groups[0].dqn.replay
    return posterior.replace(rows=replay.restart(posterior.rows, posterior.cursor, obs))


def learn(
    mixture: Mixture, posterior: Posterior, settings: Settings, replay_keys: tuple[jax.Array, ...]
) -> Posterior:
    """One TD update of every particle, with its own key (`Causes.replay`)."""
    particles, update = [], posterior.update
    for group, old, group_keys in zip(mixture.groups, posterior.particles, replay_keys, strict=True):

        def of_all_streams(particle, group=group):
            one = functools.partial(_update, settings=settings, posterior=posterior, group=group)
            group_key, one_of_each = particle
            return jax.vmap(one)(group_key, one_of_each, posterior.rows)

        new = _over_particles(mixture, of_all_streams, (group_keys, old))
        if group.target_period_updates:
            due = (update + 1) % group.target_period_updates == 0
            target = jax.tree.map(
                lambda now, kept, due=due: jnp.where(due, now, kept), new.params, new.target_params
            )
            new = new.replace(target_params=target)
        particles.append(new)
    return posterior.replace(particles=tuple(particles), update=update + 1)


def _update(
    key, old: Particles, rows, *, settings: Settings, posterior: Posterior, group: Group
) -> Particles:
    """One particle's."""
    rates = _rates_of(settings, old.hypothesis)
    lives = posterior.step <= settings.stops_at_step[old.hypothesis]  # the step just lived counts
    rates = rates.replace(learning_rate=jnp.where(lives, rates.learning_rate, 0.0))
    state = dqn_lib.DQNState(
        params=old.params, target_params=old.target_params, opt_state=old.opt_state, rows=rows
    )
    new, _ = group.dqn.update(keys.at_step(key, posterior.update), state, rates, posterior.cursor)
    return old.replace(params=new.params, target_params=new.target_params, opt_state=new.opt_state)


def by_hypothesis(mixture: Mixture, posterior: Posterior) -> jax.Array:
    """The posterior on each hypothesis, float32 [H, N]."""
    which = jnp.concatenate([particles.hypothesis for particles in posterior.particles])
    nothing = jnp.zeros((mixture.num_hypotheses, which.shape[1]), jnp.float32)
    return nothing.at[which, jnp.arange(which.shape[1])].add(jnp.exp(posterior.log_weights))


def effective_size(weights: jax.Array) -> jax.Array:
    """How many equal weights [..., G] (of sum 1) would be as uneven: 1 over the sum of their squares, [...]."""
    return 1.0 / jnp.sum(jnp.square(weights), axis=-1)


def systematic(uniform: jax.Array, weights: jax.Array) -> jax.Array:
    """Ancestors int32 [G] for weights [G] of sum 1: one draw in [0, 1), laid out as an even comb.

    An ancestor of weight w gets floor(G w) or one more descendant.
    """
    num = weights.shape[0]
    comb = (jnp.arange(num, dtype=jnp.float32) + uniform) / num
    ancestors = jnp.searchsorted(jnp.cumsum(weights), comb, side="right")
    return jnp.minimum(ancestors, jnp.max(jnp.where(weights > 0, jnp.arange(num), 0))).astype(jnp.int32)


def resample(mixture: Mixture, posterior: Posterior, resample_keys: jax.Array, *, below: float) -> Posterior:
    """Where a group's effective size is under a share `below` of its size, its weights are made equal by resampling.

    Particles are carried within their group (another group is another program), whose weight as a whole stays. A
    descendant keeps its ancestor's weights, optimiser and hypothesis, and goes on with the replay key of its place,
    so that two of one ancestor part. Keys [N].
    """
    particles, log_weights, first = [], [], 0
    for index, (group, old) in enumerate(zip(mixture.groups, posterior.particles, strict=True)):
        num = len(group.hypotheses) * mixture.copies
        draws = jax.vmap(lambda key, i=index: keys.member(key, i))(resample_keys)
        one = functools.partial(_resample_group, below=below)
        kept, weights = jax.vmap(one, (0, 1, 1), 1)(draws, posterior.log_weights[first : first + num], old)
        particles.append(kept)
        log_weights.append(weights)
        first += num
    return posterior.replace(particles=tuple(particles), log_weights=jnp.concatenate(log_weights))


def _resample_group(key, log_weights, particles: Particles, *, below: float) -> tuple[Particles, jax.Array]:
    num = log_weights.shape[0]
    whole = jax.nn.logsumexp(log_weights)
    weights = jnp.exp(log_weights - whole)
    due = (effective_size(weights) < below * num) & jnp.isfinite(whole)
    ancestors = jnp.where(due, systematic(jax.random.uniform(key), weights), jnp.arange(num))
    even = jnp.full_like(log_weights, whole - np.float32(np.log(num)))
    return jax.tree.map(lambda leaf: leaf[ancestors], particles), jnp.where(due, even, log_weights)
