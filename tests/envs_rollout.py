"""One compiled rollout for every test of environments: the same shapes, so each environment compiles once."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import keys
from cl_imitate.config import Bandit, CartPole, DarkRoom, KeyToDoor, Lock, MinAtar, RandomMDP, Shapes
from cl_imitate.envs import tasks

SHAPES = Shapes(num_symbols=64, num_actions=5, num_states=64, num_outcomes=3)
NUM_ENVS = 64
NUM_STEPS = 1000
GAMES = ("breakout", "space_invaders", "asterix", "freeway")
TABULAR = {
    "lock": Lock(),
    "lock_endless": Lock(
        num_positions=30,
        symbols="per_task",
        resets=False,
        on_wrong="advance",
        initial_positions=4,
        grow_every_steps=20,
    ),
    "lock_reset": Lock(on_wrong="reset"),
    "dark_room": DarkRoom(size=5),
    "dark_room_torus": DarkRoom(size=6, torus=True, start="random_per_task"),
    "key_to_door": KeyToDoor(size=5),
    "bandit": Bandit(),
    "bandit_contexts": Bandit(num_contexts=3),
    "random_mdp": RandomMDP(),
}
ENVIRONMENTS = TABULAR | {game: MinAtar(game=game) for game in GAMES} | {"cart_pole": CartPole()}


class Rollout(NamedTuple):
    """Numpy arrays [T, N]; `obs` is what was seen before the action, `state` the state after it."""

    obs: np.ndarray
    action: np.ndarray
    state: Any
    out: Any  # TimeStep


@functools.partial(jax.jit, static_argnames=("env",))
def _run(env, key, params, state, actions_TxN):
    def step(state, action_and_index):
        action, index = action_and_index
        step_keys = keys.members(keys.at_step(key, index), NUM_ENVS)
        state, out = jax.vmap(env.step)(step_keys, params, state, action)
        return state, (state, out)

    return jax.lax.scan(step, state, (actions_TxN, jnp.arange(len(actions_TxN))))[1]


@functools.partial(jax.jit, static_argnames=("env",))
def first(env, key, params):
    return jax.vmap(env.init)(keys.members(key, NUM_ENVS), params)


def sample(family, seed=0):
    return jax.jit(jax.vmap(family.sample))(keys.members(jax.random.key(seed), NUM_ENVS))


def random_actions(family, seed=0):
    shape = (NUM_STEPS, NUM_ENVS)
    return np.random.default_rng(seed).integers(family.env.spec.num_actions, size=shape, dtype=np.int32)


def rollout(family, params, *, seed=0, actions=None, state=None) -> Rollout:
    actions = random_actions(family, seed) if actions is None else actions
    init_key, run_key = jax.random.split(jax.random.key(seed))
    first_state, obs = first(family.env, init_key, params)
    states, out = _run(family.env, run_key, params, first_state if state is None else state, actions)
    states, out = jax.tree.map(np.asarray, (states, out))
    return Rollout(np.concatenate([np.asarray(obs)[None], out.obs[:-1]]), actions, states, out)


@functools.cache
def standard(name) -> tuple[tasks.Family, Any, Rollout]:
    """The family of a name, 64 training tasks, and 1000 random steps in each."""
    family = tasks.make(ENVIRONMENTS[name], shapes=SHAPES)
    params = sample(family)
    return family, params, rollout(family, params)


def episode_returns(run: Rollout, num_episodes: int) -> np.ndarray:
    """[N, num_episodes]: each environment's first so many, so that none is left out for being long."""
    done = run.out.terminated | run.out.truncated
    episode = np.cumsum(done, axis=0) - done
    assert done.sum(axis=0).min() >= num_episodes
    return np.stack([(run.out.reward * (episode == i)).sum(axis=0) for i in range(num_episodes)], axis=1)


def assert_mean(sample_of, expected, num_errors=4.0):
    values = np.ravel(sample_of)
    error = values.std() / np.sqrt(values.size)
    assert abs(values.mean() - expected) < num_errors * error + 1e-9, (values.mean(), expected, error)
