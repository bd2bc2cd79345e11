"""From [sweep] to points: their values, names and groups; and what is wrong with a table that is wrong."""

import dataclasses
import pathlib

import pytest

from cl_imitate import config, load_config
from cl_imitate.sweeps import axes
from tests.test_load_config import CONFIGS, MINIMAL, write

SWEEPS = [path for path in sorted(CONFIGS.glob("*.toml")) if "[sweep]" in path.read_text()]


def load(folder: pathlib.Path, sweep: str, overrides=()) -> list[axes.Point]:
    return axes.load_points(write(folder, MINIMAL + sweep), overrides)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_s_config_loads_and_tells_its_command(path):
    points = axes.load_points(path)
    assert path.read_text().splitlines()[0] == f"# cl-imitate sweep configs/{path.name}"
    assert len(points) > 1
    assert {point.experiment.name for point in points} == {path.stem}


def test_a_product_has_every_combination_and_a_zip_the_pairs(tmp_path):
    table = '[sweep]\ncombine = "{}"\n[sweep.axes]\nseed = [4, 5]\n"learner.discount" = [0.5, 0.9]\n'
    found = [
        (p.experiment.seed, p.experiment.learner.discount) for p in load(tmp_path, table.format("product"))
    ]
    assert found == [(4, 0.5), (4, 0.9), (5, 0.5), (5, 0.9)]
    found = [(p.experiment.seed, p.experiment.learner.discount) for p in load(tmp_path, table.format("zip"))]
    assert found == [(4, 0.5), (5, 0.9)]


def test_an_axis_can_set_several_keys_and_need_not_be_quoted(tmp_path):
    points = load(
        tmp_path,
        '[sweep.axes]\nlearner.hidden = [[8], [8, 8]]\n"learner.epsilon_start, learner.epsilon_end" = [0.1, 0.2]\n',
    )
    learners = [point.experiment.learner for point in points]
    assert [(one.hidden, one.epsilon_start, one.epsilon_end) for one in learners] == [
        ((8,), 0.1, 0.1),
        ((8,), 0.2, 0.2),
        ((8, 8), 0.1, 0.1),
        ((8, 8), 0.2, 0.2),
    ]
    assert [point.name for point in points][::3] == [
        "hidden=8,epsilon_start=0.1",
        "hidden=8-8,epsilon_start=0.2",
    ]


def test_each_key_of_an_axis_can_have_a_value_of_its_own(tmp_path):
    points = load(
        tmp_path,
        '[sweep.axes]\n"imitator.context_steps, imitator.kind, training.batch_size, learner.hidden" = [\n'
        '{ each = [64, "transformer", 8, [8, 8]] }, { each = [128, "transformer", 4, [8, 8]] },\n'
        '{ each = [128, "gru", 4, [8, 8]] }]\nseed = [0, 1]\n',
    )
    found = [
        (one.imitator.context_steps, one.imitator.kind, one.training.batch_size, one.learner.hidden, one.seed)
        for one in (point.experiment for point in points)
    ]
    assert found[::2] == [
        (64, "transformer", 8, (8, 8), 0),
        (128, "transformer", 4, (8, 8), 0),
        (128, "gru", 4, (8, 8), 0),
    ]
    assert found[1][-1] == 1
    # told by as many of the first keys as tell its values apart, each a column of its own in the table
    assert points[5].values == {"imitator.context_steps": 128, "imitator.kind": "gru", "seed": 1}
    assert points[5].name == "context_steps=128,kind=gru,seed=1"
    pairs = load(
        tmp_path, '[sweep.axes]\n"learner.discount, seed" = [{ each = [0.5, 0] }, { each = [0.9, 1] }]\n'
    )
    assert [point.values for point in pairs] == [{"learner.discount": 0.5}, {"learner.discount": 0.9}]
    assert [point.experiment.seed for point in pairs] == [0, 1]


def test_names_are_readable_different_and_safe(tmp_path):
    points = load(
        tmp_path, '[sweep.axes]\n"learner.learning_rate" = [1e-3]\n"training.learning_rate" = [1e-3, 2e-3]\n'
    )
    assert points[1].name == "learner.learning_rate=0.001,training.learning_rate=0.002"
    points = load(tmp_path, '[sweep.axes]\n"gate.experiment" = ["a/b.toml", "a:b.toml"]\n')
    assert [point.name for point in points] == ["experiment=a_b.toml_0", "experiment=a_b.toml_1"]


