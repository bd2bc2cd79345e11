"""The processes of a job: one on each machine, or several on one. A process by itself is a job of one.

They share the run's folder, in which each writes what it made. What they must agree on are words in the store that
`jax.distributed` keeps beside its first process: no device waits for them, and a process that waits learns when
another one is told to stop, or ends. So nobody waits for ever (a process that is killed is missed after
`HEARTBEAT_SECONDS`, and jax then ends the others).
"""

import contextlib
import itertools
import json
import math
import os
import sys
import time
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from cl_imitate.interruption import InterruptedRunError, Notice

HEARTBEAT_SECONDS = 60
_LOOK_EVERY_SECONDS = 1.0
_WAIT_FOR_LEAVING_SECONDS = 60.0
_ROOM = "cl_imitate"

_numbers = itertools.count()
_notices: list["SharedNotice"] = []


class OtherProcessEndedError(Exception):
    """Another process of this job has ended before its time, and said why itself."""


def begin(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Make this process one of a job, before jax looks for devices. What is None is asked of the cluster (Slurm,
    Open MPI, TPU pods: see `jax.distributed.initialize`).

    Raises:
      ValueError: the cluster does not tell, or the others were not there in time.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `interruption`
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes of this job did not find each other ({str(error).splitlines()[0]}). Give all of them the "
            "same --coordinator HOST:PORT and --num-processes, and each its own --process-id from 0 on; or start them "
            "with srun."
        ) from error


def count() -> int:
    """How many processes the job has."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this is, from 0 on."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this one writes what there is one of: the manifest, the verdict, lines on the terminal."""
    return index() == 0


def share(num: int, process: int | None = None) -> range:
    """Which of `num` things in a row this process (or another one) does; the first process is never without."""
    which = index() if process is None else process
    return range(-(-which * num // count()), -(-(which + 1) * num // count()))


# ---- words


def exchange(what: str, value: Any = None) -> list[Any]:
    """Every process's value (plain JSON), in their order. All of them wait here for the last one.

    Raises:
      InterruptedRunError, OtherProcessEndedError: another one will not come.
      ValueError: another one is somewhere else in the program.
    """
    if count() == 1:
        return [value]
    client, number = _client(), next(_numbers)
    client.key_value_set(f"{_ROOM}/{number}/{index()}", json.dumps([what, value]))
    if is_first():
        told = [json.loads(_wait_for(f"{_ROOM}/{number}/{process}")) for process in range(count())]
        client.key_value_set(f"{_ROOM}/{number}/all", json.dumps(told))
        if number > 1:
            client.key_value_delete(f"{_ROOM}/{number - 2}/")  # everybody has read these
    else:
        told = json.loads(_wait_for(f"{_ROOM}/{number}/all"))
    if len({name for name, _ in told}) > 1:
        raise ValueError(f"the processes of this job have parted: they are at {[name for name, _ in told]}")
    return [one for _, one in told]


def check_equal(what: str, value: str) -> None:
    """Raises ValueError where the processes were told different things."""
    told = exchange(what, value)
    if len(set(told)) > 1:
        raise ValueError(
            f"the processes of this job were given different {what}s: {', '.join(sorted(set(told)))}. Give all the "
            "same; for runs that have nothing to do with each other, add --distributed off."
        )


def _wait_for(key: str) -> str:
    while True:
        try:
            return _client().blocking_key_value_get(key, int(1000 * _LOOK_EVERY_SECONDS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            for notice in _notices:
                notice.tell()
            _look_for_the_end()


def _found(key: str) -> str | None:
    try:
        return _client().key_value_try_get(f"{_ROOM}/{key}")
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise


def _look_for_the_end() -> None:
    if (ended := _found("ended")) is None:
        return
    if (number := _found("stop")) is not None:
        raise InterruptedRunError(int(number))
    raise OtherProcessEndedError(f"process {ended} of this job has ended: see what it says")


def _client() -> Any:
    from jax._src import distributed  # the store of words has no public name yet

    return distributed.global_state.client


# ---- rows


def gather_rows(tree: Any) -> Any:
    """Arrays [n of this process, ...] on the host -> [all of them, ...] in the order of processes, on every host.

    It goes over the devices, so all processes must come by in the same order.
    """
    if count() == 1:
        return tree
    nums = exchange("rows", len(jax.tree.leaves(tree)[0]))

    def whole(leaf: np.ndarray) -> np.ndarray:
        padded = np.zeros((max(nums), *leaf.shape[1:]), leaf.dtype)
        padded[: len(leaf)] = leaf
        parts = multihost_utils.process_allgather(padded)
        return np.concatenate([np.asarray(part[:num]) for part, num in zip(parts, nums, strict=True)])

    return jax.tree.map(whole, tree)


# ---- ends


class SharedNotice(Notice):
    """A signal to one process is a notice to all; and so is the end of another one, as an error."""

    def __init__(self) -> None:
        super().__init__()
        self._looked, self._told = 0.0, False

    def __bool__(self) -> bool:
        if self.number is None and time.monotonic() - self._looked >= _LOOK_EVERY_SECONDS:
            self._looked = time.monotonic()
            if (number := _found("stop")) is not None:
                self.number = int(number)
            else:
                _look_for_the_end()
        self.tell()
        return self.number is not None

    def tell(self) -> None:
        """Let the others know of a signal, if there was one; one that waits for them does so too."""
        if self.number is not None and not self._told:
            self._told = True
            _client().key_value_set(f"{_ROOM}/stop", str(self.number), allow_overwrite=True)


def make_notice() -> Notice:
    """What a run asks whether it is to stop."""
    if count() == 1:
        return Notice()
    _notices.append(SharedNotice())
    return _notices[-1]


def leave(code: int, *, saved: bool = False) -> NoReturn:
    """End this process and let the others know; of a job of one, only the former.

    With `saved`, after a notice, all of them leave together, however long the last one's save takes: jax ends the
    others a minute after one is gone, and a launcher may do so at once. Else nobody is waited for, but by the first
    process, on which the store of words hangs, for a while. (Not by way of jax's own farewell, which always waits.)
    """
    if count() == 1:
        sys.exit(code)
    client = _client()
    client.key_value_set(f"{_ROOM}/ended", str(index()), allow_overwrite=True)
    client.key_value_set(f"{_ROOM}/left/{index()}", "")
    if saved or is_first():
        until = math.inf if saved else time.monotonic() + _WAIT_FOR_LEAVING_SECONDS
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first one, and the store with it, is gone
            while len(client.key_value_dir_get(f"{_ROOM}/left/")) < count() and time.monotonic() < until:
                time.sleep(0.05)
    if saved and is_first():
        time.sleep(
            _LOOK_EVERY_SECONDS
        )  # or the store of words is gone before the others have read that all are there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
