import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate.learners import td


def test_errors_equal_a_hand_computed_table():
    q_tm1, q_t = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, -1.0, 4.0])
    selector = jnp.array([9.0, 0.0, 0.0])
    args = (q_tm1, jnp.int32(1), jnp.float32(1.0))
    assert td.q_learning_error(*args, jnp.float32(0.5), q_t, q_t) == 1.0 + 0.5 * 4.0 - 2.0
    assert td.q_learning_error(*args, jnp.float32(0.0), q_t, q_t) == 1.0 - 2.0
    assert td.q_learning_error(*args, jnp.float32(0.5), q_t, selector) == 1.0 + 0.5 * 0.5 - 2.0


def test_the_gradient_flows_through_the_first_state_s_values_alone():
    def error(q_tm1, q_t):
        return td.q_learning_error(q_tm1, jnp.int32(0), jnp.float32(1.0), jnp.float32(0.9), q_t, q_t)

    first, second = jax.grad(error, argnums=(0, 1))(jnp.ones(2), jnp.ones(2))
    np.testing.assert_array_equal(first, [-1.0, 0.0])
    np.testing.assert_array_equal(second, [0.0, 0.0])


@pytest.mark.parametrize("error", [-3.0, -1.0, -0.2, 0.0, 0.7, 5.0])
def test_huber_s_gradient_is_the_clipped_error_and_squared_s_the_error(error):
    assert jax.grad(td.huber_loss)(error) == pytest.approx(np.clip(error, -1, 1))
    assert jax.grad(td.squared_loss)(error) == pytest.approx(error)
    expected = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
    assert td.huber_loss(jnp.float32(error)) == pytest.approx(expected, rel=1e-6)


def test_batched_input_is_refused():
    with pytest.raises(AssertionError):
        td.q_learning_error(
            jnp.ones((2, 3)), jnp.int32(0), jnp.float32(0), jnp.float32(0), jnp.ones(3), jnp.ones(3)
        )
