"""The estimate grows with what memory grows with, and waves keep within the limit."""

import os
import tracemalloc

import jax
import numpy as np
import pytest

from cl_imitate import load_config, populations
from cl_imitate.histories import store
from cl_imitate.stages.run import chunk_steps
from cl_imitate.sweeps import memory
from tests.test_resume import SMOKE


def estimate(*overrides: str) -> memory.Estimate:
    return memory.estimate(load_config.load(SMOKE, overrides))


def waiting_bytes(num_learners: int, num_steps: int) -> int:
    """What the steps that wait for a shard take: the rows, the same in one piece, and twice that for the writing."""
    spec = populations.make("recorded", load_config.load(SMOKE)).family.env.spec
    return 4 * num_learners * num_steps * store.row_dtype(spec).itemsize


def test_steps_that_wait_for_a_whole_shard_are_counted(tmp_path):
    forks = ("fork_steps=[8192]", "now_fork_step=8192", "later_fork_step=8192")
    long = tuple(f"evaluation.{one}" for one in forks)
    experiment = load_config.load(SMOKE, long)
    most = 4096 + chunk_steps(experiment)  # a whole shard, and what came with its last step
    more = estimate(*long).simulate - estimate().simulate
    assert more == waiting_bytes(16, most) - waiting_bytes(16, 128)
    spec = populations.make("recorded", experiment).family.env.spec
    rows = np.zeros((16, 128, store.row_dtype(spec).itemsize), np.uint8)
    chunk = store.unpack(rows, store.row_dtype(spec))
    writer = store.Writer(
        tmp_path / "s",
        fingerprint="f",
        spec=spec,
        num_learners=16,
        num_steps=8192,
        learner_key_data=np.zeros((16, 2), np.uint32),
    )
    tracemalloc.start()
    for _ in range(32):
        writer.append(chunk)
    now, most = (
        tracemalloc.get_traced_memory()
    )  # of numpy's arrays; what the store's library takes is not traced
    tracemalloc.stop()
    shard = waiting_bytes(16, 4096) / 4
    assert 2 * shard <= most < 4 * shard
    assert now < shard / 2  # what is written is not kept


def test_replay_rows_and_learners_dominate_a_simulation():
    small = estimate()
    assert estimate("learner.replay_capacity=51200").simulate > 20 * small.simulate
    assert estimate("simulation.num_recorded=160").simulate == pytest.approx(10 * small.simulate, rel=0.01)
    waiting = waiting_bytes(16, 128)  # which are there for each learner; all else is for whole blocks of 16
    one_more = estimate("simulation.num_recorded=17").simulate
    assert one_more - waiting_bytes(17, 128) == pytest.approx(2 * (small.simulate - waiting), rel=0.01)


def test_an_ensemble_s_estimate_is_no_less_than_its_arrays_take():
    experiment = load_config.load(SMOKE)
    arrays = jax.tree.leaves(populations.make("recorded", experiment).newborn())
    taken = sum(array.nbytes for array in arrays)
    assert 2 * taken <= estimate().simulate < 3 * taken


def test_imitators_cost_by_width_and_context():
    small = estimate()
    assert estimate("imitator.width=64").train > 2 * small.train
    assert estimate("imitator.context_steps=128").train > 2 * small.train
    assert estimate("imitator.width=64").evaluate > 2 * small.evaluate


@pytest.mark.parametrize(("limit", "expected"), [(10**12, 7), (1050, 3), (100, 1), (0, 1)])
def test_waves_keep_within_the_limit_but_hold_one_point_at_least(limit, expected):
    estimated = memory.Estimate(simulate=350, train=10, evaluate=10)
    assert memory.num_in_a_wave(estimated, limit, 7) == expected


def test_there_is_memory_here_and_it_is_said_where_the_figure_comes_from():
    found, source = memory.limit()
    assert 2**20 < found < 2**50
    assert source.startswith("0.")


def system(root, *, free: int, limit: str, used: int, cached: int):
    """The files of a Linux system that has so many bytes free, and so many of a group's limit used."""
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {free // 1024} kB\n")
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")
    return root


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"free": 8 << 20, "limit": "max", "used": 5, "cached": 3}, 8 << 20),
        ({"free": 8 << 20, "limit": f"{6 << 20}", "used": 5 << 20, "cached": 3 << 20}, 4 << 20),
        ({"free": 8 << 20, "limit": f"{6 << 20}", "used": 7 << 20, "cached": 0}, 0),
        ({"free": 8 << 20, "limit": f"{6 << 20}", "used": 1 << 20, "cached": 2 << 20}, 6 << 20),
    ],
)
def test_a_group_s_limit_counts_without_files_that_it_could_let_go_of(tmp_path, told, expected):
    assert memory._available(system(tmp_path, **told)) == expected


def test_where_the_system_tells_less_the_figure_says_so(tmp_path, monkeypatch):
    assert memory._available(tmp_path) is None
    monkeypatch.setattr(memory, "_available", lambda: None)
    found, source = memory.limit()
    assert found == pytest.approx(0.35 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=1e-6)
    assert source == "0.35 of this machine's memory"
    monkeypatch.delattr(memory.os, "sysconf")
    found, source = memory.limit()
    assert found == 4 << 30
    assert "--memory-gib" in source
