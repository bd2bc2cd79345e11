"""Where and with what this process computes: what equal bits depend on besides the configuration."""

import functools
import os
import pathlib
import subprocess
import time
from importlib import metadata

import jax

import cl_imitate

_IMPORTED = time.time()


@functools.cache
def of_this_process() -> dict[str, str | int | None]:
    """The devices and the versions of the code. Where two of these differ, last bits may."""
    devices = jax.local_devices()
    return {
        "device": f"{devices[0].platform} {devices[0].device_kind}",
        "num_devices": len(devices),
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "cl_imitate": cl_imitate.__version__,
        "git_revision": git_revision(),
    }


@functools.cache
def git_revision() -> str | None:
    """The revision of the checkout that runs, with "-dirty" if it was changed; None without one."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def seconds_since_start() -> float:
    """How long this process has lived; where the system does not tell, since this module was imported."""
    try:
        ticks = int(
            pathlib.Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        )
        uptime = float(pathlib.Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time() - _IMPORTED


def utc_now() -> str:
    """The time, in UTC, to the millisecond."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
