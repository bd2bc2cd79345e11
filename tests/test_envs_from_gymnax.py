import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from envs_rollout import GAMES, NUM_ENVS, NUM_STEPS, assert_mean, episode_returns, rollout, sample, standard

from cl_imitate import keys
from cl_imitate.envs import from_gymnax
from cl_imitate.envs.minatar import asterix
from cl_imitate.envs.screens import SCREEN, show

ORIGINAL_RANDOM_RETURN = {"breakout": 0.50, "space_invaders": 2.86, "asterix": 0.50}  # the original package's


def without_stickiness(name, actions):
    family, params, _ = standard(name)
    params = params.replace(sticky_probability=np.zeros(NUM_ENVS, np.float32))
    return rollout(family, params, actions=actions)


def skewed_actions(seed, probabilities):
    shape = (NUM_STEPS, NUM_ENVS)
    return np.random.default_rng(seed).choice(6, size=shape, p=probabilities).astype(np.int32)


@pytest.mark.parametrize(("name", "num_episodes"), [("breakout", 30), ("space_invaders", 5), ("asterix", 4)])
def test_random_play_earns_what_it_does_in_the_original(name, num_episodes):
    *_, run = standard(name)
    returns = episode_returns(run, num_episodes)
    error = 0.005 + 4 * returns.std() / np.sqrt(returns.size)  # the published figure is rounded
    assert abs(returns.mean() - ORIGINAL_RANDOM_RETURN[name]) < error
    assert_mean(returns, from_gymnax.RANDOM_RETURN[name])


@pytest.mark.parametrize("name", GAMES)
def test_channels_of_other_games_are_empty_and_the_games_own_are_not(name):
    *_, run = standard(name)
    screens = np.asarray(SCREEN.unpack(jnp.asarray(run.out.obs)))
    used = screens.any(axis=(0, 1, 2, 3))
    assert used.tolist() == [channel < from_gymnax.NUM_CHANNELS[name] for channel in range(7)]


def test_screens_are_packed_and_unpacked_without_loss():
    screen = jax.random.bernoulli(jax.random.key(0), 0.5, (3, 10, 10, 7)).astype(jnp.float32)
    packed = SCREEN.pack(screen)
    assert (packed.dtype, packed.shape) == (jnp.uint8, (3, 88))
    assert np.array_equal(SCREEN.unpack(packed), screen)


def test_a_game_is_shown_padded_with_empty_channels():
    layers = jax.random.bernoulli(jax.random.key(0), 0.5, (4, 10, 10))
    shown = np.asarray(SCREEN.unpack(show(layers, from_gymnax.params("breakout"))))
    assert np.array_equal(shown[..., :4], np.moveaxis(np.asarray(layers), 0, -1))
    assert not shown[..., 4:].any()


def test_channels_are_permuted_and_the_screen_is_mirrored_bit_for_bit():
    layers = np.random.default_rng(0).random((6, 10, 10)) < 0.5
    source = np.array([3, 6, 0, 5, 1, 4, 2], np.int32)
    params = from_gymnax.params("space_invaders").replace(channel_source=source, mirrored=jnp.bool_(True))
    padded = np.concatenate([layers, np.zeros((1, 10, 10), bool)])
    expected = np.moveaxis(padded[source], 0, -1)[:, ::-1]
    assert np.array_equal(show(jnp.asarray(layers), params), SCREEN.pack(jnp.asarray(expected)))


def test_actions_stick_as_often_as_they_should():
    family, params, _ = standard("breakout")
    sticky = params.replace(sticky_probability=np.full(NUM_ENVS, 0.3, np.float32))
    run = rollout(family, sticky)
    executed = run.state.last_action
    same_episode = ~run.out.terminated[1:] & ~run.out.terminated[:-1]
    asked, before, done = run.action[1:], executed[:-1], executed[1:]
    repeated = (done == before)[same_episode & (asked != before)]
    assert_mean(repeated, 0.3)
    assert (done == asked)[same_episode & (asked == before)].all()
    assert (executed[run.out.terminated] == 0).all()
    never = without_stickiness("breakout", run.action)
    assert (never.state.last_action == run.action)[~never.out.terminated].all()


def test_freeway_ends_after_the_originals_2501_steps_by_termination():
    family, params, run = standard("freeway")
    assert not run.out.terminated.any()
    late = jax.tree.map(lambda leaf: leaf[-1], run.state)
    late = late.replace(game=late.game.replace(time=np.full(NUM_ENVS, 2490, np.int32)))
    ended = rollout(family, params, state=late).out.terminated
    assert not ended[:10].any()
    assert ended[10].all()
    assert ended.sum() == NUM_ENVS


