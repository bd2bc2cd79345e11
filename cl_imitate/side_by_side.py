"""Several pieces of long work at a time, in threads of one process."""

import queue
import sys
import threading
from collections.abc import Callable, Mapping

from cl_imitate.interruption import InterruptedRunError


def side_by_side(work: Mapping[str, Callable[[], None]], *, at_once: int) -> None:
    """Do all of `work`, named pieces, begun in their order; at most `at_once` of them at a time.

    With one at a time they are done in the caller's thread. Threads do not know of a caller's
    `with jax.default_matmul_precision` and the like.

    Raises:
      What the first piece to fail raises, but a failure rather than a notice to stop. After it nothing more is begun,
      and what is under way is done first.
    """
    if min(at_once, len(work)) < 2:
        for one in work.values():
            one()
        return
    waiting, done, failed = list(work), queue.SimpleQueue[tuple[str, BaseException | None]](), []

    def do(name: str) -> None:
        error = None
        try:
            work[name]()
        except BaseException as raised:
            error = raised
        done.put((name, error))

    under_way: set[str] = set()
    while under_way or (waiting and not failed):
        while waiting and len(under_way) < at_once and not failed:
            under_way.add(name := waiting.pop(0))
            # A daemon: a process that is told to end at once does not wait for it.
            threading.Thread(target=do, args=(name,), name=name, daemon=True).start()
        name, error = done.get()
        under_way.remove(name)
        if error is not None:
            failed.append(error)
            if under_way and not isinstance(error, InterruptedRunError):
                print(
                    f"{name} failed ({type(error).__name__}); what is under way is done first: "
                    f"{', '.join(sorted(under_way))}",
                    file=sys.stderr,
                    flush=True,
                )
    failed.sort(key=lambda error: isinstance(error, InterruptedRunError))
    if failed:
        raise failed[0]
