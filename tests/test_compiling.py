"""Seconds of compiling are those of a clock, however many threads compile."""

import types

import jax
import jax.numpy as jnp
import pytest

from cl_imitate import compiling
from tests.compiles import count_compiles

COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.mark.parametrize(
    ("ended", "seconds"),
    [
        ([(0, 1), (2, 5)], 4),
        ([(0, 3), (1, 4)], 4),  # two threads
        ([(1, 2), (3, 4), (0, 6)], 6),  # a thread that began first and ended last
        ([(0, 1), (3, 4), (3.5, 6)], 4),
        ([(0, 2), (2, 2)], 2),
    ],
)
def test_time_in_which_several_threads_compile_counts_once(monkeypatch, ended, seconds):
    monkeypatch.setattr(compiling, "_spans", [])
    for start, end in ended:
        monkeypatch.setattr(compiling.time, "perf_counter", lambda end=end: end)
        compiling._listen(COMPILED, end - start)
    assert compiling.seconds() == seconds


def test_what_is_not_compiling_does_not_count(monkeypatch):
    monkeypatch.setattr(compiling, "_spans", [])
    compiling._listen("/jax/core/compile/jaxpr_trace_duration", 1.0)
    assert compiling.seconds() == 0.0


def test_compiling_a_program_counts():
    before = compiling.seconds()
    jax.jit(lambda x: jnp.sin(x) + before)(jnp.arange(3.0)).block_until_ready()
    assert compiling.seconds() > before


def test_what_was_compiled_is_let_go_of(monkeypatch):
    called = []
    library = types.SimpleNamespace(malloc_trim=lambda pad: called.append(("trim", pad)))
    monkeypatch.setattr(compiling.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(compiling.gc, "collect", lambda: called.append("collect"))
    double = jax.jit(lambda x: 2 * x)
    double(jnp.arange(3.0))
    compiling.release_programs()
    assert called == ["collect", ("trim", 0)]
    with count_compiles() as compiled:
        double(jnp.arange(3.0))
    assert len(compiled) > 0


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_programs_are_let_go_of_where_the_c_library_is_another(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(compiling.ctypes, "CDLL", fail)
    double = jax.jit(lambda x: 2 * x)
    double(jnp.arange(3.0))
    compiling.release_programs()
    assert double._cache_size() == 0
