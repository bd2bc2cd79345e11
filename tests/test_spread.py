"""One run's imitators over a mesh, in one process of two devices: what they learn is what they learn by member."""

import dataclasses

import numpy as np
import pytest

from cl_imitate import config, spread, train
from tests.ensembles import assert_same
from tests.on_devices import trainee
from tests.test_sharding import LOSS_TOLERANCE
from tests.test_train import imitator

pytestmark = pytest.mark.unoptimised

TRAINING = config.Training(
    num_updates=6,
    batch_size=8,
    learning_rate=1e-3,
    warmup_updates=2,
    evaluate_every_updates=3,
    evaluate_windows=16,
)


def losses(fitting) -> dict[str, np.ndarray]:
    measured = [one.progress[0] for one in fitting]
    assert [one.update for one in measured] == [3, 6]
    return {
        "train": np.concatenate([one.train_loss for one in measured], axis=1),
        "held out": np.stack([one.held_out_loss for one in measured], axis=1),
    }


def by_member(training: config.Training, num_members: int = 2):
    return train.fit_together([trainee(training, num_members)], imitator=imitator(), context_steps=16)


@pytest.mark.parametrize(("shard", "num_members"), [("members", 2), ("data", 3), ("fsdp", 3)])
def test_imitators_are_trained_as_by_member(shard, num_members):
    """Three leave the second device to their batches."""
    training = dataclasses.replace(TRAINING, shard=shard)
    found = losses(spread.fit(trainee(training, num_members), imitator=imitator(), context_steps=16))
    for what, expected in losses(by_member(TRAINING, num_members)).items():
        assert found[what].shape == expected.shape
        np.testing.assert_allclose(found[what], expected, rtol=0, atol=LOSS_TOLERANCE, err_msg=what)


def test_runs_side_by_side_are_trained_by_member_whatever_is_asked_for_one():
    asked = dataclasses.replace(TRAINING, shard="fsdp")
    assert_same(losses(by_member(asked)), losses(by_member(TRAINING)))


def test_it_is_asked_for_by_the_config_or_by_being_one_of_several_processes(monkeypatch):
    assert not spread.is_asked_for(TRAINING)
    assert spread.is_asked_for(dataclasses.replace(TRAINING, shard="data"))
    monkeypatch.setattr(spread.processes, "count", lambda: 2)
    assert spread.is_asked_for(TRAINING)


def test_blocks_that_these_devices_do_not_make_are_refused():
    for size in (0, 2):
        mesh = spread.make_mesh(4, dataclasses.replace(TRAINING, block_size=size))
        assert dict(mesh.shape) == {"ensemble": 2, "data": 1}
    with pytest.raises(ValueError, match=r"training.block_size = 1: .* of 2 of 4 imitators. Use 2, or 0."):
        spread.make_mesh(4, dataclasses.replace(TRAINING, block_size=1))
