import dataclasses
import pathlib
import re
import textwrap

import pytest

from cl_imitate import config, load_config
from cl_imitate.sweeps import axes

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def write(folder, text, name="c.toml"):
    path = folder / name
    path.write_text(text)
    return path


MINIMAL = 'name = "x"\n[environment]\nfamily = "lock"\n'


RUNS = [path for path in sorted(CONFIGS.glob("*.toml")) if "[sweep]" not in path.read_text()]


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_config_loads_and_dumps_to_itself(path, tmp_path):
    experiment = load_config.load(path)
    assert experiment.name == path.stem
    assert path.read_text().splitlines()[0] == f"# cl-imitate run configs/{path.name}"
    again = load_config.load(write(tmp_path, load_config.dump(experiment)))
    assert again == experiment
    assert load_config.fingerprint(again) == load_config.fingerprint(experiment)


def test_any_field_changes_the_fingerprint(tmp_path):
    path = write(tmp_path, MINIMAL)
    overrides = (
        "seed=1",
        "rules.parity=0.8",
        "training.num_updates=7",
        "environment.num_positions=9",
        "name=y",
    )
    prints = {load_config.fingerprint(load_config.load(path, (one,))) for one in overrides}
    assert len(prints | {load_config.fingerprint(load_config.load(path))}) == len(overrides) + 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.num_update=3", "unknown key training.num_update (did you mean num_updates?)"),
        ("trianing.num_updates=3", "unknown key trianing (did you mean training?)"),
        ("environment.num_position=3", "unknown key environment.num_position (did you mean num_positions?)"),
        ("name=''", "name = '' is not the name of one folder"),
        ("name=..", "name = '..' is not the name of one folder"),
        ("name=.", "name = '.' is not the name of one folder"),
        ("name=a/b", "name = 'a/b' is not the name of one folder"),
        ("name=a\\\\b", "is not the name of one folder"),
        ("training.num_updates=many", "training.num_updates = 'many'"),
        ("training.num_updates=0", "training.num_updates = 0"),
        ("learner.discount=1.5", "learner.discount = 1.5"),
        ("learner.loss=cubic", "learner.loss = 'cubic'"),
        ("environment.family=pong", "environment"),
        (
            "environment={family='cart_pole',max_steps=9}",
            "unknown key environment.max_steps (did you mean max_episode_steps?)",
        ),
        ("environment={family='cart_pole',max_episode_steps=0}", "environment.max_episode_steps = 0: input"),
        (
            "evaluation.rungs=[{rung='4',name='a',environment={family='cart_pole',length=9}}]",
            "unknown key evaluation.rungs.0.environment.length (known keys here: family, max_episode_steps)",
        ),
        ("simulation.block_size=atuo", "block_size = 'atuo': input should be a whole number, or 'auto'"),
        ("simulation.block_size=0", "simulation.block_size = 0: input should be greater than 0, or 'auto'"),
        ("controls.run=['shams']", "controls.run.0 = 'shams'"),
        ("controls={run=['stalled'],stall_step=7}", "controls.stall_step = 7 is no stage and no fork"),
        ("evaluation.now_fork_step=3", "evaluation.now_fork_step = 3 is not among evaluation.fork_steps"),
        ("evaluation.block_steps=37", "is not a multiple of evaluation.block_steps = 37"),
        ("imitator.width=63", "imitator.width = 63"),
        ("imitator.refill_steps=500", "imitator.refill_steps = 500"),
        ("imitator.attention_steps=129", "attention_steps = 129 is above the shortest context, 128"),
        (
            "imitator.attention_steps=33&imitator.also_context_steps=[32]",
            "imitator.attention_steps = 33 is above the shortest context, 32",
        ),
        ("evaluation.stage_steps=[700]", "evaluation.stage_steps holds 700"),
        ("evaluation.months=[{start_step=600,later_steps=80}]", "is past the last fork"),
        ("evaluation.rungs=[{rung='2',name='a',variant=['mirror']}]", "(did you mean variants?)"),
        ("learner.replay_capacity=8", "learner.replay_capacity = 8"),
        ("evaluation.stage_steps=[0,0]", "evaluation.stage_steps repeats a step"),
        ("evaluation.stage_steps=[8]", "evaluation.stage_steps holds 8"),
        (
            "evaluation.fork_steps=[640,320]",
            "fork_steps = [640, 320] is not in ascending order. Write it so: [320, 640]",
        ),
        (
            "evaluation.stage_steps=[32,0]",
            "stage_steps = [32, 0] is not in ascending order. Write it so: [0, 32]",
        ),
        (
            "rules.bootstrap_samples=49",
            "rules.bootstrap_samples = 49: input should be greater than or equal to 50",
        ),
        ("training.checkpoint_rule=best_validation", "needs training.num_validation above 0"),
        ("seed", "write it as key=value"),
        ("name.x=3", "name is not a table"),
        ("seed=true", "seed = True"),
        ("seed=4294967296", "seed = 4294967296: input should be less than 4294967296"),
        ("seed=9223372036854775808", "seed = 9223372036854775808"),
        ("training.first_seed=4294967296", "training.first_seed = 4294967296"),
        (
            "training.first_seed=4294967294&training.num_seeds=3",
            "training.first_seed = 4294967294 + training.num_seeds = 3 is above 4294967296",
        ),
        ("environment.resets=yes", "environment.resets = 'yes'"),
        ("imitator.dropout=1.0", "imitator.dropout = 1.0"),
        ("evaluation.block_steps=8", "evaluation.block_steps = 8 is shorter than an episode"),
        ("evaluation.stage_steps=[64]", "lacks 0, and the gate is this run's own PROCESS"),
        ("simulation.num_tasks=257", "simulation.num_tasks = 257 is above the number of recorded learners"),
        ("environment={family='minatar'}&training.keep_every_episodes=2", "needs episodes of a fixed length"),
        ("environment={family='minatar'}&training.skip_ahead=0.5", "needs episodes of a fixed length"),
        ("training.skip_ahead=0.5&training.start_every_steps=8", "leaves out whole episodes"),
        (
            "training.skip_ahead=0.5&training.start_every_steps=16&imitator.context_steps=16",
            "needs a context of two times",
        ),
        (
            "training.skip_ahead=0.5&training.start_every_steps=16&imitator.reads_age=false&evaluation.months=[]",
            "no age is told",
        ),
        (
            "training.keep_every_episodes=2&evaluation.months=[{start_step=32,later_steps=32}]",
            "an age is not an age lived",
        ),
        (
            "imitator.reads_age=false&evaluation.months=[{start_step=32,later_steps=32}]",
            "which imitator.reads_age = false hides",
        ),
        ("evaluation.rungs=[{rung='0',name='a'}]", "evaluation.rungs[0] (a): rung = '0', but"),
        ("evaluation.rungs=[{rung='1',name='a',split='train'}]", "is rung 0"),
        ("evaluation.rungs=[{rung='2b',name='a',variants=['new_symbols']}]", "or call it 2"),
        ("evaluation.rungs=[{rung='4',name='a',variants=['mirror']}]", "name another environment"),
        ("evaluation.rungs=[{rung='4',name='a',environment={family='lock',num_positions=4}}]", "its family"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, override, message):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_config.load(path, tuple(override.split("&")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [0, 32])
def test_a_layer_may_attend_to_all_of_the_shortest_context(tmp_path, steps):
    changes = (f"imitator.attention_steps={steps}", "imitator.also_context_steps=[32]")
    assert load_config.load(write(tmp_path, MINIMAL), changes).imitator.attention_steps == steps


def test_the_rung_of_a_new_meaning_depends_on_what_the_imitator_was_trained_on(tmp_path):
    path = write(tmp_path, MINIMAL + 'symbols = "per_task"\n')
    rung = "evaluation.rungs=[{{rung='{}',name='a',variants=['new_symbols']}}]"
    assert load_config.load(path, (rung.format("2b"),)).evaluation.rungs[0].rung == "2b"
    with pytest.raises(ValueError, match="call it 2b"):
        load_config.load(path, (rung.format("2"),))


def test_a_stall_that_ends_with_the_recording_and_a_ring_that_does_not_grow_in_any_life_are_allowed():
    stalled = load_config.load(
        CONFIGS / "smoke.toml", ("controls.run=['stalled']", "imitator.context_steps=64")
    )
    assert stalled.controls.run == ("stalled",)
    slow = ("environment.grow_every_steps=600", "environment.initial_positions=1")
    assert load_config.load(CONFIGS / "smoke.toml", ("controls.run=['pace']", *slow)).controls.run == (
        "pace",
    )


def test_files_that_are_missing_or_not_toml_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.toml: cannot be read"):
        load_config.load(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match="not valid TOML"):
        load_config.load(write(tmp_path, "name = "))
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "café"'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.toml: not UTF-8.*Save it as UTF-8"):
        load_config.load(path)
    with pytest.raises(ValueError, match="the key environment is missing"):
        load_config.load(write(tmp_path, 'name = "x"\n'))


def test_a_base_is_looked_for_beside_the_file_and_then_among_the_package_s_configs(tmp_path):
    path = write(tmp_path, 'base = "quickstart.toml"\nname = "mine"\n')
    assert load_config.load(path).learner == load_config.load(CONFIGS / "quickstart.toml").learner
    beside = (CONFIGS / "quickstart.toml").read_text().replace("learning_rate = 2e-3", "learning_rate = 5e-3")
    (tmp_path / "quickstart.toml").write_text("\ufeff" + beside, encoding="utf-8")
    assert load_config.load(path).learner.learning_rate == 5e-3
    with pytest.raises(ValueError, match=r"c\.toml: base = 'nowhere\.toml'.* is not in .* nor in "):
        load_config.load(write(tmp_path, 'base = "nowhere.toml"\n'))


def test_a_table_that_is_set_changes_what_it_names_alone(tmp_path):
    path = write(tmp_path, MINIMAL + "[learner]\ndiscount = 0.5\n")
    found = load_config.load(path, ("learner={hidden=[8]}",)).learner
    assert (found.hidden, found.discount) == ((8,), 0.5)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=abc", r"c\.toml --set seed=abc: seed = 'abc': input should be a whole number"),
        ("learner.hidden=16", "a list, such as"),
        ("learner=3", "a table, such as"),
        ("learner.hidden=[16", "is not a value in TOML"),
        ('seed=1\nname="x"', "more than one value"),
        ("base=other.toml", "a base stands in a file"),
        (
            "evaluation.months.0.start_step=32",
            r"A list is given whole: --set 'evaluation\.months=\[\.\.\.\]'",
        ),
        ("environment.family=locc", r"environment\.family = 'locc' is not one \(did you mean lock\?\)"),
        ("learner.learning_rate=inf", "finite"),
        ("learner.learning_rate=nan", "finite"),
    ],
)
def test_what_is_set_wrongly_is_said_in_the_words_of_toml_and_with_a_way_out(tmp_path, override, says):
    with pytest.raises(ValueError, match=says):
        load_config.load(write(tmp_path, MINIMAL), (override,))


