"""Matrix products whose gradients are written out, so that each comes in the layout its reader wants.

Differentiating `x @ w` gives the gradient of `w` transposed. An optimiser then reads it across memory instead of
along it: on a CPU that costs a learner with a screen as much as all its products together.

Axes in names: B batch, I inputs, O outputs.
"""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def rows_product(x_BxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
    """A batch of rows times a matrix, [B, O]."""
    return x_BxI @ w_IxO


def _rows_forward(x, w):
    return x @ w, (x, w)


def _rows_backward(saved, grad_BxO):
    x, w = saved
    return grad_BxO @ w.T, jnp.einsum("bi,bo->io", x, grad_BxO)


rows_product.defvjp(_rows_forward, _rows_backward)


@jax.custom_vjp
def columns_product(x_IxB: jax.Array, w_IxO: jax.Array) -> jax.Array:
    """A batch of columns times a matrix, the result again as rows: [B, O]."""
    return x_IxB.T @ w_IxO


def _columns_forward(x, w):
    return x.T @ w, (x, w)


def _columns_backward(saved, grad_BxO):
    x, w = saved
    return w @ grad_BxO.T, x @ grad_BxO


columns_product.defvjp(_columns_forward, _columns_backward)


@jax.custom_vjp
def filters_product(x_IxB: jax.Array, w_IxO: jax.Array) -> jax.Array:
    """A batch of columns times a matrix, the result as columns: [O, B]."""
    return w_IxO.T @ x_IxB


def _filters_forward(x, w):
    return w.T @ x, (x, w)


def _filters_backward(saved, grad_OxB):
    x, w = saved
    return w @ grad_OxB, jnp.einsum("ib,ob->io", x, grad_OxB)


filters_product.defvjp(_filters_forward, _filters_backward)
