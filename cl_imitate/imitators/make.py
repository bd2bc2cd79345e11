"""The imitator that a config asks for, whatever its kind."""

import functools

from cl_imitate import config
from cl_imitate.imitators.base import Imitator, assemble
from cl_imitate.imitators.recurrent import Recurrent
from cl_imitate.imitators.refill_memory import RefillMemory
from cl_imitate.imitators.ring_memory import RingMemory
from cl_imitate.imitators.transformer import Transformer
from cl_imitate.types import Spec, StepTokens


@functools.cache  # other functions would be other programs to a compiler, though they do the same
def make_imitator(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> Imitator:
    """The imitator of one context length, the same object each time.

    Raises:
      ValueError: sizes or options that do not fit each other; the message names them.
    """
    block_steps = imitator.block_steps(context_steps)
    if imitator.kind != "transformer":
        network = memory = Recurrent(imitator, spec)
    else:
        network = Transformer(imitator, spec, context_steps)
        memory = RingMemory(network) if imitator.attention_steps else RefillMemory(network, block_steps)
    made = assemble(network, memory, block_steps=block_steps, num_actions=spec.num_actions)
    return _seeing(made._replace(has_window=imitator.kind == "transformer"), imitator)


def _seeing(made: Imitator, imitator: config.Imitator) -> Imitator:
    """The imitator, which never gets to see more than its config says, whoever hands it what."""
    hidden = {part: None for part in ("coin", "replay", "seed") if not imitator.shows(part)}
    sees = {f"sees_{part}": imitator.shows(part) for part in ("coin", "replay", "seed")}
    if not hidden:
        return made._replace(**sees)

    def without(tokens: StepTokens) -> StepTokens:
        return tokens.replace(**hidden)

    return made._replace(
        **sees,
        logits=lambda params, tokens, key: made.logits(params, without(tokens), key),
        prompt=lambda params, memory, tokens, is_there: made.prompt(
            params, memory, without(tokens), is_there
        ),
        act=lambda params, memory, tokens: made.act(params, memory, without(tokens)),
    )
