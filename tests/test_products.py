import jax
import numpy as np
import pytest

from cl_imitate.products import columns_product, filters_product, rows_product

PLAIN = {
    "rows": (rows_product, (5, 3), lambda x, w: x @ w),
    "columns": (columns_product, (3, 5), lambda x, w: x.T @ w),
    "filters": (filters_product, (3, 5), lambda x, w: w.T @ x),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_product_equals_the_plain_one_in_value_and_gradients(name):
    product, shape, plain = PLAIN[name]
    x = jax.random.normal(jax.random.key(0), shape)
    w = jax.random.normal(jax.random.key(1), (3, 4))

    def loss(function):
        return lambda x, w: jax.numpy.sin(function(x, w)).sum()

    np.testing.assert_allclose(product(x, w), plain(x, w), rtol=1e-6)
    ours, theirs = (jax.grad(loss(function), (0, 1))(x, w) for function in (product, plain))
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_a_weights_gradient_is_not_computed_transposed(name):
    product, shape, _ = PLAIN[name]
    x, w = jax.numpy.ones(shape), jax.numpy.ones((3, 4))
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: product(x, w).sum()))(w)
    *_, last = (eqn for eqn in jaxpr.eqns if eqn.primitive.name != "pjit")
    assert last.primitive.name == "dot_general"
    assert last.outvars[0].aval.shape == w.shape