@pytest.mark.parametrize("name", ["breakout", "space_invaders", "asterix"])
def test_no_limit_of_a_thousand_steps_is_added(name):
    family, params, run = standard(name)
    start = jax.tree.map(lambda leaf: leaf[0], run.state)
    old = start.replace(game=start.game.replace(time=np.full(NUM_ENVS, 998, np.int32)))
    after = rollout(family, params, state=old)
    assert not after.out.truncated.any()
    assert not after.out.terminated[1].any()


def test_the_game_is_made_once():
    assert from_gymnax.make_env("breakout") is from_gymnax.make_env("breakout")


def test_the_second_step_of_space_invaders_is_not_compiled_again():
    family, params, _ = standard("space_invaders")
    one = jax.tree.map(lambda leaf: leaf[0], params)
    state, _ = jax.jit(family.env.init)(jax.random.key(0), one)
    step = jax.jit(lambda *args: family.env.step(*args))  # a function of its own has a cache of its own
    for t in range(3):
        state, _ = step(keys.at_step(jax.random.key(1), t), one, state, jnp.int32(5))
    assert step._cache_size() == 1


# -- the same game step for step as in gymnax


def _screen(layers):
    return jnp.moveaxis(layers.astype(jnp.float32), 0, -1)


@pytest.mark.parametrize("name", GAMES)
def test_every_step_is_gymnaxs(name):
    """64 environments for 1,600 steps, from the same states by the same keys; Asterix's spawning is ours in both."""
    num_steps = 1600
    env, game_params = gymnax.make(from_gymnax._NAMES[name], use_minimal_action_set=False)
    rules = from_gymnax._make_game(name)

    def theirs(key, state, action):
        if name == "asterix":
            state = asterix.spawn(jax.random.split(key)[1], state)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            screen, state, reward, terminated, _ = env.step_env(key, state, action, game_params)
            if name == "freeway":
                terminated = terminated | (state.time >= 2501)
        return screen, jax.tree.map(from_gymnax._strongly_typed, state), reward, terminated

    def one(state, key, action):
        step_key, reset_key = jax.random.split(key)
        layers, after, reward, terminated = rules.step(step_key, state, action)
        results = (_screen(layers), after, reward, terminated)
        pairs = zip(jax.tree.leaves(results), jax.tree.leaves(theirs(step_key, state, action)), strict=True)
        same = jnp.stack([(mine == its).all() & (mine.dtype == its.dtype) for mine, its in pairs])
        first_layers, first = rules.reset(reset_key)
        same_first = (_screen(first_layers) == env.get_obs(first)).all()
        state = jax.tree.map(lambda new, old: jnp.where(terminated, new, old), first, after)
        return state, (same.all() & same_first, reward, terminated)

    def steps(state, t):
        step_keys = keys.members(keys.at_step(jax.random.key(2), t), NUM_ENVS)
        return jax.vmap(one)(state, step_keys, actions[t])

    _, _, probabilities = PARITY[name]
    shape = (num_steps, NUM_ENVS)
    actions = jnp.asarray(np.random.default_rng(3).choice(6, size=shape, p=probabilities).astype(np.int32))
    start = jax.vmap(lambda key: rules.reset(key)[1])(keys.members(jax.random.key(4), NUM_ENVS))
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # one key for both, on purpose
        _, (same, reward, terminated) = jax.jit(lambda s: jax.lax.scan(steps, s, jnp.arange(num_steps)))(
            start
        )
    assert np.asarray(same).all()
    assert reward.sum() > 50
    assert terminated.sum() > 100 or name == "freeway"


# -- the same game step for step as in the original package


def original(name):
    minatar = pytest.importorskip("minatar.environments." + name)
    return minatar.Env(ramping=True)


def copy_ball(env, game):
    env.ball_x, env.ball_dir, env.last_x = int(game.ball_x), int(game.ball_dir), int(game.last_x)


def copy_cars(env, game):
    env.cars = np.asarray(game.cars).tolist()


def copy_entities(env, game):
    env.entities = [[*row[:4]] if row[4] else None for row in np.asarray(game.entities).tolist()]


def copy_nothing(env, game):
    del env, game


# What is random is copied from ours: at the start of an episode, and after a step with a random event.
PARITY = {
    "breakout": (copy_ball, copy_nothing, [0.2, 0.4, 0, 0.4, 0, 0]),
    "space_invaders": (copy_nothing, copy_nothing, [0.1, 0.2, 0, 0.2, 0, 0.5]),
    "freeway": (copy_cars, copy_cars, [0.1, 0, 0.8, 0, 0.1, 0]),
    "asterix": (copy_nothing, copy_entities, [0.2, 0.2, 0.2, 0.2, 0.2, 0]),
}


