"""The imitators' linear layers: products through `cl_imitate.products`, so that precision has one place."""

import functools
from collections.abc import Callable

from flax import nnx

from cl_imitate.config import Products
from cl_imitate.products import rows_product


@functools.cache
def make_linear(products: Products) -> Callable[..., nnx.Linear]:
    """`nnx.Linear` whose inputs [..., I] are flattened to rows before they are multiplied; float32 out."""

    def dot_general(x, kernel, dimension_numbers, **_):
        del dimension_numbers  # those of a linear layer: the last axis of x, the first of the kernel
        return rows_product(x.reshape(-1, x.shape[-1]), kernel, products).reshape(*x.shape[:-1], -1)

    return functools.partial(nnx.Linear, dot_general=dot_general)
