"""Strictness, set before anything is traced: what only warns or converts elsewhere is an error in the tests."""

import functools
import os
import pathlib
from collections.abc import Iterator

# Read by jax when it is imported, and inherited by the commands that tests start.
os.environ["JAX_PLATFORMS"] = os.environ.get("CL_IMITATE_TEST_PLATFORM", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
_cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "cl_imitate", "jax")
try:
    _cache.mkdir(parents=True, exist_ok=True)
except OSError:
    pass  # a home that cannot be written to: every run compiles anew
else:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_num_cpu_devices", 2)  # so that sharding is exercised
if jax.__version_info__ >= (0, 11):
    jax.config.update("jax_use_shardy_partitioner", False)  # as `start_jax` has it

import gymnax.environments.environment as gymnax_environment  # noqa: E402  (after: it makes arrays when imported)
import hypothesis  # noqa: E402
import pytest  # noqa: E402

from cl_imitate.start_jax import share_programs_among_cpu_devices  # noqa: E402

share_programs_among_cpu_devices()

# The same examples on every machine; the first one compiles, so a deadline would mean nothing.
hypothesis.settings.register_profile("cl_imitate", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("cl_imitate")


def _with_standard_promotion(function):
    """`function` under jax's usual promotion of dtypes; rank promotion and key reuse stay checked."""

    @functools.wraps(function)
    def relaxed(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return relaxed


def _allow_promotion_inside_gymnax() -> None:
    """The games add bools to ints and multiply ints by floats. What they return is checked as ours again.

    (Where optax mixes types, our own code says so: `jax.numpy_dtype_promotion` around its update.)
    """
    classes = [gymnax_environment.Environment]
    for cls in classes:
        classes += cls.__subclasses__()
        for name in {"step", "reset", "step_env", "reset_env", "get_obs"} & vars(cls).keys():
            setattr(cls, name, _with_standard_promotion(vars(cls)[name]))


_allow_promotion_inside_gymnax()


@functools.cache
def _is_known(option: str) -> bool:
    """Whether this version of XLA has it: one that is not known ends a process that is given it in XLA_FLAGS, which
    names the same options as those of a single program."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={option: False})
    except jax.errors.JaxRuntimeError:
        return False
    return True


_SLOW_TO_COMPILE = "xla_cpu_use_fusion_emitters"
"""How XLA makes a CPU's fused loops by default. Without, all stages of the smoke run compile in 19 s instead of 48."""


def _leave_out_fusion_emitters(patch: pytest.MonkeyPatch) -> None:
    """In this process, and in the commands that are started from it.

    XLA reads its flags once in a process, and jax's options of one program cannot be given to all: this wraps a
    private function of jax. Where it is another one, only time is lost.
    """
    if jax.default_backend() != "cpu" or not _is_known(_SLOW_TO_COMPILE):
        return
    patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --{_SLOW_TO_COMPILE}=false".strip())
    try:
        from jax._src import compiler

        of_jax = compiler.get_compile_options
    except (ImportError, AttributeError):
        return

    def without(*args, **kwargs):
        options = of_jax(*args, **kwargs)
        if hasattr(options, "env_option_overrides"):
            options.env_option_overrides = [*options.env_option_overrides, (_SLOW_TO_COMPILE, False)]
        return options

    patch.setattr(compiler, "get_compile_options", without)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """How a file's programs are compiled, those of the commands that its tests start too; afterwards they are let go.

    A CPU's program keeps some tens of memory maps, and a worker that keeps all programs comes near Linux's limit of
    65,530 (vm.max_map_count: 53,179 were counted), behind which the next program crashes the process.
    """
    is_marked = request.node.get_closest_marker("unoptimised") is not None
    is_quick = is_marked and not os.environ.get("CL_IMITATE_TEST_OPTIMISED")
    jax.config.update("jax_disable_most_optimizations", is_quick)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(is_quick)))
        if is_quick:
            _leave_out_fusion_emitters(patch)
        yield
    jax.clear_caches()


_LONGEST = (
    "resume",
    "pipeline",
    "imitators",
    "calibration",
    "sweeps",
    "processes",
    "posterior_arms",
    "sharding",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run only where CL_IMITATE_TEST_PLATFORM names an accelerator. The files whose tests take
    longest come first, so that no worker is left with one of them alone in the end."""
    first = {f"test_{name}.py": place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))
    if os.environ["JAX_PLATFORMS"] == "cpu":
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(
                    pytest.mark.skip(reason="needs an accelerator: CL_IMITATE_TEST_PLATFORM=cuda")
                )
