"""A notice that the process is to end (SIGTERM, as preemptible machines send it, or Ctrl-C): save first, then go."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class InterruptedRunError(Exception):
    """The state is saved, and the process should end."""

    def __init__(self, number: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; the same command goes on (run: with --resume; without --again)"
        )
        self.exit_code = 128 + number


class Notice:
    """Set by a signal."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def noticed(notice: Notice | None = None) -> Iterator[Notice]:
    """While this holds, a first SIGTERM or SIGINT only sets the notice; a second one ends the process as ever."""
    notice = Notice() if notice is None else notice
    before = {}

    def on_signal(number, frame) -> None:
        del frame
        signal.signal(number, before[number])
        notice.number = number
        # Not `print`, which may be under way just now.
        os.write(2, b"\nstopping: the state is saved first (again to stop at once)\n")

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.getsignal(number)
        signal.signal(number, on_signal)
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