def test_bases_that_lead_in_a_circle_are_named(tmp_path):
    path = write(tmp_path, 'base = "b.toml"\n', "a.toml")
    write(tmp_path, 'base = "a.toml"\n', "b.toml")
    with pytest.raises(ValueError, match="leads back to this file"):
        load_config.load(path)


def test_a_target_period_must_fit_the_updates_of_an_iteration(tmp_path):
    path = write(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="target_period_updates = 10 is not a multiple"):
        load_config.load(path, ("learner.target_period_updates=10", "learner.updates_per_iteration=3"))


def test_a_config_changes_its_base_value_by_value(tmp_path):
    write(tmp_path, MINIMAL + "num_positions = 5\n[training]\nnum_seeds = 4\nnum_updates = 9\n", "base.toml")
    child = write(tmp_path, 'base = "base.toml"\nname = "y"\n[training]\nnum_updates = 8\n', "child.toml")
    experiment = load_config.load(child)
    assert (experiment.name, experiment.training.num_seeds, experiment.training.num_updates) == ("y", 4, 8)
    assert experiment.environment == config.Lock(num_positions=5)
    other = write(tmp_path, 'base = "base.toml"\n[environment]\nfamily = "dark_room"\n', "other.toml")
    assert load_config.load(other).environment == config.DarkRoom()


