"""Lockstep: bit for bit the same, chunked or not, resumed or not, in company of few or many."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import checkpoint, config, simulate
from cl_imitate.learners import replay
from tests.compiles import count_compiles
from tests.ensembles import LEARNER, assert_same, copy, group

VARIED = dataclasses.replace(LEARNER, learning_starts_steps=8, steps_per_update=2, target_period_updates=4)


@pytest.mark.parametrize("learner", [LEARNER, VARIED], ids=["plain", "warm-up, period, two steps an update"])
def test_chunked_equals_unchunked(learner):
    one = group(4, learner)
    whole, first = one.live(one.newborn(), 48, chunk_steps=8)
    parts, second = one.live(one.newborn(), 48, chunk_steps=4 if learner is LEARNER else 8)
    assert_same(first, second)
    assert_same(whole, parts)
    if learner is VARIED:  # the period divides the chunk, or the reverse
        parts, second = one.live(one.newborn(), 48, chunk_steps=2)
        assert_same(first, second)
        assert_same(whole, parts)


def test_resumed_from_disk_equals_uninterrupted(tmp_path):
    one = group(4)
    whole, history = one.live(one.newborn(), 32, chunk_steps=8)
    half, _ = one.live(one.newborn(), 16, chunk_steps=8)
    checkpoint.save(tmp_path / "snapshot", half)
    restored = checkpoint.load(tmp_path / "snapshot", jax.eval_shape(one.newborn))
    resumed, rest = one.live(restored, 16, chunk_steps=8)
    assert_same(whole, resumed)
    assert_same(jax.tree.map(lambda x: x[:, 16:], history), rest)


def test_learner_i_does_not_depend_on_how_many_there_are():
    few, many = group(4), group(64)
    alone, first = few.live(few.newborn(), 40, chunk_steps=8)
    together, second = many.live(many.newborn(), 40, chunk_steps=8)
    assert_same(first, jax.tree.map(lambda x: x[:4], second))
    assert_same(alone.learner, jax.tree.map(lambda x: x[:4], together.learner))


def test_learners_differ_in_parameters_and_first_actions():
    one = group(64)
    ensemble, history = one.live(one.newborn(), 40, chunk_steps=8)
    table = np.asarray(ensemble.learner.params["first"]["table"]).reshape(64, -1)
    assert len(np.unique(table, axis=0)) == 64
    assert len(np.unique(history.action[:, 0])) == 3
    assert len(np.unique(history.action, axis=0)) >= 60  # some always find the same action best


def test_without_jit_the_same_happens():
    one = group(2)
    after, compiled = one.live(one.newborn(), 1, chunk_steps=1)
    static = {"env": one.family.env, "dqn": one.dqn, "learner": one.learner}
    ensemble, record = simulate.env_step(
        one.newborn(), one.streams, one.env_params, one.rates, **static, mode="learn"
    )
    ensemble = simulate.gradient_step(ensemble, one.streams, one.rates, dqn=one.dqn)
    assert_same(record, jax.tree.map(lambda x: x[:, 0], compiled))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        ensemble.learner.params,
        after.learner.params,
    )


def test_every_step_is_recorded_as_it_was():
    one = group(4, environment=config.Bandit(episode_steps=8))  # its rewards are random
    _, history = one.live(one.newborn(), 40, chunk_steps=8)
    env, params = one.family.env, one.env_params
    step = jax.jit(jax.vmap(env.step))
    env_keys = one.streams.env
    from cl_imitate import keys

    ensemble = one.newborn()
    state, obs = ensemble.env_state, ensemble.obs
    for t in range(40):
        np.testing.assert_array_equal(history.obs[:, t], obs)
        step_keys = jax.vmap(keys.at_step, (0, None))(env_keys, t)
        state, timestep = step(step_keys, params, state, jnp.asarray(history.action[:, t], jnp.int32))
        obs = timestep.obs
        np.testing.assert_array_equal(history.reward[:, t], timestep.reward.astype(jnp.int8))
        np.testing.assert_array_equal(history.truncated[:, t], timestep.truncated)
    assert history.truncated[:, 7::8].all()
    assert 0.1 < history.explored.mean() < 0.5  # epsilon goes from 0.3 to 0.1


def test_replay_indices_can_be_recomputed_from_the_learner_s_key_alone():
    """A learner rebuilt from its history and its key has the weights that the ensemble's has."""
    from cl_imitate import keys

    one = group(4)
    ensemble, history = one.live(one.newborn(), 16, chunk_steps=8)
    i, dqn = 2, one.dqn
    state = jax.tree.map(lambda x: x[i], one.newborn().learner)
    cursor, rates = replay.first_cursor(), jax.tree.map(lambda x: x[i], one.rates)
    replay_key = keys.stream(one.keys[i], keys.Stream.REPLAY)
    obs = np.append(history.obs[i], np.asarray(ensemble.obs)[i])
    update, add = jax.jit(dqn.update), jax.jit(dqn.replay.add)
    final = np.asarray(ensemble.learner.rows)[i, :, 1]  # what the reset hid is in the ring itself
    for t in range(16):
        row = (obs[t + 1], history.action[i, t], history.reward[i, t], False, final[t + 1])
        types = (jnp.uint8, jnp.int32, jnp.float32, jnp.bool_, jnp.uint8)
        rows = add(state.rows, cursor, *(kind(value) for kind, value in zip(types, row, strict=True)))
        state, cursor = state.replace(rows=rows), replay.advance(cursor)
        state, _ = update(keys.at_step(replay_key, t), state, rates, cursor)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[i], rtol=1e-5, atol=1e-6),
        state.params,
        ensemble.learner.params,
    )


