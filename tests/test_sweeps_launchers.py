"""The same sweep in this process, on Slurm's local stand-in, and on Ray: the same table."""

import subprocess
import sys

import pyarrow.parquet
import pytest

from cl_imitate.interruption import Notice
from cl_imitate.sweeps import launchers, memory
from cl_imitate.sweeps.folder import SweepDir
from cl_imitate.sweeps.job import Job
from cl_imitate.sweeps.sweep import run_sweep
from tests.test_sweeps import ROOT, request

pytestmark = pytest.mark.unoptimised

AXES = '[sweep.axes]\n"learner.learning_rate" = [1e30, 1e29]\n'  # short lives: they diverge


def rows(sweep: SweepDir) -> list[dict]:
    return pyarrow.parquet.read_table(sweep.path / "table.parquet").to_pylist()


def check(tmp_path, *launcher: str) -> SweepDir:
    """In processes of their own: Ray forks, which jax warns of."""
    for name, options in (("here", ()), ("there", ("--launcher", *launcher))):
        asked = request(tmp_path / name, AXES)
        sets = [part for override in asked.overrides for part in ("--set", override)]
        command = [sys.executable, "-m", "cl_imitate", "sweep", str(asked.config), *sets, *options]
        command += ["--run-dir", str(asked.folder), "--memory-gib", "0.00001"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr  # a point has no verdict
    there = SweepDir(tmp_path / "there" / "sweep")
    assert [row["state"] for row in rows(there)] == ["diverged", "diverged"]
    assert rows(there) == rows(SweepDir(tmp_path / "here" / "sweep"))
    return there


@pytest.mark.slow
def test_on_slurm_s_local_executor_each_wave_is_a_job_and_the_table_is_the_same(tmp_path):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    sweep = check(tmp_path, "slurm", "--launcher-set", "cluster=local")
    assert len(list((sweep.path / "jobs").rglob("*_submitted.pkl"))) == 2


@pytest.mark.slow
def test_on_ray_each_wave_is_a_task_and_the_table_is_the_same(tmp_path):
    pytest.importorskip("ray", reason="the extra ray is not installed")
    check(tmp_path, "ray", "--launcher-set", "num_cpus=1")


def fake_job(tmp_path) -> Job:
    sweep = SweepDir(tmp_path)
    for name in ("lost", "whole"):
        (tmp_path / "states").mkdir(exist_ok=True)
        sweep.tell(name, state="running" if name == "lost" else "diverged", stage="train")
    return Job(sweep=tmp_path, names=("lost", "whole"))


def test_a_job_that_dies_without_a_word_is_told_of(tmp_path):
    job = fake_job(tmp_path)

    def result(_):
        raise RuntimeError("Job 7 was killed\nout of memory")

    launchers._wait([job], ["seven"], lambda _: True, result, lambda: None, Notice())
    sweep = SweepDir(tmp_path)
    assert sweep.state("lost")["state"] == "failed"
    assert sweep.state("lost")["error"] == "its job ended: RuntimeError: out of memory"
    assert sweep.state("whole")["state"] == "diverged"


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_a_launcher_whose_package_is_missing_says_how_to_get_it(tmp_path, monkeypatch, name):
    import builtins

    real = builtins.__import__

    def without(module, *rest, **more):
        if module in ("submitit", "ray"):
            raise ImportError(f"no {module}")
        return real(module, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=rf"pip install 'cl-imitate\[{name}\]'"):
        launchers.LAUNCHERS[name]([fake_job(tmp_path)], {}, Notice())


@pytest.mark.parametrize(
    ("num_maps", "released_after"),
    [(10, ["b", "c"]), (40_000, ["a", "b", "c", "d"])],
    ids=["few maps", "many"],
)
def test_programs_are_let_go_of_between_groups_and_where_they_take_too_many_maps(
    monkeypatch, tmp_path, num_maps, released_after
):
    ran, released = [], []
    monkeypatch.setattr(launchers, "run_job", lambda job, notice: ran.append(job.names[0]))
    monkeypatch.setattr(launchers, "_num_maps", lambda: num_maps)
    monkeypatch.setattr(launchers.compiling, "release_programs", lambda: released.append(ran[-1]))
    groups = {"a": 1, "b": 1, "c": 2, "d": 3}
    jobs = [Job(sweep=tmp_path, names=(name,), group=group) for name, group in groups.items()]
    launchers.local(jobs, {}, Notice())
    assert ran == list(groups)
    assert released == released_after


def test_the_waves_of_points_of_equal_shapes_are_one_group(tmp_path, monkeypatch):
    started = []
    monkeypatch.setitem(launchers.LAUNCHERS, "local", lambda jobs, *_: started.extend(jobs))
    much = memory.Estimate(simulate=1 << 40, train=1, evaluate=1)
    monkeypatch.setattr(memory, "estimate", lambda experiment: much)
    asked = request(tmp_path, '[sweep.axes]\n"training.num_seeds" = [1, 2]\nseed = [0, 1]\n', memory_gib=1.0)
    run_sweep(asked, Notice())
    assert [(job.names, job.group) for job in started] == [
        ((f"num_seeds={seeds},seed={seed}",), seeds) for seeds in (1, 2) for seed in (0, 1)
    ]


def test_the_local_launcher_has_no_options(tmp_path):
    with pytest.raises(ValueError, match="the local launcher has no options, but got timeout_min"):
        launchers.local([fake_job(tmp_path)], {"timeout_min": 5}, Notice())
