"""Bars with rate and time left for long work; plain lines where there is no terminal."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
import rich.progress

from cl_imitate import processes

_PLAIN_EVERY_SECONDS = 15.0

Tick = Callable[[int], None]


Watcher = Callable[[str, float], None]
"""Told a bar's label and how much of it is done, from 0 to 1."""

_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """While this holds, the watcher is told of every bar, too."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[Tick]:
    """A bar for `total` units of work; call the yielded function with how many more are done.

    A job shows what its first process does.
    """
    if not processes.is_first():
        yield lambda amount: None
        return
    make = _rich_bar if sys.stderr.isatty() else _plain_lines
    with make(label, total, unit) as tick:
        one_at_a_time = threading.Lock()  # a stage may count from two threads
        done = 0

        def counted(amount: int) -> None:
            nonlocal done
            with one_at_a_time:
                tick(amount)
                done += amount
                for watcher in _watchers:
                    watcher(label, done / max(total, 1))

        yield counted


@contextmanager
def _rich_bar(label: str, total: int, unit: str) -> Iterator[Tick]:
    columns = (
        rich.progress.TextColumn("{task.description:<34}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[rate]:>20}"),
        rich.progress.TimeRemainingColumn(),
    )
    start, done = time.perf_counter(), 0
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, rate="")

        def tick(amount: int) -> None:
            nonlocal done
            done += amount
            rate = done / max(time.perf_counter() - start, 1e-9)
            progress.update(task, advance=amount, rate=f"{_short(rate)} {unit}/s")

        yield tick


@contextmanager
def _plain_lines(label: str, total: int, unit: str) -> Iterator[Tick]:
    start = shown = time.perf_counter()
    done = 0

    def line() -> str:
        seconds = max(time.perf_counter() - start, 1e-9)
        left = seconds * (total - done) / max(done, 1)
        share = 100.0 * done / max(total, 1)
        return f"{label}: {share:.0f}%, {_short(done / seconds)} {unit}/s, {seconds:.0f} s, {max(left, 0):.0f} s left"

    def tick(amount: int) -> None:
        nonlocal done, shown
        done += amount
        if time.perf_counter() - shown > _PLAIN_EVERY_SECONDS:
            shown = time.perf_counter()
            print(line(), file=sys.stderr, flush=True)

    yield tick
    print(line(), file=sys.stderr, flush=True)


def _short(rate: float) -> str:
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if rate >= limit:
            return f"{rate / limit:.1f}{suffix}"
    return f"{rate:.1f}"
