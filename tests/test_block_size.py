import pathlib

import pytest

from cl_imitate import block_size, config, load_config, populations
from cl_imitate.stages.artifacts import load_history
from cl_imitate.stages.run import open_stage_run
from cl_imitate.stages.simulating import simulate_stage
from tests.ensembles import assert_same

pytestmark = pytest.mark.unoptimised

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"

SHAPES = config.Shapes(num_symbols=8, num_actions=3, num_states=8)


def tiny_population():
    experiment = config.Experiment(
        name="tiny",
        environment=config.Lock(num_positions=4, episode_steps=8),
        shapes=SHAPES,
        learner=config.Learner(hidden=(8,), batch_size=8, replay_capacity=64),
        simulation=config.Simulation(num_recorded=8, block_size=1),
    )
    return populations.make("recorded", experiment)


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


def test_off_the_cpu_one_block_a_device_is_chosen_and_nothing_measured(monkeypatch):
    monkeypatch.setattr(block_size.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(block_size, "measure", None)  # calling it would raise
    assert block_size.candidates(257, 2) == (129,)
    assert block_size.choose(tiny_population(), chunk_steps=32) == (4, {})


def test_the_fastest_is_picked_and_of_nearly_equal_ones_the_smallest():
    assert block_size.pick({1: 100.0, 4: 150.0, 16: 120.0}) == 4
    assert block_size.pick({1: 100.0, 4: 103.0, 16: 80.0}) == 1


def test_every_candidate_is_measured_with_updates_made():
    rates = block_size.measure(tiny_population(), chunk_steps=32)
    assert set(rates) == set(block_size.candidates(8, 2))
    assert all(rate > 0 for rate in rates.values())


def test_auto_must_have_been_measured_before_learners_are_made():
    experiment = config.Experiment(
        name="tiny", environment=config.Lock(), simulation=config.Simulation(block_size="auto")
    )
    with pytest.raises(ValueError, match="simulate stage"):
        populations.make("recorded", experiment)


def test_what_was_measured_is_kept_in_the_folder_and_used_by_every_stage(monkeypatch, tmp_path):
    def simulated(name, *overrides):
        experiment = load_config.load(SMOKE, overrides)
        run = open_stage_run(experiment, tmp_path / name, SMOKE.parent)
        simulate_stage(run)
        return run

    monkeypatch.setattr(block_size, "measure", lambda *_, **__: {1: 10.0, 2: 20.0})
    auto = simulated("auto", "simulation.block_size=auto")
    assert auto.folder.manifest["block_size"] == {"picked": 2, "steps_per_second": {"1": 10, "2": 20}}
    assert auto.experiment.simulation.block_size == 2
    assert auto.written.simulation.block_size == "auto"
    monkeypatch.setattr(block_size, "measure", lambda *_, **__: {1: 30.0, 2: 20.0})
    auto.folder.forget("simulate")
    simulate_stage(auto)  # begun again on a busier day: the same learners
    given = simulated("given", "simulation.block_size=2")
    spec = populations.make("recorded", given.experiment).family.env.spec
    first, second = (load_history(run, "recorded", spec) for run in (auto, given))
    assert_same(first, second)
