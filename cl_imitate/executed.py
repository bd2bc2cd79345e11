"""What the compiled programs execute, by count: the operations that `cost` counts, and those that it leaves out.

`cost` counts what the algorithm needs, as is usual: products of weights and of queries with the keys that they see. A
program does more. It multiplies queries with all keys of their block and hides some afterwards; it reads an embedding
as a product with a one-hot vector (an imitator's forwards and backwards, a learner's table backwards only); and around
a small network, the optimiser, the biases and the random numbers are a good part. With these, the count agrees with the
compiled program's own (`compiled.cost_analysis()["flops"]`, on a CPU) within 10%. Measured by
`python -m tests.test_executed`, compiled over counted here, and in brackets over `cost` alone:

- a learner that acts and updates: quickstart's 1.06 (3.56), of 64-64 units 1.01 (1.25), with double Q 1.01 (1.20),
  MinAtar's 0.96 (1.01);
- a transformer's window, read and trained on: quickstart's 1.05, 1.05 (1.26, 1.23), twice as wide 1.03, 1.02 (1.14,
  1.12), of 256 steps with a reach of 64 1.05, 1.05 (1.36, 1.33).

It does not hold for recurrent imitators. The compiler counts the body of a loop once, however often it runs, and a
GRU's products with its state are in the loop over steps: 0.85, 0.85. Of a linear recurrence, gates, sums and the short
convolution are not counted: 1.13, 1.07. `cost` stays the figure for both.
"""

import jax
import jax.numpy as jnp

from cl_imitate import config, cost
from cl_imitate.imitators.attention import block_bounds
from cl_imitate.imitators.make import make_imitator
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.types import Spec, SymbolObservation

_OPTIMISER = {"adam": 11.0, "rmsprop_centred": 12.0}
"""Operations a weight: two running means (3 and 4), and the direction."""
_STEP, _POLYAK = 2.0, 3.0
"""Likewise: to move a weight, and its target."""
_DRAW = 100.0
"""Operations on integers (the compiler counts them too) that one random number takes."""


def forward_flops(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> float:
    """Of a step of a training window, read."""
    tables = _tables_flops(imitator, spec, context_steps=context_steps)
    return _products_flops(imitator, spec, context_steps=context_steps) + tables


def training_flops(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> float:
    """Of a step of a training window, read and differentiated. Nothing asks for the gradient of a one-hot vector."""
    tables = _tables_flops(imitator, spec, context_steps=context_steps)
    return 3.0 * _products_flops(imitator, spec, context_steps=context_steps) + 2.0 * tables


def learner_flops(learner: config.Learner, spec: Spec) -> float:
    """Of a learner's step: it acts, and makes its share of an update."""
    dqn = dqn_lib.make_dqn(learner, spec)
    state = jax.eval_shape(
        dqn.init, jax.random.key(0), jax.ShapeDtypeStruct(spec.observation.shape, jnp.uint8)
    )
    updates = learner.updates_per_iteration / learner.steps_per_update
    num_weights = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    a_weight = _OPTIMISER[learner.optimiser] + _STEP + _POLYAK * (learner.target_period_updates == 0)
    units = sum(learner.hidden) + spec.num_actions
    readings = 2 + learner.double_q
    a_sample = units * (2.0 * readings + 3.0)  # bias and rectifier; backwards: the mask, its product, bias
    if isinstance(spec.observation, SymbolObservation):
        a_sample += 2.0 * spec.observation.num_symbols * learner.hidden[0]  # the gradient of its table
    a_sample += _DRAW * (learner.replay == "uniform")
    rest = num_weights * a_weight + learner.batch_size * a_sample
    an_act = 2.0 * units + 4 * _DRAW  # two keys, a coin and an action
    return cost.learning(learner, spec).flops_per_step + updates * rest + an_act


def touched_keys(context_steps: int, reach: int) -> float:
    """How many keys a step of a window is multiplied with, on average; `cost.mean_keys` of them it sees."""
    spans = block_bounds(context_steps, min(reach, context_steps))
    return sum((end - start) * (end - first) for start, end, first in spans) / context_steps


def _products_flops(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> float:
    counted = cost.of(imitator, spec, context_steps=context_steps).forward_flops
    if imitator.kind != "transformer":
        return counted
    reach = imitator.attention_steps or context_steps
    hidden = touched_keys(context_steps, reach) - cost.mean_keys(context_steps, reach)
    return counted + imitator.num_layers * 4.0 * imitator.width * hidden


def _tables_flops(imitator: config.Imitator, spec: Spec, *, context_steps: int) -> float:
    built = make_imitator(imitator, spec, context_steps=context_steps)
    params = jax.eval_shape(built.init, jax.random.key(0))
    return 2.0 * sum(leaf.size for path, leaf in jax.tree.leaves_with_path(params) if "rows" in str(path[-1]))
