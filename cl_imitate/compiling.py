"""What this process has spent on compiling, as jax reports it, and how it lets go of what was compiled.

Reading a program from the cache counts as compiling too.
"""

import contextlib
import ctypes
import gc
import threading
import time

import jax

_EVENTS = ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
_spans: list[tuple[float, float]] = []  # apart from each other, in their order
_lock = threading.Lock()


def _listen(event: str, duration_secs: float, **_) -> None:
    """Called when one ends. Where threads compile at the same time, that time counts once."""
    if event not in _EVENTS:
        return
    with _lock:
        end = time.perf_counter()
        start = end - duration_secs
        while _spans and _spans[-1][1] >= start:
            start = min(start, _spans.pop()[0])
        _spans.append((start, end))


jax.monitoring.register_event_duration_secs_listener(_listen)


def seconds() -> float:
    """Seconds since this module was imported in which a program was being compiled."""
    with _lock:
        return sum(end - start for start, end in _spans)


def release_programs() -> None:
    """Let go of every compiled program, and give the memory that it took back to the system.

    A program that is asked for again is traced again, and read from the cache on disk. The C library keeps what is
    freed for itself unless it is told otherwise, and programs are most of what a small run takes.
    """
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(
        OSError, AttributeError, TypeError
    ):  # glibc has this call, and others do without
        ctypes.CDLL(None).malloc_trim(0)
