"""How far a frozen imitator's action probabilities lie from the learner's, teacher-forced.

The imitator reads the held learner's own stream (its prompt, then its steps after the fork) and is asked for
each next action; nothing it would do itself changes what it reads.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate.evaluation import prompts
from cl_imitate.evaluation.prompts import Prompt
from cl_imitate.imitators.base import Imitator
from cl_imitate.learners.dqn import DQN, DQNHyperparams
from cl_imitate.types import History, StepTokens


@functools.partial(jax.jit, static_argnames=("num_actions",))
def held_tokens(held: History, prompt: Prompt, *, num_actions: int) -> StepTokens:
    """Tokens [T, n] of a held learner's steps [n, T]; the step before ended an episode, or there is none."""

    def after(first, values):
        return jnp.concatenate([first[:, None], values[:, :-1]], axis=1).swapaxes(0, 1)

    done = held.terminated | held.truncated
    num_learners, num_steps = held.action.shape
    return StepTokens(
        obs=jnp.swapaxes(held.obs, 0, 1),
        prev_action=after(
            jnp.where(prompt.is_empty, num_actions, prompt.last_action), held.action.astype(jnp.int32)
        ),
        prev_reward=after(
            jnp.where(prompt.is_empty, 0.0, prompt.last_reward), held.reward.astype(jnp.float32)
        ),
        prev_done=after(~prompt.is_empty, done),
        is_begin=jnp.zeros((num_steps, num_learners), bool).at[0].set(prompt.is_empty),
        age=jnp.zeros((num_steps, num_learners), jnp.int32),
        coin=jnp.swapaxes(held.explored, 0, 1),
    )


_LEAST = 1e-6  # of a probability, in a logarithm


@functools.partial(jax.jit, static_argnames=("dqn",))
def policies(learner, rates, obs, step, *, dqn: DQN):
    """Learners' action probabilities [n, T, A] as they are, on observations [n, T, ...]."""

    def one(state, rates, obs):
        return jax.vmap(lambda o: dqn.policy(state, rates, o, step))(obs)

    return jax.vmap(one)(learner, rates, obs)


def forced_over(
    imitator: Imitator, params: Any, prompt: Prompt, history: History, wanted: np.ndarray
) -> np.ndarray:
    """Seeds' log probabilities [S, n, W, A] at the `wanted` steps (increasing, int [W]) of a history [n, T].

    The memory is read anew at every block, as when the imitators act.
    """
    tokens, size = (
        held_tokens(jax.tree.map(jnp.asarray, history), prompt, num_actions=imitator.num_actions),
        imitator.block_steps,
    )
    memory, found = _begin(imitator, params, prompt), []
    for first in range(0, int(wanted[-1]) + 1, size):
        block = jax.tree.map(lambda x, at=first: x[at : at + size], tokens)
        log_probs, memory = _forced_block(params, memory, block, imitator=imitator)
        inside = wanted[(wanted >= first) & (wanted < first + size)] - first
        found.append(np.asarray(log_probs[:, :, inside]))
    return np.concatenate(found, axis=2)


def _begin(imitator: Imitator, params: Any, prompt: Prompt) -> Any:
    """Seeds' memories after the prompt."""
    num_seeds = jax.tree.leaves(params)[0].shape[0]
    memory = prompts.empty_memory(imitator, num_seeds, prompt.is_there.shape[0])
    return prompts.read(params, memory, prompt, imitator=imitator)


@functools.partial(jax.jit, static_argnames=("imitator",))
def _forced_block(params, memory, tokens, *, imitator: Imitator):
    """Log probabilities [S, n, T, A] on tokens [T, n], and the memories after them."""

    def one(params, memory):
        def read(memory, token):
            logits, memory = imitator.act(params, memory, token)
            return memory, jax.nn.log_softmax(logits)

        memory, log_probs = jax.lax.scan(read, imitator.begin_block(params, memory), tokens)
        return jnp.swapaxes(log_probs, 0, 1), memory

    axes = prompts.memory_axes(memory)
    return jax.vmap(one, (0, axes), (0, axes))(params, memory)


def teacher_forced(
    imitator: Imitator,
    params: Any,
    prompt: Prompt,
    held: History,
    learner: Any,
    rates: DQNHyperparams,
    step: jax.Array,
    *,
    dqn: DQN,
) -> dict[str, np.ndarray]:
    """Per learner, over the first steps after the fork (at most the imitator's block):

    imitator_cross_entropy [S, n] and learner_cross_entropy [1, n], in nats, of the actions taken (their
    difference estimates the divergence KL(learner || imitator)); action_total_variation [S, n] between the
    two distributions.
    """
    num_steps = min(imitator.block_steps, held.action.shape[1])
    held = jax.tree.map(lambda x: jnp.asarray(x[:, :num_steps]), held)
    tokens = held_tokens(held, prompt, num_actions=imitator.num_actions)
    log_probs, _ = _forced_block(params, _begin(imitator, params, prompt), tokens, imitator=imitator)
    policy = policies(learner, rates, held.obs, step, dqn=dqn)
    taken = jax.nn.one_hot(held.action, policy.shape[-1])
    seeds = jnp.broadcast_to(taken[None], log_probs.shape)
    spread = jnp.broadcast_to(policy[None], log_probs.shape)
    return {
        "imitator_cross_entropy": np.asarray(-(log_probs * seeds).sum(-1).mean(-1)),
        "learner_cross_entropy": np.asarray(-jnp.log(jnp.maximum((policy * taken).sum(-1), 1e-6)).mean(-1))[
            None
        ],
        "action_total_variation": np.asarray(0.5 * jnp.abs(jnp.exp(log_probs) - spread).sum(-1).mean(-1)),
    }


def total_variation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Between probabilities [..., A]."""
    return 0.5 * np.abs(one - other).sum(axis=-1)


def nats(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(one || other) between probabilities [..., A]."""
    one, other = np.maximum(one, _LEAST), np.maximum(other, _LEAST)
    return (one * (np.log(one) - np.log(other))).sum(axis=-1)