def test_a_held_learner_keeps_its_weights_and_its_replay():
    one = group(4)
    ensemble, _ = one.live(one.newborn(), 16, chunk_steps=8)
    before = copy(ensemble.learner)
    after, history = one.live(ensemble, 16, chunk_steps=8, hold=True)
    assert_same(before, after.learner)
    assert history.action.shape == (4, 16)
    assert int(after.clock.update) == 16
    assert int(after.clock.step) == 32


def test_rates_are_each_learner_s_own():
    """An ensemble over hyperparameters: learner i is what it is in an ensemble where all have its rates."""
    one = group(4)
    rates = one.rates.replace(
        learning_rate=jnp.array([1e-3, 2e-3, 5e-3, 1e-2]), epsilon_start=jnp.array([0.1, 0.9, 0.3, 0.5])
    )
    mixed, history = one._replace(rates=rates).live(one.newborn(), 16, chunk_steps=8)
    for i in (0, 3):
        same = jax.tree.map(lambda leaf, i=i: jnp.full_like(leaf, leaf[i]), rates)
        alone, alone_history = one._replace(rates=same).live(one.newborn(), 16, chunk_steps=8)
        for ours, theirs in ((mixed.learner, alone.learner), (history, alone_history)):
            assert_same(*(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (ours, theirs)))
    assert np.ptp(history.explored.mean(axis=1)) > 0.1


def test_a_learner_that_diverges_stops_the_run_and_is_named():
    one = group(4)
    rates = one.rates.replace(learning_rate=one.rates.learning_rate.at[2].set(jnp.inf))
    with pytest.raises(FloatingPointError, match=r"learner 2 are not finite after step \d+ \(1 of 4"):
        one._replace(rates=rates).live(one.newborn(), 64, chunk_steps=8)


def test_warm_up_is_random_and_changes_no_weights():
    one = group(4, VARIED)
    newborn = one.newborn()
    before = copy(newborn.learner.params)
    after, history = one.live(newborn, 8, chunk_steps=8)
    assert_same(before, after.learner.params)
    assert history.explored.all()
    assert int(after.clock.cursor.num_added) == 9


def test_a_learner_whose_replay_was_emptied_fills_it_by_its_own_policy_before_it_learns_on():
    one = group(4, VARIED)
    lived, _ = one.live(one.newborn(), 16, chunk_steps=8)
    emptied = lived.replace(clock=lived.clock.replace(cursor=replay.first_cursor()))
    before = copy(emptied.learner.params)
    filled, history = one.live(emptied, 8, chunk_steps=8)
    assert_same(before, filled.learner.params)
    assert not history.explored.all()  # not the newborn's random warm-up
    after, _ = one.live(filled, 8, chunk_steps=8)
    assert np.abs(np.asarray(after.learner.params["head"]["kernel"] - before["head"]["kernel"])).max() > 0


