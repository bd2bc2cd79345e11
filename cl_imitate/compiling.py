"""What this process has spent on compiling, as jax reports it. Reading a program from the cache counts too."""

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
