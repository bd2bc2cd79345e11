import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import load_config, populations

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def test_equal_tasks_have_equal_numbers_in_the_order_of_their_first_learners():
    params = {"goal": jnp.array([7, 2, 7, 5, 2]), "flag": jnp.array([True, False, True, True, False])}
    np.testing.assert_array_equal(populations.task_numbers(params), [0, 1, 0, 2, 1])
    params["flag"] = params["flag"].at[2].set(False)
    np.testing.assert_array_equal(populations.task_numbers(params), [0, 1, 2, 3, 1])


def test_learners_that_drew_the_same_goal_count_as_one_task():
    experiment = load_config.load(CONFIGS / "dark_room.toml", ("simulation.num_held_out=64",))
    population = populations.make("held_out", experiment)
    goals = np.asarray(population.env_params.reward_probability).reshape(64, -1)
    assert len(np.unique(population.task)) == len(np.unique(goals, axis=0)) <= 8
    assert len(np.unique(population.task)) > 1


def test_learners_kept_for_validation_bring_no_training_task():
    overrides = ("training.num_validation=4", "simulation.num_held_out_train_tasks=32")
    experiment = load_config.load(CONFIGS / "smoke.toml", overrides)

    def tables(population, learners):
        return {np.asarray(table).tobytes() for table in population.env_params.next_state[learners]}

    recorded = populations.make("recorded", experiment)
    others = populations.make("held_out_train_tasks", experiment)
    assert tables(others, slice(None)) == tables(recorded, slice(0, 12))


def test_a_learner_s_key_and_task_do_not_depend_on_how_many_there_are():
    few, many = (
        populations.make(
            "recorded", load_config.load(CONFIGS / "smoke.toml", (f"simulation.num_recorded={number}",))
        )
        for number in (8, 16)
    )
    for one, two in zip(
        jax.tree.leaves((jax.random.key_data(few.learner_keys), few.env_params)),
        jax.tree.leaves((jax.random.key_data(many.learner_keys), many.env_params)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two[:8])
