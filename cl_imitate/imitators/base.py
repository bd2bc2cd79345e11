"""What every imitator is: a frozen function of the visible stream with a memory.

An imitator sees observations, actions, rewards and episode ends; nothing in it may import environments or
learners. All functions take a batch of E streams that run in lockstep, and one set of parameters; the
ensemble over imitator seeds is a `vmap` of the caller's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cl_imitate.types import StepTokens

Params = Any
Memory = Any


class Imitator(NamedTuple):
    """Pure functions, and what is static.

    init(key) -> params.
    logits(params, tokens [B, L], key | None) -> action logits float32 [B, L, A], causal; a key turns on
      dropout and input masking (training).
    init_memory(num_streams) -> Memory: an empty context for E streams.
    prompt(params, memory, tokens [E, P], is_there [E, P]) -> Memory: P steps read at once into an empty memory (or
      into any, where there is no window); `is_there` is False on the left where a stream's prompt is shorter.
    begin_block(params, memory) -> Memory: called before every `block_steps` calls of `act`.
    act(params, memory, tokens [E]) -> (logits [E, A], Memory): one step.
    forget(memory, where bool [E]) -> Memory: those streams' contexts are emptied.
    """

    init: Callable[[jax.Array], Params]
    logits: Callable[[Params, StepTokens, jax.Array | None], jax.Array]
    init_memory: Callable[[int], Memory]
    prompt: Callable[[Params, Memory, StepTokens, jax.Array], Memory]
    begin_block: Callable[[Params, Memory], Memory]
    act: Callable[[Params, Memory, StepTokens], tuple[jax.Array, Memory]]
    forget: Callable[[Memory, jax.Array], Memory]
    block_steps: int
    num_actions: int
    has_window: bool = (
        True  # False: its memory goes on over any number of prompts, each read after the one before
    )
    sees_coin: bool = False  # tokens must then carry it
    sees_replay: bool = False  # likewise
    sees_seed: bool = False  # likewise


def assemble(network: Any, memory: Any, *, block_steps: int, num_actions: int) -> Imitator:
    """The imitator of a network (init, logits) and what acts with it (the other functions), as methods."""
    return Imitator(
        init=network.init,
        logits=network.logits,
        init_memory=memory.init_memory,
        prompt=memory.prompt,
        begin_block=memory.begin_block,
        act=memory.act,
        forget=memory.forget,
        block_steps=block_steps,
        num_actions=num_actions,
    )
