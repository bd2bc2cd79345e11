"""Matrix products whose gradients are written out, so that each comes in the layout its reader wants.

Differentiating `x @ w` gives the gradient of `w` transposed. An optimiser then reads it across memory instead of
along it: on a CPU that costs a learner with a screen as much as all its products together.

`Products` says how exactly they multiply; sums are always float32. "float32" means it: left to itself, a GPU
rounds the factors to tf32.

Axes in names: B batch, I inputs, O outputs.
"""

import functools

import jax
import jax.numpy as jnp

from cl_imitate.config import Products


def einsum(axes: str, x: jax.Array, y: jax.Array, products: Products) -> jax.Array:
    """`jnp.einsum` of two factors, float32 out; says how factors are rounded (`short_affine` alone rounds results)."""
    if products == "bfloat16":
        x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    precision = jax.lax.Precision.HIGHEST if products == "float32" else jax.lax.Precision.DEFAULT
    return jnp.einsum(axes, x, y, precision=precision, preferred_element_type=jnp.float32)


def branch_dtype(products: Products) -> jnp.dtype:
    """What the inside of a residual branch is kept in: with bfloat16 factors, results are rounded to it too."""
    return jnp.dtype(jnp.bfloat16 if products == "bfloat16" else jnp.float32)


def _turned(x: jax.Array) -> jax.Array:
    """The transpose, written to memory: a product over the leading axis of both factors is slower than this copy."""
    return jax.lax.optimization_barrier(x.T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rows_of(table_SxO: jax.Array, index_B: jax.Array, products: Products = "float32") -> jax.Array:
    """Rows of a table by their indices, [B, O]: what a product with one-hot rows gives, read instead of computed.

    Its gradient is that product's: one row may be read many times, and adding up by index is slow.
    """
    return table_SxO[index_B]


def _read_forward(table, index, products):
    return rows_of(table, index, products), (table.shape[0], index)


def _read_backward(products, saved, grad_BxO):
    num_rows, index = saved
    is_read_SxB = (jnp.arange(num_rows)[:, None] == index[None, :]).astype(grad_BxO.dtype)
    return einsum("sb,bo->so", is_read_SxB, grad_BxO, products), None


rows_of.defvjp(_read_forward, _read_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rows_product(x_BxI: jax.Array, w_IxO: jax.Array, products: Products = "float32") -> jax.Array:
    """A batch of rows times a matrix, [B, O]."""
    return einsum("bi,io->bo", x_BxI, w_IxO, products)


def _rows_forward(x, w, products):
    return rows_product(x, w, products), (x, w)


def _rows_backward(products, saved, grad_BxO):
    x, w = saved
    return einsum("bo,io->bi", grad_BxO, w, products), einsum("ib,bo->io", _turned(x), grad_BxO, products)


rows_product.defvjp(_rows_forward, _rows_backward)


@jax.custom_vjp
def short_affine(x_BxI: jax.Array, w_IxO: jax.Array, b_O: jax.Array) -> jax.Array:
    """A batch of bfloat16 rows times a matrix, plus a vector: bfloat16 [B, O], sums in float32.

    Half the memory traffic of float32 results that the next product would round. Gradients of the weights are
    float32, that of the rows is bfloat16.
    """
    return _short_einsum("bi,io->bo", x_BxI, w_IxO) + jnp.broadcast_to(
        b_O.astype(jnp.bfloat16), (x_BxI.shape[0], b_O.shape[0])
    )


def _short_einsum(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(axes, x, y, preferred_element_type=jnp.bfloat16)


def _short_forward(x, w, b):
    return short_affine(x, w, b), (x, w)


def _short_backward(saved, grad_BxO):
    x, w = saved
    dx = _short_einsum("bo,io->bi", grad_BxO, w)
    dw = einsum("bi,bo->io", x, grad_BxO, "bfloat16")
    return dx, dw, jnp.sum(grad_BxO.astype(jnp.float32), axis=0)


short_affine.defvjp(_short_forward, _short_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def columns_product(x_IxB: jax.Array, w_IxO: jax.Array, products: Products = "float32") -> jax.Array:
    """A batch of columns times a matrix, the result again as rows: [B, O]."""
    return einsum("bi,io->bo", _turned(x_IxB), w_IxO, products)


def _columns_forward(x, w, products):
    return columns_product(x, w, products), (x, w)


def _columns_backward(products, saved, grad_BxO):
    x, w = saved
    return einsum("io,bo->ib", w, grad_BxO, products), einsum("ib,bo->io", x, grad_BxO, products)


columns_product.defvjp(_columns_forward, _columns_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def filters_product(x_IxB: jax.Array, w_IxO: jax.Array, products: Products = "float32") -> jax.Array:
    """A batch of columns times a matrix, the result as columns: [O, B]."""
    return einsum("io,ib->ob", w_IxO, x_IxB, products)


def _filters_forward(x, w, products):
    return filters_product(x, w, products), (x, w)


def _filters_backward(products, saved, grad_OxB):
    x, w = saved
    return einsum("io,ob->ib", w, grad_OxB, products), einsum("ib,ob->io", x, grad_OxB, products)


filters_product.defvjp(_filters_forward, _filters_backward)
