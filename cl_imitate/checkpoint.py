"""Pytrees on disk, through orbax (this is the only file that imports it)."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp


def save(path: pathlib.Path, tree: Any) -> None:
    """Write a pytree of arrays. A write that is cut short leaves no folder at `path`.

    Raises:
      FileExistsError: there is a checkpoint already; it is never overwritten.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten. Use another --run-dir.")
    ocp.save(str(path.absolute()), tree)


def load(path: pathlib.Path, like: Any) -> Any:
    """Read a pytree with the structure, shapes and types of `like` (arrays or ShapeDtypeStructs).

    Raises:
      ValueError: missing, damaged, or of other shapes.
    """
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_one_device()), like)
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
