"""The best that a memory of the last L steps can do on a Lock: the analytic line beside an imitator's curve.

It knows the family and nothing of the task. Of each symbol and action it knows whether it was right or wrong if it saw
so within its last L steps, as an imitator whose window has L steps does. At a symbol whose right action it knows it
takes it; elsewhere it takes one of those not seen to be wrong, each as likely; and in a share `epsilon` of its steps
it acts at random, as the learner does. Nothing pays but a right action, a right action is the only way on (or the
best of those where a wrong one moves too), and right actions are drawn alike and independently (but for one digit of
a held-out task's code, which is fixed by all others together): so no policy with this memory does better.

Where an imitator breaks at this line, its window does not hold what there is to know. Where it breaks below, it does
not imitate the learning.

Axes: E streams, P prompt, S symbols, A actions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.imitators import base
from cl_imitate.types import Spec, StepTokens, SymbolObservation

_NEVER = -(2**30)


@struct.dataclass(kw_only=True)
class Memory:
    """When each pair was last seen to be right, and to be wrong."""

    right: jax.Array  # int32 [E, S, A]: the step
    wrong: jax.Array  # int32 [E, S, A]
    last_obs: jax.Array  # int32 [E]
    step: jax.Array  # int32 []


@dataclasses.dataclass(frozen=True)
class PerfectWindow:
    """`context_steps` L is the window, `epsilon` the share of random steps."""

    num_symbols: int
    num_actions: int
    context_steps: int
    epsilon: float

    def init(self, key: jax.Array) -> dict:
        """No parameters."""
        del key
        return {}

    def logits(self, params: dict, tokens: StepTokens, key: jax.Array | None) -> jax.Array:
        """As acting, one step after the other: [B, L, A]."""
        del key
        num_streams, num_steps = tokens.obs.shape

        def step(memory, t):
            logits, memory = self.act(params, memory, jax.tree.map(lambda x: x[:, t], tokens))
            return memory, logits

        logits = jax.lax.scan(step, self.init_memory(num_streams), jnp.arange(num_steps))[1]
        return jnp.swapaxes(logits, 0, 1)

    def init_memory(self, num_streams: int) -> Memory:
        never = jnp.full((num_streams, self.num_symbols, self.num_actions), _NEVER, jnp.int32)
        return Memory(right=never, wrong=never, last_obs=jnp.zeros(num_streams, jnp.int32), step=jnp.int32(0))

    def prompt(self, params: dict, memory: Memory, tokens: StepTokens, is_there: jax.Array) -> Memory:
        del params

        def step(memory, t):
            one = jax.tree.map(lambda x: x[:, t], tokens)
            return self._read(memory, one, is_there[:, t]), None

        return jax.lax.scan(step, memory, jnp.arange(is_there.shape[1]))[0]

    def begin_block(self, params: dict, memory: Memory) -> Memory:
        del params
        return memory

    def act(self, params: dict, memory: Memory, tokens: StepTokens) -> tuple[jax.Array, Memory]:
        del params
        memory = self._read(memory, tokens, jnp.ones(memory.last_obs.shape, bool))
        here = (jnp.arange(len(memory.last_obs)), memory.last_obs)
        oldest = memory.step - 1 - (self.context_steps - 1)  # `_read` has counted this step
        right, wrong = memory.right[here] >= oldest, memory.wrong[here] >= oldest
        open_ = jnp.where(right.any(axis=1, keepdims=True), right, ~wrong)
        open_ = open_ | ~open_.any(axis=1, keepdims=True)
        best = open_.astype(jnp.float32)
        best = best / best.sum(axis=1, keepdims=True)
        return jnp.log((1.0 - self.epsilon) * best + self.epsilon / self.num_actions), memory

    def forget(self, memory: Memory, where: jax.Array) -> Memory:
        gone = where[:, None, None]
        return memory.replace(
            right=jnp.where(gone, _NEVER, memory.right), wrong=jnp.where(gone, _NEVER, memory.wrong)
        )

    def _read(self, memory: Memory, tokens: StepTokens, is_there: jax.Array) -> Memory:
        """What the last action came to, told by this step's token; it belongs to the step before."""
        told = is_there & (tokens.prev_action < self.num_actions)
        pair = (
            jnp.arange(len(told)),
            memory.last_obs,
            jnp.minimum(tokens.prev_action, self.num_actions - 1),
        )

        def stamped(stamps, where):
            return stamps.at[pair].set(jnp.where(told & where, memory.step - 1, stamps[pair]))

        return Memory(
            right=stamped(memory.right, tokens.prev_reward > 0),
            wrong=stamped(memory.wrong, tokens.prev_reward <= 0),
            last_obs=jnp.where(is_there, tokens.obs.astype(jnp.int32), memory.last_obs),
            step=memory.step + 1,
        )


@functools.cache
def make_perfect_window(spec: Spec, *, context_steps: int, epsilon: float, block_steps: int) -> base.Imitator:
    """The line's policy for one window and one epsilon. Raises ValueError where observations are not symbols."""
    if not isinstance(spec.observation, SymbolObservation):
        raise ValueError(f"a perfect window is known for symbols only, not for {spec.observation}")
    policy = PerfectWindow(spec.observation.num_symbols, spec.num_actions, context_steps, epsilon)
    return base.assemble(policy, policy, block_steps=block_steps, num_actions=spec.num_actions)
