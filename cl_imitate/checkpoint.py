"""Pytrees on disk, through orbax (this is the only file that imports it)."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp


def save(path: pathlib.Path, tree: Any) -> None:
    """Write a pytree of arrays. A write that is cut short leaves no folder at `path`.

    Raises:
      FileExistsError: there is a checkpoint already; it is never overwritten.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten. Use another --run-dir.")
    ocp.save(str(path.absolute()), tree)


def save_async(path: pathlib.Path, tree: Any) -> Callable[[], None]:
    """Begin to write a pytree; what is given back waits until it is written, and raises where it was not.

    The arrays are copied before this returns, so they may be donated or written to afterwards. (Those of a GPU orbax
    copies to the host; those of a CPU it would only look at.)
    """
    is_on_host = jax.default_backend() == "cpu"

    def copied(x):
        if isinstance(x, np.ndarray):
            return np.copy(x)
        return jnp.copy(x) if is_on_host else x

    return ocp.save_async(str(path.absolute()), jax.block_until_ready(jax.tree.map(copied, tree))).result


def load(path: pathlib.Path, like: Any) -> Any:
    """Read a pytree with the structure, shapes and types of `like` (arrays or ShapeDtypeStructs).

    What is a numpy array there is one here; everything else is on one device.

    Raises:
      ValueError: missing, damaged, or of other shapes.
    """
    abstract = jax.tree.map(
        lambda x: (
            x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_one_device())
        ),
        like,
    )
    try:
        return ocp.load(str(path.absolute()), abstract)
    except Exception as error:
        raise ValueError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "It is missing, damaged or of another shape. Redo its stage with --again: simulate for learners, train "
            "for imitators."
        ) from error


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
