"""What an imitator costs, by count: parameters, and floating-point operations of its products.

A product of n and m by k counts 2 n m k operations. Norms, gates and softmax are left out, as is usual, and so are the
embeddings' tables.
"""

import dataclasses

import jax

from cl_imitate import config
from cl_imitate.imitators.make import make_imitator
from cl_imitate.imitators.recurrence import CHUNK
from cl_imitate.types import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one imitator."""

    parameters: int
    forward_flops: float  # a step of a training window, read

    @property
    def training_flops(self) -> float:
        """A step of a training window, read and differentiated: three times the reading."""
        return 3.0 * self.forward_flops

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.training_flops / 1e6:.2f} MFLOP a step trained on"


def of(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> Cost:
    """The cost of the imitator with windows of `context_steps`."""
    built = make_imitator(imitator, spec, context_steps=context_steps)
    params = jax.eval_shape(built.init, jax.random.key(0))
    kernels = sum(leaf.size for path, leaf in jax.tree.leaves_with_path(params) if "kernel" in str(path[-1]))
    mixing = imitator.num_layers * _mixing_flops(imitator, context_steps)
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        forward_flops=2.0 * kernels + mixing,
    )


def _mixing_flops(imitator: config.Imitator, context_steps: int) -> float:
    """Of one layer's memory, a step: its two products with the past."""
    if imitator.kind == "gru":
        return 0.0  # its products are its kernels
    if imitator.kind == "linear_recurrence":
        size = min(CHUNK, context_steps)
        head = imitator.width // imitator.num_heads
        return 4.0 * imitator.width * (size + head)
    return 4.0 * imitator.width * mean_keys(context_steps, imitator.attention_steps or context_steps)


def mean_keys(context_steps: int, reach: int) -> float:
    """How many keys a step of a window attends to, on average."""
    reach = min(reach, context_steps)
    return (reach * (reach + 1) / 2 + (context_steps - reach) * reach) / context_steps