def test_no_branch_and_no_open_loop_is_in_the_learner_s_program():
    one = group(4)
    jaxpr = jax.make_jaxpr(
        lambda ensemble: simulate.run_chunk(
            ensemble,
            one.streams,
            one.env_params,
            one.rates,
            env=one.family.env,
            dqn=one.dqn,
            learner=one.learner,
            num_steps=8,
            mode="learn",
        )
    )(one.newborn())
    text = str(jaxpr)
    assert "scan" in text
    assert " cond[" not in text
    assert " while[" not in text


def test_chunks_of_one_shape_are_traced_once():
    learner = dataclasses.replace(LEARNER, batch_size=7)
    one = group(2, learner)
    ensemble, _ = one.live(one.newborn(), 8, chunk_steps=8)
    with count_compiles() as compiles:
        one.live(ensemble, 24, chunk_steps=8)
    assert compiles == []


def test_a_new_episode_keeps_the_learner_and_the_age():
    one = group(4)
    ensemble, _ = one.live(one.newborn(), 12, chunk_steps=4)  # in the middle of an episode of 8
    reset_keys = jax.random.split(jax.random.key(0), 4)
    begun = simulate.begin_episode(ensemble, reset_keys, one.env_params, env=one.family.env, dqn=one.dqn)
    assert_same(begun.learner.params, ensemble.learner.params)
    np.testing.assert_array_equal(begun.env_state.age, 12)
    np.testing.assert_array_equal(begun.env_state.step_in_episode, 0)
    np.testing.assert_array_equal(begun.learner.rows[:, 12, 0], begun.obs)


@pytest.mark.parametrize(
    ("boundaries", "at_most", "expected"),
    [((640, 160, 96), 2048, 32), ((640, 160, 96), 20, 16), ((64,), 2048, 64)],
)
def test_the_chunk_is_the_largest_that_ends_on_every_boundary(boundaries, at_most, expected):
    assert simulate.chunk_plan(boundaries, config.Learner(), at_most=at_most) == expected


def test_a_chunk_fits_the_target_period_or_the_error_names_the_keys():
    learner = config.Learner(target_period_updates=1000, learning_starts_steps=5000)
    assert simulate.chunk_plan((60_000,), learner, at_most=2048) == 1000
    odd = config.Learner(steps_per_update=4)
    with pytest.raises(ValueError, match="steps_per_update = 4"):
        simulate.chunk_plan((30,), odd, at_most=2048)


def test_the_next_chunk_is_dispatched_before_a_history_is_handed_out(monkeypatch):
    one, dispatched = group(4), []
    run_chunk = simulate.run_chunk
    monkeypatch.setattr(simulate, "run_chunk", lambda *a, **k: dispatched.append(0) or run_chunk(*a, **k))
    seen = [
        (ensemble is None, len(dispatched))
        for ensemble, _ in one.advance(one.newborn(), 40, chunk_steps=8, keep_steps={16})
    ]
    # an ensemble that is handed out is not yet consumed: at 16, and at the end; there are two blocks
    assert seen == [(True, 4), (False, 4), (True, 8), (True, 10), (False, 10)]


def test_4096_learners_in_one_program_are_distinct_and_the_same_as_in_small_company():
    few, many = group(100), group(4096)
    _, first = few.live(few.newborn(), 40, chunk_steps=40, block_size=64)
    ensemble, second = many.live(many.newborn(), 40, chunk_steps=40, block_size=64)
    assert_same(first, jax.tree.map(lambda x: x[:100], second))
    table = np.asarray(ensemble.learner.params["first"]["table"]).reshape(4096, -1)
    assert len(np.unique(table, axis=0)) == 4096
    lives = np.concatenate([second.action, second.obs, second.explored], axis=1)
    assert len(np.unique(lives, axis=0)) > 4000


def test_so_many_updates_are_made_for_so_many_steps():
    learner = dataclasses.replace(LEARNER, steps_per_update=4, updates_per_iteration=3)
    one = group(2, learner)
    ensemble, _ = one.live(one.newborn(), 16, chunk_steps=8)
    assert (int(ensemble.clock.step), int(ensemble.clock.update)) == (16, 12)
    np.testing.assert_array_equal(ensemble.learner.opt_state.count, 12)
