"""The imitators' linear layers: products through `cl_imitate.products`, so that precision has one place."""

import jax
import jax.numpy as jnp
from flax import nnx

from cl_imitate.config import Products
from cl_imitate.products import branch_dtype, rows_product, short_affine


class Linear(nnx.Linear):
    """`nnx.Linear` whose inputs [..., I] are flattened to rows before they are multiplied. Out: float32."""

    def __init__(self, num_inputs: int, num_outputs: int, *, products: Products, **options):
        super().__init__(num_inputs, num_outputs, **options)
        self.products: Products = products

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = x.reshape(-1, self.in_features)
        y = rows_product(rows, self.kernel[...], self.products).reshape(*x.shape[:-1], -1)
        if self.bias is None:
            return y
        return y + self.bias[...].reshape(*[1] * (y.ndim - 1), -1)


class BranchLinear(Linear):
    """The same, with a bias, for the inside of a residual branch: in and out are `branch_dtype(products)`."""

    def __call__(self, x: jax.Array) -> jax.Array:
        if branch_dtype(self.products) == jnp.float32:
            return super().__call__(x)
        rows = x.astype(branch_dtype(self.products)).reshape(-1, self.in_features)
        assert self.bias is not None
        return short_affine(rows, self.kernel[...], self.bias[...]).reshape(*x.shape[:-1], -1)


def gelu(x: jax.Array) -> jax.Array:
    """Computed in float32, whatever `x` is kept in."""
    if x.dtype == jnp.float32:
        return jax.nn.gelu(x)
    # What its gradient needs is computed from x again: kept, it would be several times as large.
    again = jax.checkpoint(lambda x: jax.nn.gelu(x.astype(jnp.float32)).astype(x.dtype))
    return again(x)
