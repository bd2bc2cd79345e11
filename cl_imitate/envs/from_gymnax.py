"""MinAtar's games as the original ones are: states and resets are gymnax's, steps and layers those of `minatar/`.

The only file that imports gymnax. Sources: Young & Tian 2019, "MinAtar: An Atari-Inspired Testbed"; Lange 2022,
"gymnax", whose steps write by index and loop, which ensembles pay for (tests hold ours to be the same, step for step).
Where gymnax's defaults differ from the original, the original is followed: all six actions, sticky actions, no limit of
1000 steps, Freeway's timer, which terminates (after 2501 steps) rather than truncates, and Asterix's spawning. One
thing differs from the original: the action that sticks is forgotten at the end of an episode, so that arms which are
reset agree from there on.
"""

import functools
from typing import Any, NamedTuple

import gymnax
import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.envs.base import Env, Spec, TimeStep
from cl_imitate.envs.minatar import asterix, breakout, freeway, space_invaders
from cl_imitate.envs.screens import NUM_ACTIONS, SCREEN, ScreenParams, screen_params, show

# DQN after 4.9M frames, the mean over 30 seeds, epsilon 0.1, read off the figure (Young & Tian 2019).
PUBLISHED_RETURN = {"breakout": 10.1, "space_invaders": 44.0, "asterix": 16.8, "freeway": 50.3}
# Uniformly random actions, measured here over 1.3M steps each; standard errors 0.002, 0.015, 0.006, 0.016.
RANDOM_RETURN = {"breakout": 0.514, "space_invaders": 2.85, "asterix": 0.501, "freeway": 0.11}
NUM_CHANNELS = {"breakout": 4, "space_invaders": 6, "asterix": 4, "freeway": 7}

_NAMES = {
    "breakout": "Breakout-MinAtar",
    "space_invaders": "SpaceInvaders-MinAtar",
    "asterix": "Asterix-MinAtar",
    "freeway": "Freeway-MinAtar",
}
_RULES = {"breakout": breakout, "space_invaders": space_invaders, "asterix": asterix, "freeway": freeway}


class _Game(NamedTuple):
    """One game by the original's rules, its screen as layers [channels, 10, 10]. No auto-reset."""

    reset: Any  # key -> (layers, game_state)
    step: Any  # key, game_state, action -> (layers, game_state, reward, terminated)


@struct.dataclass(kw_only=True)
class ScreenState:
    """Where a life is."""

    game: Any  # gymnax's state of the game; every leaf int32, float32 or bool, strongly typed
    last_action: jax.Array  # int32 []: as executed, in the game's own numbering
    step_in_episode: jax.Array  # int32 []
    age: jax.Array  # int32 []: steps lived, kept over episodes
    pending_reward: jax.Array  # float32 []


def params(game: str, *, sticky_probability: float = 0.1) -> ScreenParams:
    """The game as it is."""
    return screen_params(num_channels=NUM_CHANNELS[game], sticky_probability=sticky_probability)


def _strongly_typed(leaf: Any) -> jax.Array:
    """gymnax resets some leaves to Python numbers, and a weakly typed carry compiles a second time."""
    array = jnp.asarray(leaf)
    for kind, dtype in ((jnp.bool_, jnp.bool_), (jnp.integer, jnp.int32)):
        if jnp.issubdtype(array.dtype, kind):
            return jax.lax.convert_element_type(array, dtype)
    return jax.lax.convert_element_type(array, jnp.float32)


@functools.cache
def _make_game(game: str) -> _Game:
    env, game_params = gymnax.make(_NAMES[game], use_minimal_action_set=False)
    rules = _RULES[game]

    def reset(key: jax.Array):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            _, state = env.reset_env(key, game_params)
        state = jax.tree.map(_strongly_typed, state)
        return rules.layers(state), state

    def step(key: jax.Array, state: Any, action: jax.Array):
        state, reward, terminated = rules.step(key, state, action)
        return rules.layers(state), state, reward, terminated

    return _Game(reset=reset, step=step)


def _first(game_state: Any, age: jax.Array) -> ScreenState:
    return ScreenState(
        game=game_state,
        last_action=jnp.int32(0),
        step_in_episode=jnp.int32(0),
        age=age,
        pending_reward=jnp.float32(0.0),
    )


@functools.cache
def make_env(game: str) -> Env:
    """The bundle of one game; the same object each time, so compiled programs are shared."""
    rules = _make_game(game)

    def init(key: jax.Array, params: ScreenParams):
        layers, game_state = rules.reset(key)
        return _first(game_state, jnp.int32(0)), show(layers, params)

    def reset(key: jax.Array, params: ScreenParams, state: ScreenState):
        layers, game_state = rules.reset(key)
        return _first(game_state, state.age), show(layers, params)

    def step(key: jax.Array, params: ScreenParams, state: ScreenState, action: jax.Array):
        sticky_key, step_key, reset_key = jax.random.split(key, 3)
        sticks = jax.random.uniform(sticky_key) < params.sticky_probability
        executed = jnp.where(sticks, state.last_action, params.action_meaning[action])
        layers, game_state, reward, terminated = rules.step(step_key, state.game, executed)
        first_layers, first_state = rules.reset(reset_key)

        step_in_episode = state.step_in_episode + 1
        pending = state.pending_reward + params.reward_sign * reward
        pays = terminated | (step_in_episode % params.reward_every == 0)
        going_on = ScreenState(
            game=game_state,
            last_action=executed,
            step_in_episode=step_in_episode,
            age=state.age + 1,
            pending_reward=jnp.where(pays, 0.0, pending),
        )
        started = _first(first_state, state.age + 1)
        new_state = jax.tree.map(lambda new, old: jnp.where(terminated, new, old), started, going_on)
        return new_state, TimeStep(
            obs=show(jnp.where(terminated, first_layers, layers), params),
            reward=jnp.where(pays, pending, 0.0),
            terminated=terminated,
            truncated=jnp.bool_(False),
            final_obs=show(layers, params),
        )

    spec = Spec(
        observation=SCREEN,
        num_actions=NUM_ACTIONS,
        reward_dtype="int8",
        can_truncate=False,
        episode_steps=None,
        num_channels=NUM_CHANNELS[game],
    )
    return Env(spec=spec, init=init, reset=reset, step=step)
