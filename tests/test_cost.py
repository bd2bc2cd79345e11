import dataclasses

import jax
import jax.numpy as jnp
import pytest

from cl_imitate import config, cost
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.make import make_imitator
from cl_imitate.learners.dqn import hyperparams, make_dqn
from cl_imitate.learners.replay import first_cursor
from tests.test_imitators import SPEC

IMITATOR = config.Imitator(width=64, num_layers=2, num_heads=2, context_steps=128)


def test_parameters_are_those_there_are():
    counted = cost.of(IMITATOR, SPEC, context_steps=128)
    params = make_imitator(IMITATOR, SPEC, context_steps=128).init(jax.random.key(0))
    assert counted.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert f"{counted.parameters:,}" in str(counted)


def test_operations_of_a_transformer_counted_by_hand():
    layer = 2 * 12 * 64 * 64 + 4 * 64 * (1 + 128) / 2
    assert cost.of(IMITATOR, SPEC, context_steps=128).forward_flops == pytest.approx(2 * layer + 2 * 64 * 4)


@pytest.mark.parametrize("kind", ["transformer", "linear_recurrence"])
def test_operations_agree_with_the_compiler_s_count(kind):
    imitator = dataclasses.replace(IMITATOR, kind=kind)
    built = make_imitator(imitator, SPEC, context_steps=128)
    params = jax.eval_shape(built.init, jax.random.key(0))
    forward = jax.jit(lambda params, tokens: built.logits(params, tokens, None))
    measured = forward.lower(params, empty_tokens((4, 128), SPEC)).compile().cost_analysis()["flops"]
    # above: blocks of attention touch keys that the mask then hides; norms and embeddings are in it too
    assert 0.9 < measured / (4 * 128) / cost.of(imitator, SPEC, context_steps=128).forward_flops < 1.6


def test_a_window_shorter_than_its_reach_attends_to_half_of_itself():
    assert cost.mean_keys(128, 128) == cost.mean_keys(128, 1000) == 64.5
    assert cost.mean_keys(4, 2) == (1 + 2 + 2 + 2) / 4


@pytest.mark.parametrize("double_q", [False, True])
def test_a_learner_s_operations_agree_with_the_compiler_s_count(double_q):
    learner = config.Learner(
        hidden=(64, 64), double_q=double_q, optimiser="rmsprop_centred", replay_capacity=64
    )
    dqn = make_dqn(learner, SPEC)
    state = dqn.init(jax.random.key(0), jnp.zeros((), jnp.uint8))
    rates = jax.tree.map(lambda leaf: leaf[0], hyperparams(learner, 1))
    update = jax.jit(dqn.update).lower(jax.random.key(1), state, rates, first_cursor())
    measured = update.compile().cost_analysis()["flops"]
    counted = cost.learning(learner, SPEC).flops_per_step
    assert 0.8 < measured / counted < 1.3  # the optimiser, relus and the sums of biases are in it too
    assert cost.learning(learner, SPEC).bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(state))
