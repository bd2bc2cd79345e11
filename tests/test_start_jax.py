"""Programs that are compiled for one CPU device are read for the others."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import cache_key

from cl_imitate.start_jax import share_programs_among_cpu_devices

_asked: list[str] = []
jax.monitoring.register_event_listener(lambda event, **_: _asked.append(event.rpartition("/")[2]))


@pytest.fixture
def new_program():
    """A program that the cache of compiled ones cannot hold."""
    if not jax.config.jax_compilation_cache_dir:
        pytest.skip("no cache of compiled programs here")
    number = int.from_bytes(os.urandom(3), "big") / 2**24
    return jax.jit(lambda x: jnp.tanh(x @ x) * number)


def answers(program) -> list[tuple[set, np.ndarray]]:
    found = []
    for device in jax.local_devices():
        x = jax.device_put(np.linspace(-0.5, 0.5, 64, dtype=np.float32).reshape(8, 8), device)
        _asked.clear()
        y = program(x)
        assert y.devices() == {device}
        found.append(({event for event in _asked if event in ("cache_hits", "cache_misses")}, np.asarray(y)))
    return found


def test_the_second_device_reads_what_was_compiled_for_the_first_and_computes_the_same(new_program):
    (first, x), (second, y) = answers(new_program)
    assert (first, second) == ({"cache_misses"}, {"cache_hits"})
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("other", [None, lambda hash_obj, compile_options: None])
def test_where_jax_s_function_has_another_form_it_is_left_as_it_is(monkeypatch, other):
    monkeypatch.setattr(cache_key, "_hash_serialized_compile_options", other)
    share_programs_among_cpu_devices()
    assert cache_key._hash_serialized_compile_options is other