def test_points_that_differ_in_leaves_only_are_one_group_and_sizes_make_others(tmp_path):
    leaves = (
        '[sweep.axes]\nseed = [0, 1]\n"learner.learning_rate" = [1e-3, 2e-3]\n"learner.discount" = [0.5, 0.6]\n'
        '"learner.target_tau" = [0.1, 0.2]\n"learner.epsilon_start, learner.epsilon_end" = [0.1, 0.2]\n'
        '"training.learning_rate" = [1e-3, 2e-3]\n"training.first_seed" = [0, 3]\n'
    )
    points = load(tmp_path, leaves)
    assert len(points) == 2**7
    assert axes.groups(points) == [points]
    points = load(tmp_path, '[sweep.axes]\n"imitator.context_steps" = [16, 32]\nseed = [0, 1]\n')
    assert [[point.experiment.seed for point in group] for group in axes.groups(points)] == [[0, 1], [0, 1]]


def test_every_leaf_is_a_key_and_no_size_is_one():
    experiment = config.Experiment(name="x", environment=config.Lock())
    for key in axes.LEAVES:
        table, _, field = key.rpartition(".")
        holder = getattr(experiment, table) if table else experiment
        assert field in {one.name for one in dataclasses.fields(holder)}
    other = dataclasses.replace(experiment, learner=dataclasses.replace(experiment.learner, batch_size=7))
    assert axes.without_leaves(other) != axes.without_leaves(experiment)


def test_overrides_change_every_point(tmp_path):
    points = load(tmp_path, "[sweep.axes]\nseed = [0, 1]\n", ("training.num_updates=7",))
    assert [point.experiment.training.num_updates for point in points] == [7, 7]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("", "has no axes. Give them in a table"),
        ("[sweep.axes]\n", "has no axes. Give them in a table"),
        ("[sweep]\naxes = 3\n", "has no axes. Give them in a table"),
        (
            "[sweep]\ncombin = 1\n[sweep.axes]\nseed = [1]\n",
            "unknown key sweep.combin (known keys here: axes, combine)",
        ),
        ("[sweep.axes]\nseed = 3\n", "sweep.axes: seed = 3 is not a list of values"),
        ("[sweep.axes]\nseed = []\n", "sweep.axes: seed = [] is not a list of values"),
        (
            '[sweep]\ncombine = "all"\n[sweep.axes]\nseed = [1]\n',
            'sweep.combine = \'all\': use "product" or "zip"',
        ),
        (
            '[sweep]\ncombine = "zip"\n[sweep.axes]\nseed = [1, 2]\n"learner.discount" = [0.5]\n',
            "needs axes of one length; they have {'seed': 2, 'learner.discount': 1}",
        ),
        ('[sweep.axes]\n"learner.discont" = [0.5]\n', "unknown key learner.discont (did you mean discount?)"),
        (
            '[sweep.axes]\n"learner.discount" = [0.5, 1.5]\n',
            "with learner.discount = 1.5: learner.discount = 1.5",
        ),
        ('[sweep.axes]\n"name.x" = [0.5]\n', "sweep.axes: name.x: name is not a table"),
        ("[sweep.axes]\nseed = [1, 2, 1]\n", "the points seed=1 and seed=1 are the same run"),
        ('[sweep.axes]\n"seed, name" = [{ each = [1] }]\n', "written { each = [...] }, with 2 values in it"),
        (
            '[sweep.axes]\n"seed, name" = [{ all = [1, 2] }]\n',
            "written { each = [...] }, with 2 values in it",
        ),
        ('[sweep.axes]\n"seed, name" = [{ each = [1, "a"] }, 3]\n', "write all of them alike"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_what_is_wrong(tmp_path, sweep, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        load(tmp_path, sweep)
    assert message in str(caught.value)


def test_a_sweep_is_not_a_run(tmp_path):
    path = write(tmp_path, MINIMAL + "[sweep.axes]\nseed = [1, 2]\n")
    with pytest.raises(
        ValueError, match=r"has a \[sweep\], so it is many runs\. Start them: `cl-imitate sweep"
    ):
        load_config.load(path)
