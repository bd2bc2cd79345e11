"""What imitators and learners cost, by count: parameters, bytes, and floating-point operations of products.

A product of n and m by k counts 2 n m k operations. Norms, gates and softmax are left out, as is usual, and so are the
embeddings' tables.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cl_imitate import config
from cl_imitate.imitators.make import make_imitator
from cl_imitate.imitators.recurrence import CHUNK
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.types import ScreenObservation, Spec


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Running:
    """What it costs to act and, where weights change, to learn: of one stream, a step."""

    flops_per_step: float
    bytes: int  # of weights, optimiser, replay and memory


def acting(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> Running:
    """The frozen imitator, acting. One whose memory is read anew reads every step so often as that happens in a
    window's length."""
    found = of(imitator, spec, context_steps=context_steps)
    built = make_imitator(imitator, spec, context_steps=context_steps)
    reads_anew = imitator.kind == "transformer" and not imitator.attention_steps
    times = context_steps / built.block_steps if reads_anew else 1.0
    memory = jax.eval_shape(lambda: built.init_memory(1))
    return Running(
        flops_per_step=times * found.forward_flops, bytes=4 * found.parameters + _num_bytes(memory)
    )


def learning(learner: config.Learner, spec: Spec) -> Running:
    """A learner that acts and learns: one reading of its network to act, and an update's.

    An update reads a batch with the weights and differentiates (three times a reading), and reads what followed with
    the target network's; double Q reads that with the weights as well.
    """
    state, forward = _learner(learner, spec)
    updates = learner.updates_per_iteration / learner.steps_per_update
    update = learner.batch_size * (4.0 + learner.double_q) * forward
    return Running(flops_per_step=forward + updates * update, bytes=_num_bytes(state))


def posterior(learners: Sequence[config.Learner], spec: Spec) -> Running:
    """Learners that all live on one stream, of which they share the replay."""
    each = [learning(learner, spec) for learner in learners]
    rows = [_num_bytes(_learner(learner, spec)[0].rows) for learner in learners]
    return Running(
        flops_per_step=sum(one.flops_per_step for one in each),
        bytes=sum(one.bytes for one in each) - sum(rows) + max(rows),
    )


def _learner(learner: config.Learner, spec: Spec) -> tuple[dqn_lib.DQNState, float]:
    """The shapes of a learner's state, and the operations of one reading of its network."""
    dqn = dqn_lib.make_dqn(learner, spec)
    obs = jax.ShapeDtypeStruct(spec.observation.shape, jnp.uint8)
    state = jax.eval_shape(dqn.init, jax.random.key(0), obs)
    flops = 0.0
    for path, leaf in jax.tree.leaves_with_path(state.params):
        names = jax.tree_util.keystr(path)
        if "kernel" not in names:
            continue
        if "convolution" in names:
            assert isinstance(spec.observation, ScreenObservation)
            screen = spec.observation
            cells = (screen.height - 2) * (screen.width - 2)
            flops += 2.0 * cells * leaf.size * (spec.num_channels or screen.channels) / screen.channels
        else:
            flops += 2.0 * leaf.size
    return state, flops


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
