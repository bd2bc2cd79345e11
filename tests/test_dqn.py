"""The learner against a numpy re-implementation, and against environments whose values are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config
from cl_imitate.envs.base import SymbolObservation
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.learners import replay as replay_lib
from cl_imitate.learners.q_networks import make_q_network
from cl_imitate.types import ScreenObservation, Spec
from tests.ensembles import assert_same

SPEC = Spec(
    observation=SymbolObservation(6), num_actions=3, reward_dtype="int8", can_truncate=True, episode_steps=4
)


def one_rate(rates):
    return jax.tree.map(lambda x: x[0], rates)


class NumpyDQN:
    """DQN with one hidden layer on one-hot symbols, written from the papers in numpy."""

    def __init__(self, params, learner: config.Learner):
        table, head = params["first"], params["head"]
        self.p = [
            np.asarray(x, np.float64) for x in (table["table"], table["bias"], head["kernel"], head["bias"])
        ]
        self.target = [x.copy() for x in self.p]
        self.m = [np.zeros_like(x) for x in self.p]
        self.v = [np.zeros_like(x) for x in self.p]
        self.learner, self.count = learner, 0

    def q(self, p, obs):
        hidden = np.maximum(np.eye(6)[obs] @ p[0] + p[1], 0)
        return hidden, hidden @ p[2] + p[3]

    def update(self, obs, action, reward, terminated, next_obs):
        hidden, q = self.q(self.p, obs)
        online, target = self.q(self.p, next_obs)[1], self.q(self.target, next_obs)[1]
        best = (online if self.learner.double_q else target).argmax(-1)
        batch = np.arange(len(obs))
        goal = reward + self.learner.discount * (1 - terminated) * target[batch, best]
        error = q[batch, action] - goal
        if self.learner.loss == "huber":
            error = np.clip(error, -1, 1)
        dq = np.zeros_like(q)
        dq[batch, action] = error / len(obs)
        dhidden = (dq @ self.p[2].T) * (hidden > 0)
        grads = [np.eye(6)[obs].T @ dhidden, dhidden.sum(0), hidden.T @ dq, dq.sum(0)]
        self.count += 1
        for i, grad in enumerate(grads):
            if self.learner.optimiser == "adam":
                self.m[i] = 0.9 * self.m[i] + 0.1 * grad
                self.v[i] = 0.999 * self.v[i] + 0.001 * grad**2
                m = self.m[i] / (1 - 0.9**self.count)
                v = self.v[i] / (1 - 0.999**self.count)
                self.p[i] -= self.learner.learning_rate * m / (np.sqrt(v) + 1e-8)
            else:
                self.m[i] = 0.95 * self.m[i] + 0.05 * grad
                self.v[i] = 0.95 * self.v[i] + 0.05 * grad**2
                self.p[i] -= self.learner.learning_rate * grad / (np.sqrt(self.v[i] - self.m[i] ** 2) + 0.01)
        if self.learner.target_period_updates == 0:
            tau = self.learner.target_tau
            self.target = [t + tau * (p - t) for t, p in zip(self.target, self.p, strict=True)]


@pytest.mark.parametrize("optimiser", ["adam", "rmsprop_centred"])
@pytest.mark.parametrize(("loss", "double_q", "period"), [("squared", False, 0), ("huber", True, 5)])
def test_fifty_updates_equal_a_numpy_learner_s(optimiser, loss, double_q, period):
    learner = config.Learner(
        learning_rate=1e-2,
        discount=0.9,
        hidden=(7,),
        batch_size=8,
        replay_capacity=32,
        loss=loss,
        double_q=double_q,
        optimiser=optimiser,
        target_period_updates=period,
    )
    dqn = dqn_lib.make_dqn(learner, SPEC)
    rates = one_rate(dqn_lib.hyperparams(learner, 1))
    rng = np.random.default_rng(1)
    state = dqn.init(jax.random.key(3), jnp.uint8(0))
    cursor = replay_lib.first_cursor()
    oracle = NumpyDQN(state.params, learner)
    add, update, sample = jax.jit(dqn.replay.add), jax.jit(dqn.update), jax.jit(dqn.replay.sample)
    for step in range(50):
        row = (rng.integers(6), rng.integers(3), rng.integers(-2, 3), rng.random() < 0.2, rng.integers(6))
        obs, action, reward, terminated, final = row
        rows = add(
            state.rows,
            cursor,
            jnp.uint8(obs),
            jnp.int32(action),
            jnp.float32(reward),
            jnp.bool_(terminated),
            jnp.uint8(final),
        )
        state, cursor = state.replace(rows=rows), replay_lib.advance(cursor)
        key = jax.random.key(step)
        batch, _ = sample(jax.random.clone(key), state.rows, cursor)
        fields = (batch.obs, batch.action, batch.reward, batch.terminated, batch.next_obs)
        oracle.update(*(np.asarray(x) for x in fields))
        state, _ = update(key, state, rates, cursor)
        if period and (step + 1) % period == 0:
            state, oracle.target = dqn.sync(state), [x.copy() for x in oracle.p]
    ours = state.params["first"], state.params["head"]
    for got, expected in zip(
        (ours[0]["table"], ours[0]["bias"], ours[1]["kernel"], ours[1]["bias"]), oracle.p, strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4)


def test_epsilon_falls_linearly_then_stays_and_can_be_held():
    learner = config.Learner(epsilon_start=1.0, epsilon_end=0.1, epsilon_decay_steps=90)
    rates = one_rate(dqn_lib.hyperparams(learner, 1))
    for step, expected in ((0, 1.0), (10, 0.9), (90, 0.1), (1000, 0.1)):
        assert dqn_lib.epsilon_at(rates, jnp.int32(step)) == pytest.approx(expected, abs=1e-6)
    held = dqn_lib.hold_epsilon(rates, jnp.int32(10))
    assert dqn_lib.epsilon_at(held, jnp.int32(1000)) == pytest.approx(0.9, abs=1e-6)


def test_actions_follow_the_policy_and_the_coin_tells_when_they_do_not():
    learner = config.Learner(epsilon_start=0.3, epsilon_end=0.3, hidden=(8,))
    dqn = dqn_lib.make_dqn(learner, SPEC)
    rates = one_rate(dqn_lib.hyperparams(learner, 1))
    state = dqn.init(jax.random.key(0), jnp.uint8(2))
    act_keys = jax.random.split(jax.random.key(1), 20_000)
    action, explored = jax.vmap(lambda key: dqn.act(key, state, rates, jnp.uint8(2), jnp.int32(0)))(act_keys)
    policy = dqn.policy(state, rates, jnp.uint8(2), jnp.int32(0))
    assert policy.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.bincount(action, minlength=3) / 20_000, policy, atol=0.015)
    assert explored.mean() == pytest.approx(0.3, abs=0.015)
    assert len(np.unique(np.asarray(action)[~np.asarray(explored)])) == 1  # the greedy one


def test_padding_the_vocabulary_changes_nothing_for_symbols_in_use():
    wide = Spec(**{**SPEC.__dict__, "observation": SymbolObservation(60)})
    learner = config.Learner(hidden=(8,))
    for spec in (SPEC, wide):
        state = dqn_lib.make_dqn(learner, spec).init(jax.random.key(0), jnp.uint8(2))
        spread = np.asarray(state.params["first"]["table"]).std()
        assert spread == pytest.approx(0.5, rel=0.25)


def test_screens_are_learned_from_too():
    screen = ScreenObservation(10, 10, 7)
    spec = Spec(
        observation=screen, num_actions=6, reward_dtype="int8", can_truncate=False, episode_steps=None
    )
    learner = config.Learner(
        hidden=(32,), learning_rate=1e-3, replay="latest", batch_size=2, replay_capacity=8
    )
    dqn = dqn_lib.make_dqn(learner, spec)
    rates = one_rate(dqn_lib.hyperparams(learner, 1))
    screens = jax.random.bernoulli(jax.random.key(0), 0.2, (3, 10, 10, 7))
    packed = screen.pack(screens)
    state, cursor = dqn.init(jax.random.key(1), packed[0]), replay_lib.first_cursor()
    rows = state.rows
    for step, (action, reward) in enumerate([(1, 1.0), (2, -1.0)]):
        rows = dqn.replay.add(
            rows,
            cursor,
            packed[step + 1],
            jnp.int32(action),
            jnp.float32(reward),
            jnp.bool_(True),
            packed[step + 1],
        )
        cursor = replay_lib.advance(cursor)
    state = state.replace(rows=rows)
    update = jax.jit(dqn.update)
    for step in range(150):
        state, loss = update(jax.random.key(step), state, rates, cursor)
    assert loss < 1e-3


def test_channels_that_a_game_never_lights_are_left_out_and_nothing_changes():
    screen = ScreenObservation(10, 10, 7)
    whole = Spec(
        observation=screen, num_actions=3, reward_dtype="int8", can_truncate=False, episode_steps=None
    )
    part = dataclasses.replace(whole, num_channels=4)
    networks = [make_q_network(spec, hidden=(16,), conv_features=4) for spec in (whole, part)]
    params = networks[0].init(jax.random.key(0))
    assert_same(params, networks[1].init(jax.random.key(0)))
    lit = jax.random.bernoulli(jax.random.key(1), 0.3, (5, 10, 10, 7)).at[..., 4:].set(False)
    obs = screen.pack(lit)

    def loss(network):
        return lambda params: jnp.sin(network.apply(params, obs)).sum()

    values, grads = zip(*(jax.value_and_grad(loss(network))(params) for network in networks), strict=True)
    np.testing.assert_allclose(*values, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *grads)