def test_configuration_is_frozen():
    experiment = load_config.load(CONFIGS / "smoke.toml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.seed = 3  # pyright: ignore


def test_configs_are_found_beside_the_run_or_in_the_package(tmp_path):
    beside = write(tmp_path, MINIMAL, "gate.toml")
    assert load_config.find("gate.toml", beside=tmp_path) == beside
    assert load_config.find("smoke.toml", beside=tmp_path) == CONFIGS / "smoke.toml"
    with pytest.raises(ValueError, match=r"nope\.toml is not in"):
        load_config.find("nope.toml", beside=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("controls.run=['sham']", "evaluation.stage_steps=[32]", "gate.experiment=gate.toml"),
            "controls.run holds sham, which plays PROCESS from an empty context",
        ),
        (
            ("controls.run=['sham']", "environment.grow_every_steps=40", "environment.initial_positions=1"),
            "controls.run holds sham, which counts LATER from the imitator's own start",
        ),
        (
            ("controls.run=['test_time_training']", "training.keep_every_episodes=2", "evaluation.months=[]"),
            "controls.run holds test_time_training, whose rounds end within episodes, and in a history thinned by "
            "training.keep_every_episodes = 2",
        ),
        (
            ("controls.run=['pace']", "environment.grow_every_steps=40", "environment.initial_positions=1"),
            "controls.run holds pace, whose imitators act in newborn environments",
        ),
        (  # it is still a ring of 1 where recording ends, but lives are four times as long
            ("controls.run=['pace']", "environment.grow_every_steps=400", "environment.initial_positions=1"),
            "tasks that grow before the age of 512 are smaller there than their prompts show",
        ),
        (
            ("controls.run=['stalled']", "controls.stall_step=128"),
            "holds learners from step 128 (controls.stall_step, or evaluation.later_fork_step) on for 32 steps, what "
            "fills a context: past 128, where recording ends",
        ),
        (
            ("controls.run=['stalled']", "imitator.context_steps=96", "imitator.also_context_steps=[]"),
            "holds learners from step 64",
        ),
        (
            ("controls.run=['sham','shuffled']", "training.feed=stream", "training.stream_learners=16"),
            "controls.run holds shuffled, which alters recorded histories",
        ),
    ],
)
def test_a_control_that_could_not_be_made_is_refused_before_anything_runs(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config.load(CONFIGS / "smoke.toml", overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("later_fork_step=840", "later_fork_step = 840 is after its fork_step = 800"),
        (
            "later_fork_step=165",
            "later_fork_step = 165 is not a multiple of its environment's episode_steps = 20",
        ),
        ("later_steps=90", "later_steps = 90 is not a multiple of its block_steps = 40"),
        ("block_steps=10", "block_steps = 10 is shorter than an episode there (20 steps)"),
        ("now_steps=440", "now_steps = 440 is above its later_steps = 400"),
    ],
)
def test_a_place_of_the_learner_posterior_that_cannot_be_is_refused(override, message):
    with pytest.raises(ValueError, match=re.escape(f"controls.posterior.also.{message}")):
        load_config.load(CONFIGS / "controls.toml", (f"controls.posterior.also.{override}",))


def test_the_configs_that_the_readme_shows_load(tmp_path):
    readme = (CONFIGS.parent / "README.md").read_text()
    shown = [textwrap.dedent(text) for text in re.findall(r"(?ms)^ *```toml\n(.*?)^ *```", readme)]
    assert len(shown) == 2
    for text in shown:
        path = write(tmp_path, text.replace('base = "', f'base = "{CONFIGS}/'))
        experiments = (
            [point.experiment for point in axes.load_points(path)]
            if "[sweep]" in text
            else [load_config.load(path)]
        )
        assert not {one.name for one in experiments} & {one.stem for one in CONFIGS.glob("*.toml")}
