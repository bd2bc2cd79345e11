import pytest

from cl_imitate import block_size, config, populations

SHAPES = config.Shapes(num_symbols=8, num_actions=3, num_states=8)


@pytest.mark.parametrize(
    ("num_learners", "num_devices", "expected"),
    [
        (1, 2, (1,)),
        (8, 2, (1, 4)),
        (8, 1, (1, 4, 8)),
        (256, 1, (1, 4, 16, 64, 256)),
        (100, 2, (1, 4, 16, 50)),
    ],
)
def test_sizes_leave_every_device_a_block(num_learners, num_devices, expected):
    assert block_size.candidates(num_learners, num_devices) == expected


def test_the_fastest_is_picked_and_of_nearly_equal_ones_the_smallest():
    assert block_size.pick({1: 100.0, 4: 150.0, 16: 120.0}) == 4
    assert block_size.pick({1: 100.0, 4: 103.0, 16: 80.0}) == 1


def test_every_candidate_is_measured_with_updates_made():
    experiment = config.Experiment(
        name="tiny",
        environment=config.Lock(num_positions=4, episode_steps=8),
        shapes=SHAPES,
        learner=config.Learner(hidden=(8,), batch_size=8, replay_capacity=64),
        simulation=config.Simulation(num_recorded=8, block_size=1),
    )
    rates = block_size.measure(populations.make("recorded", experiment), chunk_steps=32)
    assert set(rates) == set(block_size.candidates(8, 2))
    assert all(rate > 0 for rate in rates.values())


def test_auto_must_have_been_measured_before_learners_are_made():
    experiment = config.Experiment(
        name="tiny", environment=config.Lock(), simulation=config.Simulation(block_size="auto")
    )
    with pytest.raises(ValueError, match="simulate stage"):
        populations.make("recorded", experiment)
