"""Counting compilations, through jax's public monitoring events."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_events: list[str] = []


def _listen(event: str, duration_secs: float, **kwargs) -> None:
    del duration_secs, kwargs
    if event.endswith("backend_compile_duration"):
        _events.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextmanager
def count_compiles() -> Iterator[list[str]]:
    """The compilations inside the block, one entry each."""
    _events.clear()
    found: list[str] = []
    yield found
    found.extend(_events)
