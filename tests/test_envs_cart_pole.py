import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from envs_rollout import NUM_ENVS, episode_returns, rollout, sample, standard

from cl_imitate.config import CartPole, Shapes
from cl_imitate.envs import cart_pole, tasks


def test_the_physics_are_gymnax_s():
    env, gymnax_params = gymnax.make("CartPole-v1")
    params, key = cart_pole.params(500), jax.random.key(0)
    move = jax.jit(jax.vmap(functools.partial(cart_pole.move, params)))
    physics = jax.random.uniform(jax.random.key(1), (1000, 4), minval=-1.0, maxval=1.0)
    action = jax.random.randint(jax.random.key(2), (1000,), 0, 2)
    _, state = env.reset(key, gymnax_params)

    def theirs(physics, action):
        at = dict(zip(("x", "x_dot", "theta", "theta_dot"), physics, strict=True))
        return env.step_env(key, state.replace(**at), action, gymnax_params)[0]

    with jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        expected = jax.jit(jax.vmap(theirs))(physics, action)
    np.testing.assert_allclose(move(physics, action), expected, atol=2e-6)


def test_an_episode_ends_where_the_cart_or_the_pole_is_out_of_bounds():
    family, _, run = standard("cart_pole")
    out = np.asarray(cart_pole.OBSERVATION.unpack(jnp.asarray(run.out.final_obs)))
    beyond = (np.abs(out[..., 0]) > 2.4) | (np.abs(out[..., 2]) > 12 * np.pi / 180)
    assert beyond.any()
    np.testing.assert_array_equal(run.out.terminated, beyond)
    assert (run.out.reward == 1.0).all()
    assert family.published_return == 500.0


def test_random_actions_fall_within_about_22_steps():
    """gymnax and Gym: 22.3 on average over random policies' episodes."""
    _, _, run = standard("cart_pole")
    returns = episode_returns(run, 20)
    assert abs(returns.mean() - 22.3) < 4 * returns.std() / np.sqrt(returns.size)


def test_a_pole_that_stands_is_truncated_not_terminated():
    family = tasks.make(CartPole(max_episode_steps=7), shapes=Shapes())
    run = rollout(family, sample(family))
    ended = run.out.terminated | run.out.truncated
    np.testing.assert_array_equal(
        run.out.truncated, run.state.step_in_episode == 0
    )  # no pole falls in 7 steps
    assert ended[6::7].all()
    assert ended.sum() == len(ended) // 7 * NUM_ENVS
    assert not np.array_equal(run.out.obs[6], run.out.final_obs[6])


@pytest.mark.parametrize("leaf", cart_pole.CartPoleParams.__dataclass_fields__)
def test_every_parameter_changes_the_trajectory(leaf):
    family, params, run = standard("cart_pole")
    old = getattr(params, leaf)
    changed = rollout(
        family,
        params.replace(**{leaf: (np.asarray(old) * 0.02).astype(old.dtype)}),
    )
    assert not np.array_equal(run.out.obs, changed.out.obs)


def test_it_has_no_variants():
    with pytest.raises(ValueError, match="does not apply to cart_pole"):
        tasks.make(CartPole(), shapes=Shapes(), variants=("mirror",))
