"""Where jobs run: in this process, on a Slurm cluster, or on Ray. All meet in the sweep's folder, and only there.

The folder, and the package, must be reachable under the same path from wherever jobs run.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cl_imitate import compiling
from cl_imitate.interruption import InterruptedRunError, Notice
from cl_imitate.start_jax import set_up_jax
from cl_imitate.sweeps.folder import SweepDir
from cl_imitate.sweeps.job import Job, run_job, wait_until

Launcher = Callable[[Sequence[Job], Mapping[str, Any], Notice], None]
"""(jobs, options, notice to stop): runs them all; when it comes back every point has ended, one way or another."""

_MAX_MAPS = 32_000  # of the 65,530 that Linux grants a process


def local(jobs: Sequence[Job], options: Mapping[str, Any], notice: Notice) -> None:
    """One job after the other, in this process. Between groups, what was compiled is let go of: the next one would
    use little of it, and a sweep of many groups would grow by it all along."""
    if options:
        raise ValueError(f"the local launcher has no options, but got {', '.join(options)}")
    for job, following in zip(jobs, [*jobs[1:], None], strict=True):
        run_job(job, notice)
        is_other = following is not None and following.group != job.group
        if is_other or _num_maps() > _MAX_MAPS:  # past the limit the next program would crash the process
            compiling.release_programs()


def slurm(jobs: Sequence[Job], options: Mapping[str, Any], notice: Notice) -> None:
    """A Slurm job each, through submitit. Options are those of `AutoExecutor.update_parameters`, and `cluster`
    ("local": processes on this machine, "debug": in this one)."""
    submitit = _extra("submitit", "slurm")
    options = dict(options)
    executor = submitit.AutoExecutor(folder=str(_logs(jobs) / "%j"), cluster=options.pop("cluster", None))
    defaults = {"name": "cl-imitate", "timeout_min": 24 * 60}
    executor.update_parameters(**{**defaults, **options})
    started = [executor.submit(_run_elsewhere, job) for job in jobs]
    print(f"submitted {len(started)} jobs: {', '.join(job.job_id for job in started)}", flush=True)

    def cancel() -> None:
        for one in started:
            one.cancel(check=False)

    _wait(jobs, started, lambda one: one.done(), lambda one: one.result(), cancel, notice)


def ray(jobs: Sequence[Job], options: Mapping[str, Any], notice: Notice) -> None:
    """A Ray task each. Options are those of a task (`num_cpus`, `num_gpus`, `resources`, ...), and `address` (default:
    a cluster that runs on this machine, or else one that is started here and ends with this process)."""
    ray = _extra("ray", "ray")
    options = dict(options)
    is_own = not ray.is_initialized()
    if is_own:
        address = options.pop("address", None)
        ray.init(**({"address": address} if address else {}), log_to_driver=False)
    # A task stands for a process of its own: compiled programs and devices are not shared between jobs.
    task = ray.remote(**{"max_calls": 1, "max_retries": 0, "num_cpus": 1, **options})(_run_elsewhere)
    started = [task.remote(job) for job in jobs]

    def is_done(one) -> bool:
        return bool(ray.wait([one], timeout=0)[0])

    def cancel() -> None:
        for one in started:
            ray.cancel(one)

    try:
        _wait(jobs, started, is_done, ray.get, cancel, notice)
    finally:
        if is_own:
            ray.shutdown()


LAUNCHERS: dict[str, Launcher] = {"local": local, "slurm": slurm, "ray": ray}


def _run_elsewhere(job: Job) -> None:
    """A job in a process that was started for it."""
    set_up_jax()
    run_job(job)


def _wait(
    jobs: Sequence[Job],
    started: Sequence[Any],
    is_done: Callable[[Any], bool],
    result: Callable[[Any], Any],
    cancel: Callable[[], None],
    notice: Notice,
) -> None:
    """Until all have ended. What a job says nothing of itself (it was killed, its machine died) is said for it."""
    if not wait_until(lambda: all(is_done(one) for one in started), notice):
        cancel()
        assert notice.number is not None
        raise InterruptedRunError(notice.number)
    for job, one in zip(jobs, started, strict=True):
        try:
            result(one)
        except Exception as error:
            sweep = SweepDir(job.sweep)
            last = (str(error).strip().splitlines() or [""])[-1]
            for name in job.names:
                if sweep.state(name)["state"] not in ("done", "diverged", "failed"):
                    sweep.tell(name, state="failed", error=f"its job ended: {type(error).__name__}: {last}")


def _extra(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise ValueError(
            f"--launcher {extra} needs the package {module}, which is not here ({error}). Install it: "
            f"pip install 'cl-imitate[{extra}]'"
        ) from error


def _logs(jobs: Sequence[Job]) -> pathlib.Path:
    return jobs[0].sweep / "jobs"


def _num_maps() -> int:
    """The memory maps of this process, of which a CPU's program keeps some tens."""
    try:
        return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # other systems have no such file, and no such limit
        return 0
