"""The transformer's two memories: how far back each of them reaches."""

import dataclasses

import jax
import numpy as np
import pytest

from cl_imitate.imitators.transformer import Transformer
from tests.test_imitators import KINDS, SMALL, SPEC, act_through, make, random_tokens

pytestmark = pytest.mark.unoptimised


def reached_from_before(imitator, changed_until: int) -> np.ndarray:
    """bool [40]: steps whose logits feel another past up to `changed_until`."""
    built, params = make(imitator)
    tokens = random_tokens(SPEC, 1, 40)
    other = tokens.replace(prev_action=np.where(np.arange(40) < changed_until, 0, tokens.prev_action))
    one, _ = act_through(built, params, tokens, built.init_memory(1), 40)
    two, _ = act_through(built, params, other, built.init_memory(1), 40)
    return np.abs(one - two).max(axis=(0, 2)) > 0


def test_nothing_older_than_the_window_reaches_a_step():
    reached = reached_from_before(dataclasses.replace(SMALL, num_layers=3), 24)
    assert reached[24:32].all()  # the window of steps 24 to 31 begins at 16
    assert not reached[32:].any()  # that of steps 32 to 39 begins at 24


def test_through_its_layers_a_ring_reaches_as_far_as_training_does_and_no_further():
    ring = KINDS["ring"]
    reached = reached_from_before(ring, 20)
    far = ring.num_layers * (ring.attention_steps - 1)
    np.testing.assert_array_equal(reached[20:], np.arange(20) < far)


def test_a_ring_acts_the_same_however_old_it_is():
    built, params = make(KINDS["ring"])
    tokens = random_tokens(SPEC, 1, 20)
    young, old = built.init_memory(1), built.init_memory(1)
    old = old.replace(step=old.step + 6_000_000)  # a multiple of the ring's size
    one, _ = act_through(built, params, tokens, young, 20)
    two, _ = act_through(built, params, tokens, old, 20)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_equal_configs_are_the_same_network():
    one, two = (Transformer(SMALL, SPEC, 16) for _ in range(2))
    assert one == two
    first, second = (jax.jit(x.init)(jax.random.key(0)) for x in (one, two))
    jax.tree.map(np.testing.assert_array_equal, first, second)
