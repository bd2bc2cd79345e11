"""Other designs of a vmapped DQN, for bench_simulate.py: the same work as ours, each as its authors would lay it out.

All of them: one env step and one update of a batch of 32 in turn, Adam, the target network copied every 1000
updates, epsilon-greedy, a replay of full transitions. Needs the extra `bench`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import flashbax
import gymnax
import jax
import jax.numpy as jnp
import optax
import rejax
from flax import linen as nn
from flax import struct
from flax.training.train_state import TrainState
from gymnax.environments import environment, spaces

HIDDEN = {"cart_pole": (120, 84), "dark_room": (64,), "breakout": (128,)}
BATCH, LEARNING_RATE, DISCOUNT, EPSILON, TARGET_PERIOD = 32, 2.5e-4, 0.99, 0.1, 1000


class Peer(NamedTuple):
    """What a benchmark drives. `members` has a leading axis of learners, `shared` has none.

    step: (members, shared) -> the same, one env step and one update of every learner.
    params, num_updates: of `members`.
    """

    members: Any
    shared: Any
    step: Callable
    params: Callable
    num_updates: Callable


# ---- environments, by gymnax's interface


@struct.dataclass
class DarkRoomState(environment.EnvState):
    position: Any = None


@struct.dataclass
class DarkRoomParams(environment.EnvParams):
    goal: Any = None
    max_steps_in_episode: int = 20


class DarkRoom(environment.Environment):
    """A room of 9 x 9 with one goal; the cell as one-hot floats."""

    @property
    def default_params(self):
        return DarkRoomParams(goal=jnp.array([2, 7], jnp.int32))

    def reset_env(self, key, params):
        del key, params
        state = DarkRoomState(time=0, position=jnp.array([4, 4], jnp.int32))
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        del key
        moves = jnp.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], jnp.int32)
        position = jnp.clip(state.position + moves[action], 0, 8)
        reward = (position == params.goal).all().astype(jnp.float32)
        state = DarkRoomState(time=state.time + 1, position=position)
        return self.get_obs(state), state, reward, jnp.bool_(False), {}

    def get_obs(self, state, params=None, key=None):
        return jax.nn.one_hot(9 * state.position[0] + state.position[1], 81)

    def is_terminated(self, state, params):
        return jnp.bool_(False)

    @property
    def name(self):
        return "DarkRoom"

    @property
    def num_actions(self):
        return 5

    def action_space(self, params=None):
        return spaces.Discrete(5)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (81,), jnp.float32)


class WithDone:
    """gymnax's interface before 1.0, which rejax expects: one `done` for both ends of an episode."""

    def __init__(self, env):
        self._env = env

    def __getattr__(self, name):
        if name.startswith("_"):  # rejax copies its fields, and a copy asks before it has any
            raise AttributeError(name)
        return getattr(self._env, name)

    def step(self, key, state, action, params):
        obs, state, reward, terminated, truncated, info = self._env.step(key, state, action, params)
        return obs, state, reward, terminated | truncated, info


def make_environment(name: str):
    if name == "dark_room":
        env = DarkRoom()
        return env, env.default_params
    if name == "cart_pole":
        return gymnax.make("CartPole-v1")
    return gymnax.make("Breakout-MinAtar", use_minimal_action_set=False)


# ---- networks


class Network(nn.Module):
    """The published convolution for screens, an MLP else, by `lax.conv` and plain products."""

    num_actions: int
    hidden: tuple[int, ...]
    is_screen: bool

    @nn.compact
    def __call__(self, x):
        if self.is_screen:
            x = nn.relu(nn.Conv(16, (3, 3), padding="VALID")(x.astype(jnp.float32)))
            x = x.reshape(*x.shape[:-3], -1)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_actions)(x)


def make_network(name: str, num_actions: int) -> Network:
    return Network(num_actions, HIDDEN[name], name == "breakout")


def _target(network, params, batch_next, reward, done):
    return reward + DISCOUNT * (1.0 - done) * network.apply(params, batch_next).max(axis=-1)


