import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate.evaluation import divergence
from cl_imitate.evaluation.prompts import Prompt
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.imitators.embedding import empty_tokens
from tests.ensembles import group

NUM = 4


def stub(act) -> Imitator:
    """An imitator of blocks of 8 whose logits are `act(params, tokens)`."""
    spec = group(NUM).family.env.spec
    return Imitator(
        init=lambda key: None,
        logits=lambda *_: None,
        init_memory=lambda num: jnp.zeros(num),
        prompt=lambda params, memory, tokens, is_there: memory,
        begin_block=lambda params, memory: memory,
        act=lambda params, memory, tokens: (act(params, tokens), memory),
        forget=lambda memory, where: memory,
        block_steps=8,
        num_actions=spec.num_actions,
    )


@pytest.fixture(scope="module")
def held():
    """Learners of 16 steps, held for 16 more; their history, and a prompt that says nothing."""
    one = group(NUM)
    ensemble, _ = one.live(one.newborn(), 16, chunk_steps=8)
    ensemble, history = one.live(ensemble, 16, chunk_steps=8, hold=True)
    prompt = Prompt(
        tokens=empty_tokens((NUM, 4), one.family.env.spec),
        is_there=jnp.ones((NUM, 4), bool),
        last_action=jnp.array([0, 1, 2, 0]),
        last_reward=jnp.array([0.0, 1.0, 0.0, 1.0]),
    )
    return ensemble, history, prompt


def measure(held, act, params):
    ensemble, history, prompt = held
    one = group(NUM)
    return divergence.teacher_forced(
        stub(act),
        params,
        prompt,
        history,
        ensemble.learner,
        one.rates,
        jnp.int32(16),
        dqn=one.dqn,
    )


def test_a_uniform_imitator_scores_the_entropy_of_chance_and_its_distance_from_epsilon_greedy(held):
    found = measure(held, lambda params, tokens: jnp.zeros((NUM, 3)) + params, jnp.zeros((2, 1, 1)))
    np.testing.assert_allclose(found["imitator_cross_entropy"], np.full((2, NUM), np.log(3)), rtol=1e-6)
    epsilon = 0.1
    greedy = 1 - epsilon + epsilon / 3
    np.testing.assert_allclose(found["action_total_variation"], greedy - 1 / 3, rtol=1e-5)


def test_an_imitator_that_is_the_learner_s_policy_diverges_by_nothing(held):
    """Symbols decide a held learner's policy, so one learner's policy is a table of symbols."""
    ensemble, _, _ = held
    one = group(NUM)
    policy = jax.vmap(
        lambda state, rates: jax.vmap(lambda obs: one.dqn.policy(state, rates, obs, jnp.int32(16)))(
            jnp.arange(8, dtype=jnp.uint8)
        )
    )(ensemble.learner, one.rates)
    found = measure(
        held,
        lambda params, tokens: jnp.log(params[jnp.arange(NUM), tokens.obs.astype(jnp.int32)]),
        policy[None],
    )
    np.testing.assert_allclose(found["action_total_variation"], 0, atol=1e-6)
    np.testing.assert_allclose(found["imitator_cross_entropy"], found["learner_cross_entropy"], rtol=1e-5)


def test_what_is_read_is_the_held_learner_s_own_stream(held):
    _, history, prompt = held
    tokens = divergence.held_tokens(jax.tree.map(jnp.asarray, history), prompt, num_actions=3)
    np.testing.assert_array_equal(tokens.obs, history.obs.T)
    np.testing.assert_array_equal(tokens.prev_action[0], prompt.last_action)
    np.testing.assert_array_equal(tokens.prev_action[1:], history.action[:, :-1].T)
    np.testing.assert_array_equal(tokens.prev_reward[1:], history.reward[:, :-1].T)
    assert tokens.prev_done[0].all()
    np.testing.assert_array_equal(tokens.prev_done[1:], history.truncated[:, :-1].T)


def test_who_was_prompted_with_nothing_begins_as_a_window_of_training_does(held):
    _, history, prompt = held
    history = jax.tree.map(jnp.asarray, history)
    empty = prompt.replace(is_there=prompt.is_there.at[0].set(False))
    tokens = divergence.held_tokens(history, empty, num_actions=3)
    expected, _, _ = contexts.window(
        history, jnp.int32(0), jnp.int32(0), length=8, end=jnp.int32(8), num_actions=3
    )
    for name in ("obs", "prev_action", "prev_reward", "prev_done", "is_begin"):
        np.testing.assert_array_equal(getattr(tokens, name)[:8, 0], getattr(expected, name), err_msg=name)
    assert not tokens.is_begin[:, 1:].any()
