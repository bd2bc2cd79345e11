import jax
import numpy as np

from cl_imitate.convolution import columns_of, convolve_3x3
from cl_imitate.types import ScreenObservation

SCREEN = ScreenObservation(height=10, width=9, channels=7)


def test_patches_times_a_matrix_is_a_convolution_in_value_and_gradient():
    screen = jax.random.normal(jax.random.key(0), (5, 10, 9, 7))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 7, 16))

    def ours(screen, kernel):
        filtered = convolve_3x3(screen.transpose(3, 1, 2, 0), kernel.reshape(-1, 16))
        return filtered.transpose(2, 1, 0).reshape(5, 8, 7, 16)

    def reference(screen, kernel):
        return jax.lax.conv_general_dilated(
            screen, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    np.testing.assert_allclose(ours(screen, kernel), reference(screen, kernel), rtol=1e-4, atol=1e-4)
    for argument in (0, 1):
        one, two = (
            jax.grad(lambda s, k, f=f: jax.numpy.sin(f(s, k)).sum(), argument)(screen, kernel)
            for f in (ours, reference)
        )
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)


def test_columns_are_the_unpacked_screens_with_the_batch_innermost():
    screen = jax.random.bernoulli(jax.random.key(0), 0.3, (6, 10, 9, 7))
    columns = columns_of(SCREEN.pack(screen), SCREEN)
    assert np.array_equal(columns, screen.transpose(3, 1, 2, 0))
    assert columns.dtype == np.uint8
