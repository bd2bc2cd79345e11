"""The price of a step, and of a return, from hand-made curves that reach it where they are told to."""

import json
import time

import numpy as np
import pytest

from cl_imitate import compiling, cost, executed, statistics
from cl_imitate.envs import tasks
from cl_imitate.evaluation import costs
from cl_imitate.evaluation.scene import Count
from tests import synthetic

OF = synthetic.experiment()
SPEC = tasks.make(OF.environment, shapes=OF.shapes).env.spec
STEPS = synthetic.BLOCK_STEPS


def priced(learner: np.ndarray, imitator: np.ndarray, **options) -> dict:
    cell = synthetic.cell("process", {"learner": learner, "imitator": imitator}, start_step=0, noise=0.01)
    told = {"seconds_per_step": {"learner": 1e-5, "imitator": 1e-4}, **options}
    return costs.costs(OF, SPEC, [cell], **told)


def step(at: int) -> np.ndarray:
    """A curve that goes from random play to 10 with block `at`."""
    return np.where(np.arange(20) >= at, 10.0, 1.0)


def test_a_return_costs_the_steps_to_it_times_a_steps_price():
    found = priced(step(3), step(6))
    half, most = found["to_reach"]
    assert half["return"] == pytest.approx(5.5, abs=0.02)
    assert most["return"] == pytest.approx(9.1, abs=0.02)
    for one in (half, most):
        for arm, block, seconds in (("learner", 3, 1e-5), ("imitator", 6, 1e-4)):
            steps = (block + 1) * STEPS
            assert one[arm]["steps"] == steps
            assert one[arm]["ci95"] == [steps, steps]
            assert one[arm]["flops"] == pytest.approx(steps * found["a_step"][arm]["executed_flops_per_step"])
            assert one[arm]["seconds"] == pytest.approx(steps * seconds)


def test_what_is_never_reached_costs_nothing_that_could_be_named():
    half, most = priced(step(3), np.full(20, 6.0))["to_reach"]
    assert half["imitator"]["steps"] == STEPS
    assert most["imitator"] == {"steps": None, "ci95": [None, None], "flops": None, "seconds": None}
    json.dumps(half, allow_nan=False)


def test_the_steps_interval_is_wide_where_learners_differ():
    cell = synthetic.cell("process", {"learner": step(3), "imitator": step(3)}, start_step=0, noise=0.01)
    late = np.where(np.arange(24)[None, :, None] % 12 < 7, step(2), step(12))
    cell.returns["imitator"] = np.broadcast_to(late, cell.returns["imitator"].shape)
    found = costs.costs(OF, SPEC, [cell], seconds_per_step={})["to_reach"][0]["imitator"]
    low, high = found["ci95"]
    assert found["steps"] == low == 3 * STEPS
    of_24_learners = statistics.student(23, 0.95) / 1.959964 * (24 / 23) ** 0.5
    assert high == pytest.approx(3 * STEPS * (13 / 3) ** of_24_learners)
    assert found["seconds"] is None


def test_the_steps_interval_covers_imitator_seeds():
    cell = synthetic.cell("process", {"learner": step(3), "imitator": step(6)}, start_step=0, noise=0.01)
    by_seed = np.stack([step(at) for at in (5, 6, 7)])[:, None]
    cell.returns["imitator"] = np.broadcast_to(by_seed, cell.returns["imitator"].shape)
    found = costs.costs(OF, SPEC, [cell], seconds_per_step={})["to_reach"][0]
    half = statistics.seed_half_width(np.log([6.0, 7.0, 8.0]), 0.95)
    assert found["imitator"]["ci95"] == pytest.approx([7 * STEPS * np.exp(-half), 7 * STEPS * np.exp(half)])
    assert found["learner"]["ci95"] == [4 * STEPS, 4 * STEPS]
    one_never = np.stack([step(3), step(3), np.ones(20)])[:, None]
    cell.returns["imitator"] = np.broadcast_to(one_never, cell.returns["imitator"].shape)
    found = costs.costs(OF, SPEC, [cell], seconds_per_step={})["to_reach"][0]["imitator"]
    assert (found["steps"], found["ci95"]) == (4 * STEPS, [None, None])


def test_the_return_aimed_at_is_that_of_the_learners_drawn():
    cell = synthetic.cell("process", {"learner": step(3), "imitator": step(3)}, start_step=0)
    height = np.where(np.arange(24) % 2 == 0, 1.0, 9.0)[:, None]
    cell.returns["learner"] = synthetic.RANDOM + height[None] * np.linspace(0.0, 1.0, 20)
    for one in costs.costs(OF, SPEC, [cell], seconds_per_step={})["to_reach"]:
        steps = one["learner"][
            "steps"
        ]  # all learners rise alike, some higher: whoever is drawn, it takes as long
        assert one["learner"]["ci95"] == [steps, steps]


def test_an_end_beyond_what_was_run_is_open():
    cell = synthetic.cell("process", {"learner": step(3), "imitator": step(3)}, start_step=0, noise=0.01)
    late = np.where(np.arange(24)[None, :, None] % 12 < 7, step(2), step(20))
    cell.returns["imitator"] = np.broadcast_to(late, cell.returns["imitator"].shape)
    found = costs.costs(OF, SPEC, [cell], seconds_per_step={})["to_reach"][0]["imitator"]
    assert (found["steps"], found["ci95"]) == (3 * STEPS, [3 * STEPS, None])


def test_a_step_is_priced_by_the_counts_and_the_posteriors_by_its_own():
    posterior = {
        "places": {
            "lock": {"flops_per_step": {"posterior": 5.0}, "bytes": {"posterior": 7}, "num_hypotheses": 3}
        }
    }
    found = priced(step(1), step(1), posterior=posterior)["a_step"]
    acting = cost.acting(OF.imitator, SPEC, context_steps=OF.imitator.context_steps)
    assert found["imitator"]["flops_per_step"] == acting.flops_per_step
    assert found["imitator"]["bytes"] == acting.bytes
    assert found["learner"]["executed_flops_per_step"] == executed.learner_flops(OF.learner, SPEC)
    assert found["imitator"]["executed_flops_per_step"] > acting.flops_per_step
    assert found["posterior, lock"] == {
        "flops_per_step": 5.0, "bytes": 7, "seconds_per_step": None, "num_hypotheses": 3,
    }  # fmt: skip


def test_without_process_from_nothing_no_return_has_a_price():
    assert costs.costs(OF, SPEC, [synthetic.now()], seconds_per_step={})["to_reach"] == []


def test_arms_are_timed_without_their_compilation(monkeypatch):
    now, compiled, count = [100.0], [3.0], Count()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(compiling, "seconds", lambda: compiled[0])
    since = count.clock()
    now[0], compiled[0] = 110.0, 7.0
    count.time("imitator", since, 100)
    since, now[0] = count.clock(), 112.0
    count.time("imitator", since, 300)
    assert count.timed == {"imitator": (8.0, 400)}
    assert count.seconds_per_step == {"imitator": 0.02}
