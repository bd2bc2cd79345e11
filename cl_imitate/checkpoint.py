"""Pytrees on disk, through orbax (this is the only file that imports it).

Of a job's processes orbax lets only all together write a checkpoint. What one of them writes by itself is one npz file
of the leaves, in their order, instead.
"""

import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from cl_imitate import processes

_ALONE = "leaves.npz"
_beside = ThreadPoolExecutor(1, "write")


def save(path: pathlib.Path, tree: Any) -> None:
    """Write a pytree of arrays. A write that is cut short leaves no folder at `path`. The processes of a job call this
    together, with the same numpy arrays.

    Raises:
      FileExistsError: there is a checkpoint already; it is never overwritten.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten. Use another --run-dir.")
    ocp.save(str(path.absolute()), tree)


def save_async(path: pathlib.Path, tree: Any) -> Callable[[], None]:
    """Begin to write a pytree; what is given back waits until it is written, and raises where it was not. A process of
    a job writes what is its own.

    The arrays are copied before this returns, so they may be donated or written to afterwards. (Those of a GPU orbax
    copies to the host; those of a CPU it would only look at.)
    """
    if processes.count() > 1:
        return _beside.submit(_save_leaves, path, [np.array(x) for x in jax.tree.leaves(tree)]).result
    is_on_host = jax.default_backend() == "cpu"

    def copied(x):
        if isinstance(x, np.ndarray):
            return np.copy(x)
        return jnp.copy(x) if is_on_host else x

    return ocp.save_async(str(path.absolute()), jax.block_until_ready(jax.tree.map(copied, tree))).result


def save_alone(path: pathlib.Path, tree: Any) -> None:
    """Write a pytree of arrays that only this process of a job has."""
    _save_leaves(path, [np.asarray(x) for x in jax.tree.leaves(tree)])


def _save_leaves(path: pathlib.Path, leaves: list[np.ndarray]) -> None:
    path.mkdir(parents=True)
    temporary = path / f"{_ALONE}.tmp.npz"
    np.savez(temporary, *leaves)
    temporary.replace(path / _ALONE)


def _load_leaves(path: pathlib.Path, like: Any) -> Any:
    """Raises ValueError where a leaf is of another shape or type."""
    expected, structure = jax.tree.flatten(like)
    with np.load(path / _ALONE) as data:
        leaves = [data[f"arr_{number}"] for number in range(len(data.files))]
    if len(leaves) != len(expected):
        raise ValueError(f"{len(leaves)} leaves instead of {len(expected)}")
    # of a type that is not numpy's own (bfloat16), npz keeps the bytes
    leaves = [
        leaf.view(one.dtype) if leaf.dtype.kind == "V" else leaf
        for leaf, one in zip(leaves, expected, strict=True)
    ]
    found = [(leaf.shape, leaf.dtype) for leaf in leaves]
    if found != [(leaf.shape, leaf.dtype) for leaf in expected]:
        raise ValueError(f"other shapes or types: {found}")
    pairs = zip(leaves, expected, strict=True)
    return structure.unflatten(
        [leaf if isinstance(one, np.ndarray) else jax.device_put(leaf, _one_device()) for leaf, one in pairs]
    )


def load(path: pathlib.Path, like: Any) -> Any:
    """Read a pytree with the structure, shapes and types of `like` (arrays or ShapeDtypeStructs).

    What is a numpy array there is one here; everything else is on one device. What one process wrote by itself each
    process of a job reads when it likes; all else they read together, as orbax wants it.

    Raises:
      ValueError: missing, damaged, or of other shapes.
    """
    abstract = jax.tree.map(
        lambda x: (
            x if isinstance(x, np.ndarray) else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_one_device())
        ),
        like,
    )
    is_alone = (path / _ALONE).exists()
    if not is_alone:
        processes.exchange(f"reads {path.absolute()}")  # orbax would not wait for ever
    try:
        if is_alone:
            return _load_leaves(path, like)
        return ocp.load(str(path.absolute()), abstract)
    except Exception as error:
        raise ValueError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "It is missing, damaged or of another shape. Redo its stage with --again: simulate for learners, train "
            "for imitators."
        ) from error


def _one_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
