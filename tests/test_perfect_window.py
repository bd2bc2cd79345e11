"""The line that no memory of L steps can pass on a Lock, played by hand and in the environment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config
from cl_imitate.envs import tasks
from cl_imitate.imitators.perfect_window import make_perfect_window
from cl_imitate.types import ScreenObservation, Spec, StepTokens, SymbolObservation

pytestmark = pytest.mark.unoptimised

A = 4
SPEC = Spec(
    observation=SymbolObservation(6), num_actions=A, reward_dtype="int8", can_truncate=True, episode_steps=8
)


@functools.cache
def policy(context_steps: int = 5, epsilon: float = 0.0):
    return make_perfect_window(SPEC, context_steps=context_steps, epsilon=epsilon, block_steps=1)


def tokens(obs, action, reward) -> StepTokens:
    """One stream's tokens [1, T]; `action[t]` and `reward[t]` are those of the step before t, A = none."""
    shape = (1, len(obs))
    return StepTokens(
        obs=jnp.array([obs], jnp.uint8),
        prev_action=jnp.array([action], jnp.int32),
        prev_reward=jnp.array([reward], jnp.float32),
        prev_done=jnp.zeros(shape, bool),
        is_begin=jnp.zeros(shape, bool),
        age=jnp.zeros(shape, jnp.int32),
    )


def shares(made, given: StepTokens) -> np.ndarray:
    return np.exp(np.asarray(made.logits({}, given, None)))[0]


def test_what_failed_is_left_out_what_paid_is_repeated_and_both_are_forgotten_after_the_window():
    # at symbol 2: action 1 fails, action 3 fails, action 0 pays; then elsewhere; back at 2 in time, then too late
    found = shares(
        policy(5),
        tokens([2, 2, 2, 4, 2, 4, 4, 4, 2], [A, 1, 3, 0, A, A, A, A, A], [0, 0, 0, 1, 0, 0, 0, 0, 0]),
    )
    third = 1 / 3
    np.testing.assert_allclose(found[0], [0.25] * 4, atol=1e-6)
    np.testing.assert_allclose(found[1], [third, 0, third, third], atol=1e-6)
    np.testing.assert_allclose(found[2], [0.5, 0, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(found[3], [0.25] * 4, atol=1e-6)  # another symbol
    np.testing.assert_allclose(found[4], [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        found[8], [0.25] * 4, atol=1e-6
    )  # step 2 is six steps back, the window holds five


@pytest.mark.parametrize(("context_steps", "known"), [(5, True), (4, True), (3, False)])
def test_the_window_ends_where_a_transformer_s_does(context_steps, known):
    # what was done at step 0 is told by the token of step 1: a window of 4 at step 3 still holds both
    found = shares(policy(context_steps), tokens([2, 4, 4, 2], [A, 1, A, A], [0, 1, 0, 0]))
    np.testing.assert_allclose(found[3], [0, 1, 0, 0] if known else [0.25] * 4, atol=1e-6)


def test_a_share_of_its_steps_is_random():
    found = shares(policy(5, 0.2), tokens([2, 2], [A, 1], [0, 1]))
    np.testing.assert_allclose(found[1], [0.05, 0.85, 0.05, 0.05], atol=1e-6)


def test_acting_after_a_prompt_equals_reading_and_forgetting_empties():
    made, given = policy(5), tokens([2, 2, 4, 2], [A, 1, 3, A], [0, 0, 1, 0])
    whole = made.logits({}, given, None)
    there = jnp.array([[False, True, True]])
    padded = jax.tree.map(lambda x: jnp.concatenate([x[:, :1], x[:, :2]], axis=1), given)
    memory = made.prompt({}, made.init_memory(1), padded, there)
    for t in (2, 3):
        logits, memory = made.act({}, memory, jax.tree.map(lambda x, t=t: x[:, t], given))
        np.testing.assert_allclose(np.exp(logits), np.exp(whole[:, t]), atol=1e-6)
    again = jax.tree.map(lambda x: x[:, 3], given)
    assert np.ptp(np.asarray(made.act({}, memory, again)[0])) > 1  # it knows that an action failed
    emptied = made.forget(memory, jnp.array([True]))
    assert np.ptp(np.asarray(made.act({}, emptied, again)[0])) == 0


def returns_on_locks(context_steps: int, *, positions: int, num_steps: int) -> np.ndarray:
    """Mean reward a step [num_steps] over 64 tasks that never reset."""
    shapes = config.Shapes(num_symbols=positions, num_actions=A, num_states=positions)
    lock = config.Lock(num_positions=positions, episode_steps=8, resets=False)
    family = tasks.make(lock, shapes=shapes)
    assert family.knows_window_line
    made = make_perfect_window(family.env.spec, context_steps=context_steps, epsilon=0.0, block_steps=1)
    params = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 64))
    env_state, obs = jax.vmap(family.env.init)(jax.random.split(jax.random.key(1), 64), params)

    @jax.jit
    def play(env_state, obs):
        def step(carry, key):
            env_state, obs, action, reward, memory = carry
            zeros = jnp.zeros(64, bool)
            given = StepTokens(
                obs=obs, prev_action=action, prev_reward=reward, prev_done=zeros, is_begin=zeros, age=action
            )
            logits, memory = made.act({}, memory, given)
            act_key, env_key = jax.random.split(key)
            action = jax.random.categorical(act_key, logits)
            env_state, timestep = jax.vmap(family.env.step)(
                jax.random.split(env_key, 64), params, env_state, action
            )
            return (env_state, timestep.obs, action, timestep.reward, memory), timestep.reward.mean()

        first = (env_state, obs, jnp.full(64, A), jnp.zeros(64), made.init_memory(64))
        return jax.lax.scan(step, first, jax.random.split(jax.random.key(2), num_steps))[1]

    return np.asarray(play(env_state, obs))


def test_with_a_window_of_a_lap_it_comes_to_perfection_and_finding_out_takes_as_long_as_it_must():
    found = returns_on_locks(200, positions=6, num_steps=120)
    np.testing.assert_array_equal(found[-60:], 1.0)
    # each position costs (A - 1) / 2 failures on average; the last of a lap is found after 6 * 2.5 steps
    assert found.size - found.sum() == pytest.approx(6 * (A - 1) / 2, abs=0.6)


def test_with_less_than_a_lap_it_finds_out_again_and_again():
    # 12 positions, a window of 6: nothing is known at an arrival, but failures at the position are remembered
    found = returns_on_locks(6, positions=12, num_steps=400)
    assert found[-200:].mean() == pytest.approx(1 / (1 + (A - 1) / 2), abs=0.02)


def test_screens_have_no_such_line():
    spec = Spec(
        observation=ScreenObservation(2, 2, 1),
        num_actions=A,
        reward_dtype="int8",
        can_truncate=False,
        episode_steps=None,
    )
    with pytest.raises(ValueError, match="symbols only"):
        make_perfect_window(spec, context_steps=4, epsilon=0.1, block_steps=1)


@pytest.mark.parametrize(
    ("variants", "knows"), [((), True), (("permute_actions",), True), (("invert_reward",), False)]
)
def test_the_line_is_known_where_a_right_action_is_the_only_pay(variants, knows):
    shapes = config.Shapes(num_symbols=8, num_actions=A, num_states=8)
    assert tasks.make(config.Lock(), shapes=shapes, variants=variants).knows_window_line == knows
    assert not tasks.make(
        config.DarkRoom(size=2, num_held_out_goals=1), shapes=config.Shapes()
    ).knows_window_line
