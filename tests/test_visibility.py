"""What an imitator is shown of hidden causes is the same in training windows, in prompts and in closed loop."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import causes, feeds, keys, load_config, visibility
from cl_imitate.evaluation import imitator_arms
from cl_imitate.evaluation.controls import scenes
from cl_imitate.evaluation.scene import Count, make_prompt
from cl_imitate.histories import contexts
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.learners.q_networks import make_q_network
from cl_imitate.types import NUM_REPLAY_FEATURES, NUM_SEED_FEATURES, Causes
from tests import studies, test_closed_loop
from tests.ensembles import ENVIRONMENT, LEARNER, group

pytestmark = pytest.mark.unoptimised

ONE = studies.experiment(
    "imitator.sees=seed",
    "simulation.num_recorded=4",
    "evaluation.transplant=false",
    "training.num_seeds=1",
    "training.num_validation=1",
)
FORK = ONE.evaluation.later_fork_step


@functools.cache
def later_scene():
    return scenes.later_scene(studies.study(ONE), 2)


def test_a_seed_is_shown_as_the_action_values_of_the_untrained_network_at_every_symbol():
    population = studies.lived(ONE, "held_out")[0]
    shown = visibility.causes_of(population, ONE.imitator)
    assert shown is not None
    newborn, spec = population.newborn().learner, population.family.env.spec
    network = make_q_network(spec, hidden=ONE.learner.hidden, conv_features=1, products="float32")
    symbols = jnp.arange(16, dtype=jnp.uint8)
    rng_key = keys.stream(keys.root(0), keys.Stream.SEEN)
    projection = np.asarray(jax.random.normal(rng_key, (16 * 5, NUM_SEED_FEATURES))) / np.sqrt(16 * 5)
    for which in range(population.num_learners):
        params = jax.tree.map(lambda leaf, i=which: leaf[i], newborn.params)
        values = np.asarray(network.apply(params, symbols))
        expected = (values - values.mean(axis=1, keepdims=True)).reshape(-1) @ projection
        np.testing.assert_allclose(shown.seed[which], expected, atol=1e-5)
    assert len(np.unique(np.round(shown.seed, 4), axis=0)) == population.num_learners


def test_a_rung_below_hides_what_the_next_one_shows():
    population = studies.lived(ONE, "held_out")[0]
    for sees in ("stream", "coin"):
        assert visibility.causes_of(population, dataclasses.replace(ONE.imitator, sees=sees)) is None
    shown = visibility.causes_of(population, dataclasses.replace(ONE.imitator, sees="replay"))
    assert shown is not None
    assert shown.seed is None


def test_a_prompt_shows_what_a_window_of_training_on_the_same_steps_does():
    scene = later_scene()
    prompt = make_prompt(scene, FORK, length=16)
    history = studies.lived(ONE, "held_out")[2]
    seen = jax.tree.map(jnp.asarray, visibility.show(history, "held_out", ONE))
    assert np.asarray(prompt.tokens.replay).any()
    for which in range(2):
        tokens, _, _ = contexts.window(
            seen, jnp.int32(which), jnp.int32(FORK - 16), length=16, end=jnp.int32(FORK), num_actions=5
        )
        for part in ("replay", "seed"):
            np.testing.assert_allclose(
                getattr(prompt.tokens, part)[which], getattr(tokens, part), atol=1e-6, err_msg=part
            )


def test_validation_learners_keep_their_own_causes():
    recorded, held_out = (studies.lived(ONE, name)[2] for name in ("recorded", "held_out"))
    source = feeds.Stored(ONE, recorded, held_out)
    trained_on, _ = source.feed(studies.nothing)(0)
    population = studies.lived(ONE, "recorded")[0]
    whole = visibility.causes_of(population, ONE.imitator)
    np.testing.assert_array_equal(trained_on.causes.seed, whole.seed[:3])
    np.testing.assert_array_equal(source.held_out.causes.replay_key_data, whole.replay_key_data[3:])


def loop_causes(num: int) -> Causes:
    return Causes(
        replay_key_data=np.asarray(jax.random.key_data(jax.random.clone(group(num).streams.replay))),
        seed=np.random.default_rng(0).normal(size=(num, NUM_SEED_FEATURES)).astype(np.float32),
        times=visibility.replay_times(LEARNER),
    )


def test_the_loop_shows_what_each_environments_own_learner_would_have_drawn_at_that_age():
    num, of = test_closed_loop.NUM_ENVS, dataclasses.replace(ONE.imitator)
    spec, shown, start = group(num).family.env.spec, loop_causes(num), 8
    logging = test_closed_loop.logging_imitator()
    memory = test_closed_loop.Log(tokens=empty_tokens((num, 24), spec, of), slot=jnp.int32(0))
    logging = logging._replace(
        init_memory=lambda _: jax.tree.map(jnp.copy, memory), sees_replay=True, sees_seed=True
    )
    logging = logging._replace(
        act=lambda params, memory, tokens: test_closed_loop.logging_imitator().act(
            params, memory, tokens.replace(coin=jnp.zeros_like(tokens.prev_done))
        )
    )
    wipes = jnp.array([False, True])
    members = test_closed_loop.members(jnp.zeros((2, 1)), 2, wipes=wipes)
    _, rollout = test_closed_loop.roll(logging, members, start_step=start, causes=shown)
    told = rollout.memory.tokens
    for env in range(num):
        key = jax.random.wrap_key_data(jnp.asarray(shown.replay_key_data[env]))
        steps = start + jnp.arange(24)
        expected = np.array(
            jax.vmap(lambda step, key=key: causes.replay_features(shown.times, key, step - 1))(steps)
        )
        expected[0] = 0  # an empty context begins there
        np.testing.assert_allclose(told.replay[0, env], expected, atol=1e-6)
        wiped = np.where(np.arange(24)[:, None] % ENVIRONMENT.episode_steps == 0, 0.0, expected)
        np.testing.assert_allclose(told.replay[1, env], wiped, atol=1e-6)
        np.testing.assert_array_equal(told.seed[1, env], np.tile(shown.seed[env], (24, 1)))
    assert told.replay.shape == (2, num, 24, NUM_REPLAY_FEATURES)


def visits(scene: Any) -> np.ndarray:
    study = studies.study(ONE)
    arms = imitator_arms.imitator_arms(
        scene, study.imitators[32][FORK], ways=("imitator",), prompt_step=FORK, num_steps=64,
        count=Count(), tick=studies.nothing,
    )  # fmt: skip
    return arms.visits["imitator"]


def test_an_arm_shows_the_causes_of_the_learners_that_it_is_matched_with():
    """Untrained imitators act by what they are shown: with others' causes, otherwise; with their own, the same."""
    scene = later_scene()
    swapped = jax.tree.map(lambda leaf: leaf[::-1], scene.causes)
    own, again, other = (visits(one) for one in (scene, scene, dataclasses.replace(scene, causes=swapped)))
    np.testing.assert_array_equal(own, again)
    assert (own != other).any()


