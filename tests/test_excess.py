"""The excess over the floor of two runs, one less the other, from hand-made measurements of known difference."""

import csv
import dataclasses
import pathlib

import numpy as np
import pytest

from cl_imitate import compare, excess
from cl_imitate.config import Controls, Learner
from cl_imitate.evaluation import results
from tests import synthetic
from tests.test_compare import folder

SEEDS, LEARNERS, CLONES, LOOKS = 3, 24, 4, 5
FLOOR = synthetic.experiment(controls=Controls(run=("floor",)))


def measured(above: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Learners that differ much from each other in both; the imitators lie `above` their floor, which is 0.2."""
    rng = np.random.default_rng(0)
    own = rng.normal(scale=0.1, size=LEARNERS)
    noise = np.random.default_rng(seed).normal(scale=0.005, size=(SEEDS, LEARNERS))
    imitator = 0.2 + above + own + noise
    looks = np.linspace(-0.05, 0.05, LOOKS)
    clones = np.full((LEARNERS, CLONES, LOOKS), 0.2)
    return {
        "task": np.arange(LEARNERS),
        "imitator_tv": imitator[..., None] + looks,
        "imitator_nats": 2 * imitator[..., None] + looks,
        "imitator_occupancy": imitator,
        "clone_tv": clones,
        "clone_nats": 2 * clones,
        "clone_occupancy": clones[..., 0],
    }


def run(above: float, noise: int = 0, **changes) -> excess.Excess:
    return excess.of_arrays(dataclasses.replace(FLOOR, **changes), measured(above, noise))


def test_a_known_difference_is_found_in_every_unit_and_said_in_words():
    first, second = run(0.3), run(0.2, 1, learner=Learner(replay="latest"))
    found = {one.unit: one for one in excess.differences(first, second)}
    for unit, expected in (("total variation", -0.1), ("nats", -0.2), ("use of time", -0.1)):
        one = found[unit]
        assert one.is_paired
        assert one.estimate == pytest.approx(expected, abs=0.01)
        assert one.ci95[0] < expected < one.ci95[1] < 0
        assert "nearer to the floor on B than on A" in one.told("A", "B")
    back = excess.differences(second, first)[0]
    assert back.ci95[0] > 0
    assert "nearer to the floor on B than on A" in back.told("B", "A")


def test_the_floor_is_taken_off_both():
    lower = measured(0.3)
    for name in lower:
        if name != "task":
            lower[name] = lower[name] - 0.1
    same = excess.of_arrays(FLOOR, lower)
    for one in excess.differences(run(0.3, 1), same):
        assert abs(one.estimate) < 0.003
        assert "leaves open" in one.told("A", "B")


def test_learners_are_compared_in_pairs_only_where_they_are_pairs():
    first = run(0.3)
    pairs = excess.differences(first, run(0.25, 1))[0]
    for changes in ({"seed": 1}, {"training": dataclasses.replace(FLOOR.training, first_seed=5)}):
        apart = excess.differences(first, run(0.25, 1, **changes))[0]
        assert not apart.is_paired
        assert "not in pairs" in apart.told("A", "B")
        # Learners differ by 0.1: alone, each mean is known to 0.02; what they have in common is not taken off.
        assert apart.ci95[1] - apart.ci95[0] > 5 * (pairs.ci95[1] - pairs.ci95[0])
        assert apart.estimate == pytest.approx(pairs.estimate)


def test_compare_says_it_beside_the_table_and_only_of_runs_that_measured_a_floor(tmp_path, capsys):
    paths = [
        folder(tmp_path / name, name=name, controls=Controls(run=run))
        for name, run in (("hidden", ("floor",)), ("free", ("floor",)), ("neither", ()))
    ]
    for path, above in zip(paths[:2], (0.3, 0.2), strict=True):
        fingerprint = compare.load(path).verdict["fingerprint"]
        results.save_arrays(path / "controls" / "floor.npz", measured(above), fingerprint=fingerprint)
    compare.compare(paths, pathlib.Path(tmp_path / "out"))
    told = capsys.readouterr().out
    assert told.count("excess over the floor") == 3
    assert "nearer to the floor on free than on hidden" in told
    assert "nearer to the floor on free than on hidden" in (tmp_path / "out" / "index.html").read_text()
    with (tmp_path / "out" / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[1]["floor_excess_less_first.total_variation.estimate"]) == pytest.approx(-0.1)
    assert rows[0]["floor_excess_less_first.nats.low"] == rows[2]["floor_excess_less_first.nats.low"] == ""


def test_a_floor_that_was_lost_is_an_error_that_says_how_to_make_it_again(tmp_path):
    path = folder(tmp_path / "lost", controls=Controls(run=("floor",)))
    one = compare.load(path)
    with pytest.raises(ValueError, match="cl-imitate control --again"):
        excess.load(path, one.experiment, one.verdict["fingerprint"])
