import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from envs_rollout import NUM_ENVS, SHAPES, TABULAR, rollout, sample, standard

from cl_imitate import keys
from cl_imitate.config import Bandit, DarkRoom, KeyToDoor, Lock, MinAtar, Shapes
from cl_imitate.envs import tasks, variants
from cl_imitate.envs.screens import SCREEN

pytestmark = pytest.mark.unoptimised

SCREEN_VARIANTS = ("permute_channels", "permute_actions", "mirror", "invert_reward", "delay_reward")
# Which leaves a variant may change, and whether what perfect knowledge earns stays exactly the same.
CHANGES = {
    "permute_symbols": ({"observation"}, True),
    "new_symbols": ({"observation"}, True),
    "mirror": ({"observation"}, True),
    "permute_actions": ({"next_state", "outcome_probability", "reward_probability"}, True),
    "delay_reward": ({"reward_every"}, True),
    "invert_reward": ({"reward_probability"}, False),
    "double_press": ({"presses"}, False),
    "change_start": ({"start_state"}, False),
}
ROOM = Shapes(num_symbols=64, num_actions=5, num_states=64)


@functools.cache
def plain(environment, shapes):
    family = tasks.make(environment, shapes=shapes)
    return family, sample(family)


def pair(name, *chosen, shapes=SHAPES):
    """The same 64 tasks without and with variants."""
    environment = TABULAR[name] if isinstance(name, str) else name
    family, params = plain(environment, shapes)
    layout = tasks._TABULAR[type(environment)].layout(environment, shapes)

    def change(key, task):
        for variant_key, variant in zip(tasks._variant_keys(key, len(chosen)), chosen, strict=True):
            task = variants.apply_tabular(
                variant, variant_key, task, layout=layout, num_symbols=shapes.num_symbols
            )
        return task

    task_keys = keys.members(jax.random.key(0), NUM_ENVS)
    return family, params, jax.jit(jax.vmap(change))(task_keys, params)


def test_a_family_with_variants_samples_the_same_tasks_changed():
    chosen = ("permute_symbols", "permute_actions", "change_start")
    *_, expected = pair("dark_room", *chosen)
    made = sample(tasks.make(TABULAR["dark_room"], shapes=SHAPES, variants=chosen))
    jax.tree.map(np.testing.assert_array_equal, made, expected)


@pytest.mark.parametrize("variant", CHANGES)
@pytest.mark.parametrize("name", ["lock", "dark_room", "key_to_door", "random_mdp", "bandit_contexts"])
def test_a_variant_changes_what_it_says_and_only_that(name, variant):
    if (name, variant) == ("bandit_contexts", "change_start"):
        pytest.skip("not supported")
    family, before, after = pair(name, variant)
    allowed, keeps_return = CHANGES[variant]
    changed = {
        field
        for field in before.__dataclass_fields__
        if not np.array_equal(getattr(before, field), getattr(after, field))
    }
    assert changed
    assert changed <= allowed
    for epsilon in (0.0, 0.1, 1.0):
        if keeps_return:
            np.testing.assert_allclose(
                family.exact_return(after, epsilon), family.exact_return(before, epsilon), rtol=1e-6
            )


@pytest.mark.parametrize("name", ["lock", "lock_endless", "dark_room", "key_to_door"])
def test_permuted_symbols_are_the_tasks_own_and_none_keeps_its_place(name):
    _, before, after = pair(name, "permute_symbols")
    num = {"lock": 8, "lock_endless": 30}.get(name, 25)
    old, new = np.asarray(before.observation)[:, :num], np.asarray(after.observation)[:, :num]
    assert np.array_equal(np.sort(old), np.sort(new))
    assert (old != new).all()
    assert len(np.unique(new, axis=0)) > 32  # another permutation for each task


def test_a_permutation_of_symbols_is_the_same_in_both_phases_of_key_to_door():
    _, before, after = pair("key_to_door", "permute_symbols")
    for n in range(64):
        old, new = np.asarray(before.observation)[n, :51], np.asarray(after.observation)[n, :51]
        assert len(set(zip(old.tolist(), new.tolist(), strict=True))) == 25


@pytest.mark.parametrize("num", [2, 3, 6])
def test_cycles_move_everything_and_all_of_them_occur(num):
    drawn = np.asarray(
        jax.vmap(lambda key: variants.cycle(key, num))(jax.random.split(jax.random.key(0), 2000))
    )
    assert (np.sort(drawn) == np.arange(num)).all()
    assert (drawn != np.arange(num)).all()
    assert len(np.unique(drawn, axis=0)) == {2: 1, 3: 2, 6: 120}[num]


