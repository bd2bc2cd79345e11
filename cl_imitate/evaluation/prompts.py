"""What an imitator reads before it acts, and the memories that hold it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.imitators.base import Imitator
from cl_imitate.types import StepTokens


@struct.dataclass(kw_only=True)
class Prompt:
    """The last P steps before an arm starts, up to an episode's end."""

    tokens: StepTokens  # [E, P]
    is_there: jax.Array  # bool [E, P]: False on the left where there were fewer
    last_action: jax.Array  # int32 [E]
    last_reward: jax.Array  # float32 [E]
    earlier: tuple[tuple[StepTokens, jax.Array], ...] = ()
    """Tokens and `is_there` of the steps before these, oldest first: for a memory that has no window."""

    @property
    def is_empty(self) -> jax.Array:
        """bool [E]: no episode had ended, so that there is nothing to read."""
        return ~self.is_there.any(axis=1)


def memory_axes(memory: Any) -> Any:
    """Of the memories of members: scalars are shared."""
    return jax.tree.map(lambda leaf: 0 if leaf.ndim else None, memory)


@functools.partial(jax.jit, static_argnames=("imitator", "num_members", "num_envs"))
def empty_memory(imitator: Imitator, num_members: int, num_envs: int) -> Any:
    """[M, E, ...], scalars shared."""
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_members, *leaf.shape)) if leaf.ndim else leaf,
        imitator.init_memory(num_envs),
    )


def read(params: Any, memory: Any, prompt: Prompt, *, imitator: Imitator) -> Any:
    """The memories of all members, [M, E, ...] (scalars shared), after one prompt."""
    for tokens, is_there in (*prompt.earlier, (prompt.tokens, prompt.is_there)):
        memory = _read_piece(params, memory, tokens, is_there, imitator=imitator)
    return memory


@functools.partial(jax.jit, static_argnames=("imitator",))
def _read_piece(params, memory, tokens, is_there, *, imitator: Imitator):
    axes = memory_axes(memory)
    return jax.vmap(imitator.prompt, (0, axes, None, None), axes)(params, memory, tokens, is_there)