def _loss(params, network, obs, action, target):
    q = jnp.take_along_axis(network.apply(params, obs), action[:, None], axis=-1)[:, 0]
    return jnp.square(q - target).mean()


# ---- peers


def rejax_dqn(name: str, num_learners: int, capacity: int) -> Peer:
    """rejax, vmapped over keys, its own training iteration; a convolution in the place of its MLP on screens."""
    env, params = make_environment(name)

    class Agent(nn.Module):
        def setup(self):
            self.q = make_network(name, env.num_actions)

        def __call__(self, obs):
            return self.q(obs)

        def act(self, obs, rng, epsilon=0.05):
            return distrax.EpsilonGreedy(self(obs), epsilon=epsilon).sample(seed=rng)

        def take(self, obs, action):
            return jnp.take_along_axis(self(obs), action[:, None], axis=1).squeeze(axis=1)

    algorithm = rejax.algos.DQN(
        env=WithDone(env),
        env_params=params,
        eval_callback=lambda *_: None,
        agent=Agent(),
        total_timesteps=1_000_000,
        learning_rate=LEARNING_RATE,
        gamma=DISCOUNT,
        num_envs=1,
        buffer_size=capacity,
        fill_buffer=0,
        batch_size=BATCH,
        eps_start=EPSILON,
        eps_end=EPSILON,
        target_update_freq=TARGET_PERIOD,
        polyak=0.0,
        ddqn=False,
    )
    members = jax.jit(jax.vmap(algorithm.init_state))(_keys(num_learners))

    def step(members, shared):
        return jax.vmap(algorithm.train_iteration)(members), shared

    return Peer(members, (), step, lambda m: m.q_ts.params, lambda m: m.q_ts.step)


@struct.dataclass
class FlashbaxLearner:
    train: TrainState
    target: Any
    buffer: Any
    obs: jax.Array
    env_state: Any
    key: jax.Array


def purejaxrl_style(name: str, num_learners: int, capacity: int) -> Peer:
    """Our reading of that design: TrainState, a flashbax buffer, `cond` on counters. The counter is not batched,
    and each learner has its own key."""
    env, env_params = make_environment(name)
    network = make_network(name, env.num_actions)
    buffer = flashbax.make_flat_buffer(
        max_length=capacity, min_length=BATCH, sample_batch_size=BATCH, add_sequences=False, add_batch_size=1
    )

    def init(key):
        init_key, reset_key, key = jax.random.split(key, 3)
        obs, env_state = env.reset(reset_key, env_params)
        params = network.init(init_key, obs[None])
        train = TrainState.create(apply_fn=network.apply, params=params, tx=optax.adam(LEARNING_RATE))
        row = {"obs": obs, "action": jnp.int32(0), "reward": jnp.float32(0), "done": jnp.bool_(False)}
        target = jax.tree.map(jnp.copy, params)
        return FlashbaxLearner(train, target, buffer.init(row), obs, env_state, key)

    def act(learner):
        key, coin_key, action_key, step_key = jax.random.split(learner.key, 4)
        q = network.apply(learner.train.params, learner.obs[None])[0]
        random = jax.random.randint(action_key, (), 0, env.num_actions)
        action = jnp.where(jax.random.uniform(coin_key) < EPSILON, random, jnp.argmax(q).astype(jnp.int32))
        obs, env_state, reward, terminated, truncated, _ = env.step(
            step_key, learner.env_state, action, env_params
        )
        row = {
            "obs": learner.obs,
            "action": action,
            "reward": jnp.asarray(reward, jnp.float32),
            "done": terminated | truncated,
        }
        added = buffer.add(learner.buffer, jax.tree.map(lambda x: x[None], row))
        return learner.replace(key=key, obs=obs, env_state=env_state, buffer=added)

    def learn(learner):
        key, sample_key = jax.random.split(learner.key)
        batch = buffer.sample(learner.buffer, sample_key).experience
        first, second = batch.first, batch.second
        target = _target(network, learner.target, second["obs"], first["reward"], first["done"])
        grads = jax.grad(_loss)(learner.train.params, network, first["obs"], first["action"], target)
        return key, learner.train.apply_gradients(grads=grads)

    def step(members, counter):
        members = jax.vmap(act)(members)
        key, train = jax.lax.cond(counter > BATCH, jax.vmap(learn), lambda m: (m.key, m.train), members)
        members = members.replace(key=key, train=train)  # the buffer does not pass through a `cond`
        is_due = counter % TARGET_PERIOD == 0
        target = jax.lax.cond(is_due, lambda m: m.train.params, lambda m: m.target, members)
        return members.replace(target=target), counter + 1

    members = jax.jit(jax.vmap(init))(_keys(num_learners))
    return Peer(members, jnp.int32(0), step, lambda m: m.train.params, lambda m: m.train.step)


