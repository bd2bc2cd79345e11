import jax
import numpy as np
import pytest

from cl_imitate.products import columns_product, filters_product, rows_of, rows_product, short_affine

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
def test_rounded_factors_are_rounded_and_sums_are_not(name):
    product, shape, plain = PLAIN[name]
    x = 1.0 + jax.random.uniform(jax.random.key(0), shape)
    w = 1.0 + jax.random.uniform(jax.random.key(1), (3, 4))
    exact = np.asarray(plain(np.asarray(x, np.float64), np.asarray(w, np.float64)))
    error = {kind: np.abs(product(x, w, kind) / exact - 1).max() for kind in ("float32", "bfloat16")}
    assert error["float32"] < 1e-6
    assert 1e-4 < error["bfloat16"] < 2**-7
    rounded = np.asarray(plain(*(np.asarray(y.astype(jax.numpy.bfloat16), np.float64) for y in (x, w))))
    np.testing.assert_allclose(product(x, w, "bfloat16"), rounded, rtol=1e-6)
    assert jax.grad(lambda w: product(x, w, "bfloat16").sum())(w).dtype == np.float32


def test_reading_rows_equals_a_product_with_one_hot_rows():
    table = jax.random.normal(jax.random.key(0), (7, 4))
    index = jax.numpy.array([3, 0, 3, 6, 3], jax.numpy.int32)
    one_hot = jax.nn.one_hot(index, 7)

    def loss(function):
        return lambda table: jax.numpy.sin(function(table)).sum()

    np.testing.assert_array_equal(rows_of(table, index), one_hot @ table)
    ours, theirs = (jax.grad(loss(f))(table) for f in (lambda t: rows_of(t, index), lambda t: one_hot @ t))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert (ours[1] == 0).all()


@pytest.mark.parametrize("name", PLAIN)
def test_a_weights_gradient_is_not_computed_transposed(name):
    product, shape, _ = PLAIN[name]
    x, w = jax.numpy.ones(shape), jax.numpy.ones((3, 4))
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: product(x, w).sum()))(w)
    *_, last = (eqn for eqn in jaxpr.eqns if eqn.primitive.name != "pjit")
    assert last.primitive.name == "dot_general"
    assert last.outvars[0].aval.shape == w.shape


def test_a_short_affine_is_the_plain_one_rounded_and_its_weights_gradients_are_float32():
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(6, 5)), rng.normal(size=(5, 4)), rng.normal(size=4)
    args = jax.numpy.asarray(x, jax.numpy.bfloat16), np.float32(w), np.float32(b)
    out, back = jax.vjp(short_affine, *args)
    dx, dw, db = back(jax.numpy.ones_like(out))
    assert (out.dtype, dx.dtype, dw.dtype, db.dtype) == ("bfloat16", "bfloat16", "float32", "float32")
    ones = np.ones((6, 4))
    for got, exact in ((out, x @ w + b), (dx, ones @ w.T), (dw, x.T @ ones), (db, ones.sum(axis=0))):
        np.testing.assert_allclose(np.asarray(got, np.float64), exact, rtol=0.02, atol=0.04)