def test_the_coin_in_closed_loop_comes_up_as_the_learners_own_through_warm_up_and_annealing():
    """A stub that does what its coin says, beside learners that explore at all steps but their first of learning."""
    warm_up = 32
    of = studies.experiment(
        "imitator.sees=coin",
        f"learner.learning_starts_steps={warm_up}",
        "learner.epsilon_start=0.0",
        "learner.epsilon_end=1.0",
        "learner.epsilon_decay_steps=1",
    )

    def act(params, memory, told):
        return 50.0 * jax.nn.one_hot(told.coin.astype(jnp.int32), 2), memory

    stub = test_closed_loop.logging_imitator(block_steps=12)  # in one of its blocks the warm-up ends
    stub = stub._replace(init_memory=jnp.zeros, init=lambda key: jnp.zeros(1), act=act, sees_coin=True)
    study, done = studies.study(of, stub), []
    scene = scenes.scene_of(study, scenes.process(of))

    def watch(params, record):
        done.append(np.asarray(record.action))
        return params

    imitator_arms.imitator_arms(
        scene, study.frozen, ways=("imitator",), prompt_step=0, num_steps=48, count=Count(), tick=studies.nothing,
        after_block=watch,
    )  # fmt: skip
    own = np.asarray(study.history("held_out").explored)[:, :48]
    assert (own == (np.arange(48) != warm_up)).all()
    for seed in np.concatenate(done, axis=-1):
        np.testing.assert_array_equal(seed[: len(own)], own)


def test_a_loop_without_causes_is_an_error_that_says_so():
    sees = test_closed_loop.logging_imitator()._replace(sees_replay=True)
    with pytest.raises(ValueError, match="given no learners' causes"):
        test_closed_loop.roll(sees, test_closed_loop.members(jnp.zeros((1, 1)), 1))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("environment={family='minatar'}",), "episodes vary in length"),
        (("learner.updates_per_iteration=2",), "learner.updates_per_iteration = 2"),
        (("training.keep_every_episodes=2",), "training.keep_every_episodes = 2"),
        (("evaluation.months=[{start_step=64,later_steps=64}]",), "evaluation.months"),
        (
            ("evaluation.rungs=[{rung='1',name='unseen'}]", "evaluation.transplant=true"),
            "evaluation.transplant=false",
        ),
        (("controls.run=['sham']",), "controls.run holds sham"),
        (("controls.run=['floor']",), "controls.run holds floor"),
        (("controls.run=['stalled']",), "controls.run holds stalled"),
    ],
)
def test_what_could_not_be_shown_truly_is_refused(overrides, message):
    for sees in ("replay", "seed"):
        with pytest.raises(ValueError, match=message):
            studies.experiment(*overrides, f"imitator.sees={sees}")
    assert load_config.fingerprint(studies.experiment("imitator.sees=coin"))