def naive(name: str, num_learners: int, capacity: int) -> Peer:
    """One learner as one would write it first, then `vmap`: batched `cond`, an index of its own for each learner,
    float observations stored twice."""
    env, env_params = make_environment(name)
    network, optimiser = make_network(name, env.num_actions), optax.adam(LEARNING_RATE)

    def init(key):
        init_key, reset_key, key = jax.random.split(key, 3)
        obs, env_state = env.reset(reset_key, env_params)
        params = network.init(init_key, obs[None])
        empty = jnp.zeros((capacity, *obs.shape), jnp.float32)
        zeros = jnp.zeros((capacity,), jnp.float32)
        return {
            "params": params,
            "target": jax.tree.map(jnp.copy, params),
            "opt": optimiser.init(params),
            "replay": (empty, jnp.copy(empty), jnp.zeros((capacity,), jnp.int32), zeros, jnp.copy(zeros)),
            "obs": obs,
            "env_state": env_state,
            "key": key,
            "count": jnp.int32(0),
            "updates": jnp.int32(0),
        }

    def learn(s):
        key, sample_key = jax.random.split(s["key"])
        index = jax.random.randint(sample_key, (BATCH,), 0, jnp.minimum(s["count"], capacity))
        obs, next_obs, action, reward, done = jax.tree.map(lambda x: x[index], s["replay"])
        target = _target(network, s["target"], next_obs, reward, done)
        grads = jax.grad(_loss)(s["params"], network, obs, action, target)
        direction, opt = optimiser.update(grads, s["opt"])
        params = optax.apply_updates(s["params"], direction)
        return s | {"params": params, "opt": opt, "key": key, "updates": s["updates"] + 1}

    def one(s):
        key, coin_key, action_key, step_key = jax.random.split(s["key"], 4)
        q = network.apply(s["params"], s["obs"][None])[0]
        random = jax.random.randint(action_key, (), 0, env.num_actions)
        action = jnp.where(jax.random.uniform(coin_key) < EPSILON, random, jnp.argmax(q).astype(jnp.int32))
        obs, env_state, reward, terminated, truncated, _ = env.step(
            step_key, s["env_state"], action, env_params
        )
        row = (
            s["obs"],
            obs,
            action,
            jnp.asarray(reward, jnp.float32),
            (terminated | truncated).astype(jnp.float32),
        )
        where = s["count"] % capacity
        replay = jax.tree.map(lambda old, new: old.at[where].set(new), s["replay"], row)
        s = s | {"replay": replay, "obs": obs, "env_state": env_state, "key": key, "count": s["count"] + 1}
        s = jax.lax.cond(s["count"] > BATCH, learn, lambda s: s, s)
        is_due = s["updates"] % TARGET_PERIOD == 0
        return s | {"target": jax.lax.cond(is_due, lambda s: s["params"], lambda s: s["target"], s)}

    def step(members, shared):
        return jax.vmap(one)(members), shared

    members = jax.jit(jax.vmap(init))(_keys(num_learners))
    return Peer(members, (), step, lambda m: m["params"], lambda m: m["updates"])


PEERS = {"rejax": rejax_dqn, "purejaxrl_style": purejaxrl_style, "naive": naive}


@functools.cache
def _keys(num_learners: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), num_learners)
