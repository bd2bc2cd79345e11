"""Against simulated runs, and at the sizes where a note must come and where none may."""

import dataclasses
import pathlib

import numpy as np
import pytest
import synthetic

from cl_imitate import config, load_config, statistics
from cl_imitate.evaluation import power

RULES = config.Rules()
SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"


def sized(learners: int = 64, seeds: int = 5, **changes) -> config.Experiment:
    return synthetic.experiment(
        simulation=config.Simulation(num_held_out=learners, num_held_out_train_tasks=learners),
        evaluation=dataclasses.replace(
            synthetic.experiment().evaluation, elsewhere_learners=min(learners, 32)
        ),
        **{"training": config.Training(num_seeds=seeds), "rules": RULES, **changes},
    )


def about(experiment: config.Experiment) -> dict[str, str]:
    return {line.split(" ")[0].lower(): line for line in power.notes(experiment)}


@pytest.mark.parametrize(("units", "seeds"), [(12, 3), (24, 6)])
def test_the_expected_half_width_is_that_of_simulated_runs(units, seeds):
    rng, spread = np.random.default_rng(0), power.Spread(learners=0.3, seeds=0.1)
    halves = []
    for _ in range(150):
        one = spread.learners * rng.standard_normal((1, units))
        values = one + spread.seeds * rng.standard_normal((seeds, 1))
        found = statistics.estimate(
            lambda x: x.mean((-1, -2)), values, task=np.arange(units), rng=rng, samples=300
        )
        halves.append(np.diff(found.interval())[0] / 2)
    of = power.Sizes(learners=units, tasks=units, seeds=seeds)
    assert np.sqrt(np.mean(np.square(halves))) == pytest.approx(power.half_width(of, spread, 0.95), rel=0.07)


def test_a_run_that_is_large_enough_gets_no_note():
    assert not about(sized(512, 12))
    assert set(about(sized(64, 3))) == {"month", "later", "assumed"}
    easy = config.Rules(learns_no=0.4, learns_yes=0.6, parity=0.6)  # far from a plain yes and no
    assert not about(sized(64, 3, rules=easy))


def test_too_few_learners_tasks_or_seeds_get_a_note_that_says_how_many_would_do():
    assert "now" not in about(sized(64, 3))
    assert "process" not in about(sized(64, 3))
    assert "now" in about(sized(3, 3))
    assert "1 imitator seed (which says nothing of others)" in about(sized(64, 1))["now"]
    few_tasks = config.Simulation(num_held_out=64, num_held_out_tasks=2)
    assert "2 tasks" in about(dataclasses.replace(sized(), simulation=few_tasks))["now"]
    assert "seeds would do" in about(sized(64, 3))["later"]


def test_of_one_learner_it_is_said_that_there_will_be_no_answer():
    found = about(sized(1, 3))
    assert "NOW will stay without an answer: one held-out learner says nothing of others" in found["now"]
    assert not any("inf" in line for line in found.values())


def test_a_warm_up_that_is_cut_short_is_said():
    enough = sized(512, 12, training=config.Training(num_seeds=12, num_updates=200, warmup_updates=50))
    assert not list(power.notes(enough))
    training = dataclasses.replace(enough.training, num_updates=10, warmup_updates=100)
    [note] = power.notes(dataclasses.replace(enough, training=training))
    assert note == "training.warmup_updates = 100 is cut to 2: a quarter of training.num_updates = 10."


LATER_SEEN = {"0.15 [0.06, 0.25]": 0.096, "0.12 [0.06, 0.19]": 0.063, "0.15 [-0.01, 0.31]": 0.164}
"""Half-widths of LATER's interval in three runs of the quickstart."""


def test_what_is_expected_of_the_quickstart_is_what_it_showed():
    quickstart = load_config.load(SMOKE.with_name("quickstart.toml"))
    expected = power.half_width(power.sizes(quickstart, "later"), power.SPREADS["later"], 0.95)
    assert expected == pytest.approx(np.sqrt(np.mean(np.square(list(LATER_SEEN.values())))), rel=0.1)
    assert f"±{expected:.2g}" in about(quickstart)["later"]


def test_what_would_do_is_enough_and_less_is_not():
    of, spread = power.Sizes(learners=16, tasks=16, seeds=3), power.SPREADS["later"]
    found = power.enough(of, spread, RULES, "later")
    assert found is not None
    assert power.is_enough(found, spread, RULES, "later")
    fewer = dataclasses.replace(found, learners=found.learners // 2, tasks=found.tasks // 2)
    assert not power.is_enough(dataclasses.replace(fewer, seeds=16), spread, RULES, "later")


def test_the_screens_of_one_game_are_one_task_and_its_learners_the_sample():
    game = dataclasses.replace(sized(8, 3), environment=config.MinAtar())
    assert power.sizes(game, "now") == power.Sizes(learners=8, tasks=1, seeds=3)
    assert power.sizes(game, "now").units == 8


def test_the_hash_of_the_rules_changes_with_whatever_decides_and_with_nothing_else(monkeypatch):
    plain = synthetic.experiment()
    sha = load_config.rules_sha256(plain)
    assert load_config.rules_sha256(dataclasses.replace(plain, seed=5, name="other")) == sha
    changed = dataclasses.replace(plain, rules=dataclasses.replace(plain.rules, parity=0.8))
    gate = dataclasses.replace(plain, gate=config.Gate(min_gain=0.5))
    assert len({sha, load_config.rules_sha256(changed), load_config.rules_sha256(gate)}) == 3
    assert load_config.fingerprint(changed) != load_config.fingerprint(plain)
    monkeypatch.setattr(statistics, "INTERVAL", "another")
    assert load_config.rules_sha256(plain) != sha


def test_the_verdict_carries_the_hash_of_its_rules():
    experiment = synthetic.experiment()
    assert synthetic.decide([])["rules_sha256"] == load_config.rules_sha256(experiment)


def test_registered_rules_that_were_changed_since_are_an_error_that_names_both_hashes():
    sha = load_config.rules_sha256(load_config.load(SMOKE))
    load_config.load(SMOKE, (f'rules_sha256="{sha}"',))
    with pytest.raises(ValueError, match=f"rules_sha256 = 'f00'.*{sha}"):
        load_config.load(SMOKE, ('rules_sha256="f00"',))
