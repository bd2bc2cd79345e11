"""One device or eight: the same learners, and imitators that differ by the order of sums.

The programs run in processes of their own, because the number of devices is fixed when jax starts.
"""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cl_imitate import processes, sharding

ROOT = pathlib.Path(__file__).parents[1]
SHARDS = ("members", "data", "fsdp")
LOSS_TOLERANCE = 2e-5  # nats, of losses near 1.4; seen: 5e-7
PARAMETER_TOLERANCE = 2e-5  # of values near 1; seen: 7e-7, where Adam divides by a gradient that is almost 0


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[int, dict[str, np.ndarray]]:
    """By number of devices."""
    folder = tmp_path_factory.mktemp("devices")
    by_devices = {}
    for devices, shards in {1: ("members",), 2: (), 8: SHARDS}.items():
        out = folder / f"{devices}.npz"
        command = [sys.executable, "-m", "tests.on_devices", str(out), str(devices), *shards]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        with np.load(out) as arrays:
            by_devices[devices] = dict(arrays)
        assert by_devices[devices]["devices"] == devices
    return by_devices


def named(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("who", ["learners", "imitators"])
def test_blocks_have_the_same_bits_on_one_device_and_on_several(found, devices, who):
    one, several = named(found[1], f"{who} in blocks"), named(found[devices], f"{who} in blocks")
    assert one.keys() == several.keys()
    assert one
    for name, array in one.items():
        np.testing.assert_array_equal(array, several[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("shard", SHARDS)
def test_imitators_are_trained_as_on_one_device_however_they_are_split(found, shard):
    one, eight = found[1], found[8]
    for what in ("losses", "held_out"):
        np.testing.assert_allclose(
            one[f"members {what}"], eight[f"{shard} {what}"], rtol=0, atol=LOSS_TOLERANCE
        )
    for name, array in named(one, "members params").items():
        other = eight[f"{shard} params{name}"]
        np.testing.assert_allclose(array, other, rtol=0, atol=PARAMETER_TOLERANCE, err_msg=name)
    assert (
        one["members losses"][:, -1].mean() < one["members losses"][:, 0].mean()
    )  # there was something to learn


@pytest.mark.slow
def test_the_split_is_what_it_is_called(found):
    """Two members on eight devices: two alone; four for each batch; and four for each member's weights."""
    eight = found[8]
    meshes = {shard: eight[f"{shard} mesh"].tolist() for shard in SHARDS}
    assert meshes == {"members": [2, 1], "data": [2, 4], "fsdp": [2, 4]}
    collectives = {shard: str(eight[f"{shard} program"]) for shard in SHARDS}
    assert collectives == {"members": "", "data": "all-reduce", "fsdp": "all-gather all-reduce"}
    parts = {shard: eight[f"{shard} part of a member on one device"].tolist() for shard in SHARDS}
    assert parts == {"members": [1, 1], "data": [1, 1], "fsdp": [0.25, 0.25]}


def test_the_longest_side_that_can_be_split_evenly_is():
    mesh = jax.sharding.AbstractMesh((2, 4), (sharding.ENSEMBLE, sharding.DATA))
    shapes = {"matrix": (2, 8, 16), "odd": (2, 8, 6), "vector": (2, 12), "none": (2, 3), "count": (2,)}
    tree = {name: np.zeros(shape) for name, shape in shapes.items()}
    assert sharding.sharded_members(tree, mesh) == {
        "matrix": PartitionSpec("ensemble", None, "data"),
        "odd": PartitionSpec("ensemble", "data", None),
        "vector": PartitionSpec("ensemble", "data"),
        "none": PartitionSpec("ensemble", None),
        "count": PartitionSpec("ensemble"),
    }


def test_members_go_first_and_what_cannot_be_shared_evenly_by_processes_is_refused(monkeypatch):
    devices = jax.devices()
    assert len(devices) == 2
    shape = sharding.training_mesh(4, 8, splits_batches=True).shape
    assert dict(shape) == {"ensemble": 2, "data": 1}
    shape = sharding.training_mesh(3, 8, splits_batches=True).shape
    assert dict(shape) == {"ensemble": 1, "data": 2}
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(ValueError, match="3 imitators with batches of 8 occupy 1 x 1 devices"):
        sharding.training_mesh(3, 8, splits_batches=False)


@pytest.mark.parametrize("spec", [sharding.SPLIT, sharding.WHOLE])
@pytest.mark.parametrize("size", [2, 2**16])
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_what_was_placed_and_what_it_was_placed_from_outlive_each_other(spec, size):
    """On a CPU they may be the same memory."""
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    mesh = sharding.mesh_of(jax.devices())
    source = jax.device_put(np.arange(2.0 * size, dtype=np.float32).reshape(2, size), jax.devices()[0])
    kept = np.array(source)
    np.testing.assert_array_equal(add(sharding.place(source, mesh, spec)), kept + 1)
    np.testing.assert_array_equal(source, kept)
    placed = sharding.place(source, mesh, spec)
    np.testing.assert_array_equal(add(source), kept + 1)
    np.testing.assert_array_equal(placed, kept)
