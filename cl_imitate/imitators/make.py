"""The imitator that a config asks for, whatever its kind."""

from cl_imitate import config
from cl_imitate.imitators.base import Imitator
from cl_imitate.imitators.recurrent import make_recurrent
from cl_imitate.imitators.refill_memory import with_refill_memory
from cl_imitate.imitators.ring_memory import with_ring_memory
from cl_imitate.imitators.transformer import Transformer
from cl_imitate.types import Spec


def make_imitator(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> Imitator:
    """The imitator of one context length.

    Raises:
      ValueError: sizes or options that do not fit each other; the message names them.
    """
    if imitator.kind != "transformer":
        return make_recurrent(imitator, spec, context_steps=context_steps)
    transformer = Transformer(imitator, spec, context_steps)
    return with_ring_memory(transformer) if imitator.attention_steps else with_refill_memory(transformer)
