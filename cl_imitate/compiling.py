"""What this process has spent on compiling, as jax reports it. Reading a program from the cache counts too."""

import jax

_EVENTS = ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
_seconds = 0.0


def _listen(event: str, duration_secs: float, **_) -> None:
    global _seconds
    if event in _EVENTS:
        _seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def seconds() -> float:
    """Seconds since this module was imported."""
    return _seconds
