"""One process's work on one stage: its clock, what saving cost, and what it went on from."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cl_imitate import circumstances, compiling, processes


class Attempt:
    """Begins when it is made.

    `put` keeps what is known of it so far, replacing what was put before; it is called at every save and at the end, so
    that of an attempt that is killed what came after its last save is not counted.
    """

    def __init__(self, stage: str, put: Callable[["Attempt"], None] = lambda _: None):
        self.stage, self.began = stage, circumstances.utc_now()
        self.continued: dict[str, Any] | None = None
        self.first_step_seconds: float | None = (
            None  # since the process's start, where it went on from something
        )
        self.share = 1.0  # of its time that is this run's, where several are computed as one
        self._put = put
        self._start, self._compiled = time.perf_counter(), compiling.seconds()
        self._saving_seconds, self._saves, self._is_saving, self._stepped = 0.0, 0, False, False

    @property
    def record(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "began": self.began,
            "seconds": self.share * (time.perf_counter() - self._start),
            "compile_seconds": self.share * (compiling.seconds() - self._compiled),
            "saves": self._saves,
            "saving_seconds": self._saving_seconds,
            "first_step_seconds": self.first_step_seconds,
        }

    def put(self) -> None:
        """Keep what is known so far."""
        self._put(self)

    @contextmanager
    def saving(self, *, saves: int) -> Iterator[None]:
        """What is done inside is time that the stage waited for a save; that it ends with so many more of them."""
        is_outermost, start = not self._is_saving, time.perf_counter()
        self._is_saving = True
        try:
            yield
        finally:
            if is_outermost:
                self._saving_seconds += time.perf_counter() - start
                self._is_saving = False
        self._saves += saves
        if is_outermost:
            self.put()

    def goes_on(self, *, part: str, step: int | None, was: dict[str, Any]) -> bool:
        """A part goes on from its save at `step`, or (None) its result is taken as it is.

        `was`: the circumstances in which that was saved. Returns whether these are the first to differ from this
        process's; such a difference is what the manifest tells, whatever else this attempt goes on from.
        """
        now = circumstances.of_this_process()
        may_differ = was != now
        before = self.continued or {"bits_may_differ": False}
        self.continued = {
            "stage": self.stage,
            "part": part,
            "step": step,
            "at": self.began,
            "was": was if may_differ or not before["bits_may_differ"] else before["was"],
            "is": now,
            "bits_may_differ": may_differ or before["bits_may_differ"],
        }
        self.put()
        return may_differ and not before["bits_may_differ"]

    def stepped(self) -> None:
        """Steps have just been done. The first time, an attempt that went on from something says how long it took."""
        if self._stepped:
            return
        self._stepped = True
        if self.continued is None:
            return
        self.first_step_seconds = circumstances.seconds_since_start()
        if not processes.is_first():
            return
        print(
            f"{self.stage} goes on: its first steps were done {self.first_step_seconds:.1f} s after the process "
            f"started ({time.process_time():.1f} s of CPU)",
            file=sys.stderr,
            flush=True,
        )