@pytest.mark.parametrize("name", ["lock", "dark_room", "key_to_door"])
def test_new_symbols_are_ones_the_family_never_shows(name):
    family, before, after = pair(name, "new_symbols")
    old, new = rollout(family, before), rollout(family, after)
    assert not set(np.unique(old.obs)) & set(np.unique(new.obs))
    for n in range(4):
        both = set(zip(old.obs[:, n].tolist(), new.obs[:, n].tolist(), strict=True))
        assert len(both) == len(set(old.obs[:, n])) == len(set(new.obs[:, n]))


def test_a_mirrored_room_shows_columns_in_reverse():
    _, before, after = pair("dark_room", "mirror")
    screen = np.arange(25).reshape(5, 5)
    assert (np.asarray(before.observation)[:, :25] == screen.ravel()).all()
    assert (np.asarray(after.observation)[:, :25] == screen[:, ::-1].ravel()).all()


def test_a_mirrored_ring_shows_positions_in_reverse():
    _, before, after = pair("lock_endless", "mirror")
    assert np.array_equal(before.observation[:, :30], np.asarray(after.observation)[:, 29::-1])


def test_mirroring_twice_is_no_change():
    _, before, after = pair("dark_room", "mirror", "mirror")
    assert np.array_equal(before.observation, after.observation)


def test_permuted_actions_do_what_others_did():
    family, before, after = pair("dark_room", "permute_actions")
    actions = rollout(family, before).action
    cells = np.asarray(before.next_state)[:, :25, :, 0]
    moved = np.asarray(after.next_state)[:, :25, :, 0]
    meaning = np.array([[np.flatnonzero((moved[n, :, a] == cells[n].T).all(axis=1))[0] for a in range(5)]
                        for n in range(64)])  # fmt: skip
    assert (meaning != np.arange(5)).all()
    undone = np.argsort(meaning, axis=1)[np.arange(64), actions].astype(np.int32)
    same, other = rollout(family, before, actions=actions), rollout(family, after, actions=undone)
    jax.tree.map(np.testing.assert_array_equal, same.out, other.out)


@pytest.mark.parametrize("name", ["lock", "dark_room", "random_mdp"])
def test_inverted_reward_is_one_minus_reward(name):
    family, before, after = pair(name, "invert_reward")
    steps = family.env.spec.episode_steps
    np.testing.assert_allclose(
        family.exact_return(after, 1.0), steps - family.exact_return(before, 1.0), rtol=1e-5
    )


def test_delayed_rewards_sum_to_the_same_in_every_episode():
    family, before, after = pair("lock", "delay_reward")
    rewards = [rollout(family, params).out.reward[:992].reshape(62, 16, 64) for params in (before, after)]
    assert np.array_equal(rewards[0].sum(axis=1), rewards[1].sum(axis=1))
    assert not rewards[1][:, [0, 1, 2, 4, 5, 6, 8]].any()
    assert rewards[1].max() > 1


def test_double_press_halves_what_perfect_knowledge_of_a_lock_earns():
    family, _, after = pair("lock", "double_press")
    np.testing.assert_allclose(family.exact_return(after, 0.0), 8.0)


@pytest.mark.parametrize("name", ["lock", "dark_room", "dark_room_torus", "key_to_door", "random_mdp"])
def test_a_changed_start_is_another_state_of_the_task(name):
    family, before, after = pair(name, "change_start")
    old, new = np.asarray(before.start_state), np.asarray(after.start_state)
    assert (old != new).all()
    assert len(np.unique(new)) > 3
    assert new.max() < {"lock": 8, "random_mdp": 10, "dark_room_torus": 36}.get(name, 25)
    assert np.isfinite(family.exact_return(after, 0.0)).all()


def test_variants_are_applied_together():
    family, before, after = pair("lock", "new_symbols", "permute_symbols", "double_press", "delay_reward")
    assert not set(np.unique(before.observation[:, :8])) & set(np.unique(after.observation[:, :8]))
    assert (np.asarray(after.presses) == 2).all()
    assert (np.asarray(after.reward_every) == variants.DELAY_STEPS).all()
    np.testing.assert_allclose(family.exact_return(after, 0.0), 8.0)


