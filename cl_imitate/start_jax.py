"""How a process of this package sets up jax, before anything else uses it."""

import inspect
import os
import pathlib

_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "cl_imitate", "jax")
_MAX_CPU_DEVICES = 8


def set_up_jax(cpu_devices: int = 0) -> None:
    """Compiled programs are kept between runs, and every core is a device (an ensemble is split over them).

    `cpu_devices`: into how many devices the cores are divided instead, if not 0.
    """
    # Errors only: that the compiler will drop a partitioner (below) helps nobody who starts a run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    if jax.__version_info__ >= (0, 11):
        # The default partitioner of jax 0.11.2 crashes the process when it meets a scatter over a whole axis inside a
        # `shard_map` over two devices, as gymnax's Space Invaders has; the one before it does not.
        jax.config.update("jax_use_shardy_partitioner", False)
    jax.config.update("jax_num_cpu_devices", cpu_devices or min(_num_cores(), _MAX_CPU_DEVICES))
    share_programs_among_cpu_devices()
    if jax.config.jax_compilation_cache_dir is None:
        try:
            _CACHE.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # a home that cannot be written to: programs are compiled anew each time
        jax.config.update("jax_compilation_cache_dir", str(_CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def share_programs_among_cpu_devices() -> None:
    """What was compiled for one CPU device is read for the others out of the cache of compiled programs.

    The key of an entry names the devices of a CPU, though not those of a GPU, so that each of 8 devices would compile
    every program for itself. No option of jax says otherwise: this changes a private function of it, the same one from
    0.10.0 to 0.11.2. Where it has another form, keys stay what they were, and only time is lost.
    """
    import jax
    from jax._src import cache_key

    name = "_hash_serialized_compile_options"
    of_options = getattr(cache_key, name, None)
    if of_options is None or "strip_device_assignment" not in inspect.signature(of_options).parameters:
        return

    def without_cpu_devices(hash_obj, compile_options, strip_device_assignment=False):
        is_cpu = jax.default_backend() == "cpu"
        return of_options(hash_obj, compile_options, strip_device_assignment or is_cpu)

    setattr(cache_key, name, without_cpu_devices)


def _num_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
