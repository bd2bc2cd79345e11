import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate.convolution import patches_3x3


def test_patches_times_a_matrix_is_a_convolution_in_value_and_gradient():
    screen = jax.random.normal(jax.random.key(0), (5, 10, 10, 7))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 7, 16))

    def ours(screen, kernel):
        return patches_3x3(screen) @ kernel.reshape(-1, 16)

    def reference(screen, kernel):
        return jax.lax.conv_general_dilated(
            screen, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    np.testing.assert_allclose(ours(screen, kernel), reference(screen, kernel), rtol=1e-4, atol=1e-4)
    for argument in (0, 1):
        one, two = (
            jax.grad(lambda s, k, f=f: jnp.sum(jnp.sin(f(s, k))), argument)(screen, kernel)
            for f in (ours, reference)
        )
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
