"""Windows of histories as an imitator reads them; a window always lies inside ONE history."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cl_imitate import causes, config, keys
from cl_imitate.types import Context, History, StepTokens, age_bucket


class Skip(NamedTuple):
    """A stretch of life that a window leaves out, from the end of an episode to the start of a later one."""

    at: jax.Array  # int32: so many of the window's steps lie before it
    num_steps: jax.Array  # int32: so long it is; 0 for none


def window(
    history: History,
    learner: jax.Array,
    start: jax.Array,
    *,
    length: int,
    end: jax.Array,
    num_actions: int,
    skip: Skip | None = None,
) -> tuple[StepTokens, jax.Array, jax.Array]:
    """Steps start .. start + length - 1 of one learner of `history` [N, T], without those of a skip, and as many more.

    Returns tokens [length] (ages known), the actions taken int32 [length], and `is_there` bool [length]:
    False before step 0 and from `end` on. `start` may be negative. The first token after a skip tells what the last
    step before it brought, as an imitator's first after its prompt does.
    """
    place = jnp.arange(length)
    step = start + place
    if skip is not None:
        step += jnp.where(place >= skip.at, skip.num_steps, 0)
    is_there = (step >= 0) & (step < end)
    here = jnp.clip(step, 0, end - 1)
    before = jnp.maximum(here - 1, 0)
    if skip is not None:
        before = jnp.where(place == skip.at, start + skip.at - 1, before)
    is_begin = step == 0
    replay, seed = (None, None) if history.causes is None else causes.shown(history.causes, learner, here)
    tokens = StepTokens(
        obs=history.obs[learner, here],
        prev_action=jnp.where(is_begin, num_actions, history.action[learner, before].astype(jnp.int32)),
        prev_reward=jnp.where(is_begin, 0.0, history.reward[learner, before].astype(jnp.float32)),
        prev_done=~is_begin & (history.terminated[learner, before] | history.truncated[learner, before]),
        is_begin=is_begin,
        age=age_bucket(here),
        coin=history.explored[learner, here],
        replay=replay,
        seed=seed,
    )
    return tokens, history.action[learner, here].astype(jnp.int32), is_there


def thin(history: History, *, every_episodes: int, episode_steps: int) -> History:
    """Every n-th episode of each history [N, T], from the first one on; episodes have a fixed length.

    What is left is a life in which the same learning takes fewer episodes. `thinned_step` maps steps.
    """

    def keep(values):
        whole = values.shape[1] // episode_steps
        episodes = values[:, : whole * episode_steps].reshape(
            values.shape[0], whole, episode_steps, *values.shape[2:]
        )
        kept = episodes[:, ::every_episodes]
        return kept.reshape(values.shape[0], -1, *values.shape[2:])

    return history if every_episodes == 1 else jax.tree.map(keep, history)


def thinning(experiment: config.Experiment) -> dict[str, int]:
    """The arguments of `thin` that a config asks for (every 1st episode: not at all)."""
    episode = getattr(experiment.environment, "episode_steps", 1)
    return {"every_episodes": experiment.training.keep_every_episodes, "episode_steps": episode}


def thinned_step(step: int, *, every_episodes: int, episode_steps: int) -> int:
    """How many steps of a thinned history lie before `step` of the whole one (a multiple of an episode)."""
    return step if every_episodes == 1 else -(-step // (every_episodes * episode_steps)) * episode_steps


def sample_windows(
    key: jax.Array,
    history: History,
    fork_step: jax.Array,
    *,
    training: config.Training,
    context_steps: int,
    num_windows: int,
    num_actions: int,
    place: jax.Array | int = 0,
    num_places: int = 1,
) -> Context:
    """`num_windows` training windows [B, L] from before the fork, uniform over learners and starts.

    `history` can hold the equally many learners of `num_places` runs, one after the other; windows are then of the
    learners of run `place`.

    A share is forced to the start of a history, where an imitator must learn to begin; a share has its age
    hidden, and of the rest a share skips ahead. Histories shorter than a window, and windows that skip to near the
    fork, are padded on the right with weight 0.
    """
    learner_key, start_key, forced_key, age_key = jax.random.split(key, 4)
    num_learners = history.action.shape[0] // num_places
    stride = training.start_every_steps
    learner = place * num_learners + jax.random.randint(learner_key, (num_windows,), 0, num_learners)
    num_starts = jnp.maximum(fork_step - context_steps, 0) // stride + 1
    start = stride * jax.random.randint(start_key, (num_windows,), 0, num_starts)
    is_forced = jax.random.uniform(forced_key, (num_windows,)) < training.start_of_history
    start = jnp.where(is_forced, 0, start)
    is_unknown = jax.random.uniform(age_key, (num_windows, 1)) < training.unknown_age
    skip = None
    if training.skip_ahead > 0:
        skip = _skips(
            keys.stream(key, keys.Stream.SKIP),
            jnp.where(is_unknown[:, 0], 0.0, training.skip_ahead),
            start,
            fork_step,
            context_steps=context_steps,
            stride=stride,
        )
    tokens, action, is_there = jax.vmap(
        lambda i, s, k: window(
            history, i, s, length=context_steps, end=fork_step, num_actions=num_actions, skip=k
        )
    )(learner, start, skip)
    age = jnp.where(jnp.broadcast_to(is_unknown, tokens.age.shape), 0, tokens.age)
    return Context(tokens=tokens.replace(age=age), action=action, weight=is_there.astype(jnp.float32))


def _skips(
    key: jax.Array,
    share: jax.Array,
    start: jax.Array,
    fork_step: jax.Array,
    *,
    context_steps: int,
    stride: int,
) -> Skip:
    """What windows from `start` [B] on leave out, a `share` [B] of them anything: from and to a multiple of `stride`,
    each place in the window, and each that leaves a stride before the fork, alike."""
    chosen_key, at_key, steps_key = jax.random.split(key, 3)
    at = stride * jax.random.randint(at_key, start.shape, 1, context_steps // stride)
    room = jnp.maximum(fork_step - stride - (start + at), 0) // stride
    num_steps = stride * jax.random.randint(steps_key, start.shape, 0, room + 1)
    is_chosen = jax.random.uniform(chosen_key, start.shape) < share
    return Skip(at=at, num_steps=jnp.where(is_chosen, num_steps, 0))


@functools.partial(jax.jit, static_argnames=("length", "num_actions", "tell_ages"))
def prompt_windows(
    history: History, end_step: jax.Array, *, length: int, num_actions: int, tell_ages: bool = False
) -> tuple[StepTokens, jax.Array]:
    """The last `length` steps before `end_step` of every learner: tokens [N, length], is_there [N, length].

    `end_step` is int [N]. Ages are unknown, or all told with `tell_ages`, as in a window of training: never some.
    """
    tokens, _, is_there = jax.vmap(
        lambda i, end: window(history, i, end - length, length=length, end=end, num_actions=num_actions)
    )(jnp.arange(history.action.shape[0]), end_step)
    return tokens if tell_ages else tokens.replace(age=jnp.zeros_like(tokens.age)), is_there


def batch_key(key: jax.Array, update: jax.Array | int) -> jax.Array:
    """The key of one update's batch, so that a resumed run draws the same windows."""
    return keys.at_step(keys.stream(key, keys.Stream.BATCH), update)