@pytest.mark.parametrize("name", PARITY)
def test_every_step_is_the_originals(name):
    copy_at_start, copy_event, probabilities = PARITY[name]
    env = original(name)
    run = without_stickiness(name, skewed_actions(1, probabilities))
    num_compared = num_rewards = num_ends = 0
    for n in range(3):
        screens = np.asarray(SCREEN.unpack(jnp.asarray(run.obs[:, n])))[..., : from_gymnax.NUM_CHANNELS[name]]
        ours = [jax.tree.map(lambda leaf, t=t, n=n: leaf[t, n], run.state.game) for t in range(NUM_STEPS)]
        # The first state is not recorded, so the first comparison is after the first end; Freeway has none.
        begin = 1 if name == "freeway" else int(np.flatnonzero(run.out.terminated[:, n])[0]) + 1
        env.reset()
        copy_at_start(env, ours[begin - 1])
        if name == "freeway":
            env.move_timer, env.pos = int(ours[0].move_timer), int(ours[0].pos)
        for t in range(begin, NUM_STEPS):
            assert np.array_equal(env.state(), screens[t] > 0), (n, t)
            spawns = name == "asterix" and env.spawn_timer == 0
            reward, terminal = env.act(int(run.action[t, n]))
            if spawns:  # what spawned may have met the player at once, so this step is not compared
                reward, terminal = run.out.reward[t, n], run.out.terminated[t, n]
            assert (reward, terminal) == (run.out.reward[t, n], run.out.terminated[t, n]), (n, t)
            env.terminal = bool(terminal)
            if spawns or reward:
                copy_event(env, ours[t])
            if terminal:
                env.reset()
                copy_at_start(env, ours[t])
            num_compared, num_rewards, num_ends = num_compared + 1, num_rewards + reward, num_ends + terminal
    assert num_compared > 2 * NUM_STEPS
    assert num_rewards > 3
    assert num_ends > 20 or name == "freeway"


@pytest.mark.parametrize("num_filled", range(9))
def test_asterix_spawns_into_a_free_row_and_never_deletes_an_entity(num_filled):
    _, state = from_gymnax._make_game("asterix").reset(jax.random.key(0))
    entities = np.zeros((8, 5), np.int32)
    filled = np.random.default_rng(num_filled).permutation(8)[:num_filled]
    for row in filled:
        entities[row] = [4, row + 1, 1, 0, 1]
    state = state.replace(entities=jnp.asarray(entities), spawn_timer=jnp.int32(0))
    spawn_keys = jax.random.split(jax.random.key(1), 400)
    after = jax.jit(jax.vmap(asterix.spawn, (0, None)))(spawn_keys, state)
    result = np.asarray(after.entities)
    assert (result[:, filled] == entities[filled]).all()
    assert (result[:, :, 4].sum(axis=1) == min(num_filled + 1, 8)).all()
    assert (np.asarray(after.spawn_timer) == 10).all()
    free = np.setdiff1d(np.arange(8), filled)
    if len(free):
        new = result[:, free][result[:, free, 4] == 1]
        assert set(new[:, 1] - 1) == set(free)
        assert set(map(tuple, new[:, [0, 2]].tolist())) == {(0, 1), (9, 0)}
        assert_mean(new[:, 3], 1 / 3)
        assert_mean(new[:, 2], 1 / 2)


def test_asterix_spawns_only_when_it_is_due():
    _, state = from_gymnax._make_game("asterix").reset(jax.random.key(0))
    after = asterix.spawn(jax.random.key(1), state)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_game_of_asterix_with_all_rows_filled_keeps_its_entities_when_it_spawns():
    family, params, run = standard("asterix")
    entities = np.broadcast_to([[2, row + 1, 1, 0, 1] for row in range(8)], (NUM_ENVS, 8, 5)).astype(np.int32)
    start = jax.tree.map(lambda leaf: leaf[0], run.state)
    due = start.game.replace(entities=entities, spawn_timer=np.zeros(NUM_ENVS, np.int32))
    after = rollout(family, params, state=start.replace(game=due)).state.game
    assert np.array_equal(after.entities[0], entities)
    assert (after.spawn_timer[0] == 9).all()


def test_tasks_of_a_game_are_all_the_same():
    family, *_ = standard("breakout")
    for leaf in jax.tree.leaves(sample(family)):
        assert (np.asarray(leaf) == np.asarray(leaf)[:1]).all()
