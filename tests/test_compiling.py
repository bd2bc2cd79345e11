"""Seconds of compiling are those of a clock, however many threads compile."""

import jax
import jax.numpy as jnp
import pytest

from cl_imitate import compiling

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