@pytest.mark.parametrize(
    ("environment", "variant", "words"),
    [
        (Lock(), "permute_channels", ["lock", "screens only", "double_press"]),
        (
            Lock(symbols="per_task"),
            "new_symbols",
            ["lock", "0 of shapes.num_symbols = 64", "permute_symbols"],
        ),
        (DarkRoom(size=6), "new_symbols", ["dark_room", "36 symbols", "28 of"]),
        (Lock(resets=False), "change_start", ["lock", "chosen state"]),
        (Bandit(), "permute_symbols", ["bandit", "single symbol", "permute_actions"]),
        (Bandit(), "mirror", ["bandit", "single symbol"]),
        (Bandit(num_contexts=3), "change_start", ["bandit", "chosen state"]),
        (MinAtar(), "double_press", ["minatar", "tables only", "mirror"]),
        (MinAtar(), "new_symbols", ["minatar", "tables only"]),
    ],
)
def test_a_variant_that_does_not_apply_says_why_and_what_does(environment, variant, words):
    with pytest.raises(ValueError, match="cannot be applied") as error:
        tasks.make(environment, shapes=SHAPES, variants=(variant,))
    assert all(word in str(error.value) for word in [variant, *words]), str(error.value)


def test_only_what_can_be_applied_is_listed_as_allowed():
    with pytest.raises(ValueError, match="cannot be applied") as error:
        tasks.make(Bandit(), shapes=SHAPES, variants=("mirror",))
    allowed = str(error.value).split("Allowed there: ")[1]
    assert allowed == "permute_actions, new_symbols, invert_reward, delay_reward, double_press."


def game(*chosen):
    return sample(tasks.make(MinAtar(), shapes=SHAPES, variants=chosen))


def screens(run):
    return np.asarray(SCREEN.unpack(jnp.asarray(run.out.obs[:200, :8])))


def test_permuted_channels_show_the_same_game_in_other_channels():
    family, _, unchanged = standard("breakout")
    params = game("permute_channels")
    run = rollout(family, params)
    source = np.asarray(params.channel_source)
    assert (source[:, :4] != np.arange(4)).all()
    assert (source[:, 4:] == np.arange(4, 7)).all()
    for n in range(8):
        assert np.array_equal(screens(run)[:, n], screens(unchanged)[:, n][..., source[n]])
    assert np.array_equal(run.out.reward, unchanged.out.reward)


def test_a_mirrored_screen_shows_the_same_game():
    family, _, unchanged = standard("breakout")
    run = rollout(family, game("mirror"))
    assert np.array_equal(screens(run), screens(unchanged)[..., ::-1, :])
    assert np.array_equal(run.out.reward, unchanged.out.reward)
    assert np.array_equal(run.state.game.pos, unchanged.state.game.pos)


def test_permuted_actions_of_a_game_do_what_others_did():
    family, _, unchanged = standard("breakout")
    params = game("permute_actions")
    meaning = np.asarray(params.action_meaning)
    assert (meaning != np.arange(6)).all()
    undone = np.argsort(meaning, axis=1)[np.arange(64), unchanged.action].astype(np.int32)
    jax.tree.map(np.testing.assert_array_equal, rollout(family, params, actions=undone).out, unchanged.out)


def test_inverted_and_delayed_rewards_of_a_game_sum_to_the_same():
    family, _, unchanged = standard("breakout")
    inverted, delayed = (rollout(family, game(variant)) for variant in ("invert_reward", "delay_reward"))
    assert np.array_equal(inverted.out.reward, -unchanged.out.reward)
    assert np.array_equal(delayed.out.terminated, unchanged.out.terminated)
    assert not np.array_equal(delayed.out.reward, unchanged.out.reward)
    ends = np.flatnonzero(unchanged.out.terminated[:, 0])
    sums = [np.diff(np.cumsum(run.out.reward[:, 0])[ends]) for run in (unchanged, delayed)]
    assert np.array_equal(*sums)


def test_mirroring_key_to_door_mirrors_both_phases_and_the_end():
    _, before, after = pair(KeyToDoor(size=4), "mirror", shapes=ROOM)
    cells = np.arange(16).reshape(4, 4)
    both = np.concatenate([cells[:, ::-1].ravel()] * 2)
    assert (np.asarray(after.observation)[:, :32] == both).all()
    door = np.asarray(before.observation)[:, 32]
    assert np.array_equal(np.asarray(after.observation)[:, 32], door // 4 * 4 + 3 - door % 4)
