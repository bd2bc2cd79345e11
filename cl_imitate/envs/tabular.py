"""Environments as tables: one compiled program for every symbolic family, variant and task.

A task is a table of next states, reward probabilities and observations, padded to the run's `Shapes`. So a
learner, an imitator or a compiled evaluation carried from one family to another meets the same types, and a
thousand different tasks are one `vmap`.

Axes: S states, A actions, O outcomes of a state and an action.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.config import Shapes
from cl_imitate.envs.base import Env, Spec, SymbolObservation, TimeStep


@struct.dataclass(kw_only=True)
class TabularParams:
    """One task. Rewards are 0 or 1; rows past `num_states` are padding and never reached.

    `presses` p: an action acts when chosen for the p-th time in a row; until then the state stays and the
    reward is 0; after acting the count restarts. `reward_every` d: reward accumulates, and is paid at every
    d-th step of an episode and at its last (d at most 127, as rewards are stored as int8). Open-ended: with
    `grow_every_steps` g > 0, only the first `initial_states + (age - grow_from_step) // g` states are active (at
    least `initial_states`, at most `num_states`); an arrival at an inactive one goes to state 0 instead. With g = 0
    the first `initial_states` are active for ever.
    """

    next_state: jax.Array  # int16 [S, A, O]
    outcome_probability: jax.Array  # float32 [S, A, O]
    reward_probability: jax.Array  # float32 [S, A, O]
    observation: jax.Array  # uint8 [S]
    num_states: jax.Array  # int32 []
    start_state: jax.Array  # int32 []: the first of the start states, one of which is drawn uniformly
    num_start_states: jax.Array  # int32 []: so many in a row
    resets: jax.Array  # bool []; False: an episode boundary leaves the state where it is
    horizon_steps: jax.Array  # int32 []: truncated there; nothing terminates
    reward_every: jax.Array  # int32 []
    presses: jax.Array  # int32 []
    initial_states: jax.Array  # int32 []
    grow_every_steps: jax.Array  # int32 []
    grow_from_step: jax.Array  # int32 []


@struct.dataclass(kw_only=True)
class TabularState:
    """Where a life is."""

    state: jax.Array  # int32 []
    step_in_episode: jax.Array  # int32 []
    age: jax.Array  # int32 []: steps lived, kept over episodes
    last_action: jax.Array  # int32 []
    press_count: jax.Array  # int32 []: how often in a row `last_action` was chosen without acting
    pending_reward: jax.Array  # float32 []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What is static about a family's tables. States 0 .. num_symbols - 1 show distinct symbols."""

    family: str
    num_states: int
    num_symbols: int  # distinct symbols of one task
    num_family_symbols: int  # the family uses symbols 0 .. num_family_symbols - 1
    mirrored: tuple[int, ...]  # [num_symbols]: state d shows, mirrored, what state mirrored[d] showed
    num_start_choices: int = 0  # `change_start` chooses among states 0 .. this - 1; 0: not supported
    num_outcomes: int = 1
    num_actions: int = 2  # at least

    def check(self, shapes: Shapes) -> "Layout":
        """Raises ValueError where the family does not fit the run's shapes; returns itself."""
        for name in ("num_states", "num_symbols", "num_outcomes", "num_actions"):
            needed, allowed = getattr(self, name), getattr(shapes, name)
            if needed > allowed:
                raise ValueError(
                    f"{self.family}: needs {name} = {needed}, but shapes.{name} = {allowed}. "
                    f"Usual cause: a family made larger than the shapes that all families of the run share. "
                    f"Fix: shapes.{name} = {needed} or more (num_symbols at most 256), or a smaller family."
                )
        return self


def make_params(
    *,
    shapes: Shapes,
    next_state: jax.Array,
    reward_probability: jax.Array,
    observation: jax.Array,
    horizon_steps: int,
    outcome_probability: jax.Array | None = None,
    start_state: jax.Array | int = 0,
    num_start_states: int = 1,
    resets: bool = True,
    initial_states: int = 0,
    grow_every_steps: int = 0,
    grow_from_step: int = 0,
) -> TabularParams:
    """Pads tables [s, A, o] and observations [s] to `shapes`; `initial_states` = 0 means all.

    Padded outcomes repeat the last one at probability 0, so rounding cannot lead out of the table.
    """
    num_states, num_actions, num_outcomes = next_state.shape
    if num_actions != shapes.num_actions:
        raise ValueError(f"tables have {num_actions} actions, shapes.num_actions is {shapes.num_actions}")
    if outcome_probability is None:
        outcome_probability = jnp.zeros(next_state.shape, jnp.float32).at[..., 0].set(1.0)
    rows = (0, shapes.num_states - num_states)
    outcomes = (0, shapes.num_outcomes - num_outcomes)

    def pad(table: jax.Array, dtype: jnp.dtype, mode: str) -> jax.Array:
        wide = jnp.pad(jnp.asarray(table, dtype), ((0, 0), (0, 0), outcomes), mode=mode)
        return jnp.pad(wide, (rows, (0, 0), (0, 0)))

    return TabularParams(
        next_state=pad(next_state, jnp.int16, "edge"),
        outcome_probability=pad(outcome_probability, jnp.float32, "constant"),
        reward_probability=pad(reward_probability, jnp.float32, "edge"),
        observation=jnp.pad(jnp.asarray(observation, jnp.uint8), rows),
        num_states=jnp.int32(num_states),
        start_state=jnp.asarray(start_state, jnp.int32),
        num_start_states=jnp.int32(num_start_states),
        resets=jnp.bool_(resets),
        horizon_steps=jnp.int32(horizon_steps),
        reward_every=jnp.int32(1),
        presses=jnp.int32(1),
        initial_states=jnp.int32(initial_states or num_states),
        grow_every_steps=jnp.int32(grow_every_steps),
        grow_from_step=jnp.int32(grow_from_step),
    )


def num_active_states(params: TabularParams, age: jax.Array) -> jax.Array:
    """int32 []: how many states are open at this age."""
    growing = jnp.maximum(age - params.grow_from_step, 0)
    grown = jnp.where(params.grow_every_steps > 0, growing // jnp.maximum(params.grow_every_steps, 1), 0)
    return jnp.minimum(params.num_states, params.initial_states + grown)


def _start(uniform: jax.Array, params: TabularParams) -> jax.Array:
    offset = jnp.floor(uniform * params.num_start_states.astype(jnp.float32)).astype(jnp.int32)
    return params.start_state + jnp.minimum(offset, params.num_start_states - 1)


def _new_episode(state: jax.Array, age: jax.Array) -> TabularState:
    return TabularState(
        state=state,
        step_in_episode=jnp.int32(0),
        age=age,
        last_action=jnp.int32(0),
        press_count=jnp.int32(0),
        pending_reward=jnp.float32(0.0),
    )


def init(key: jax.Array, params: TabularParams) -> tuple[TabularState, jax.Array]:
    """A new life, age 0."""
    state = _start(jax.random.uniform(key), params)
    return _new_episode(state, jnp.int32(0)), params.observation[state]


def reset(key: jax.Array, params: TabularParams, state: TabularState) -> tuple[TabularState, jax.Array]:
    """A new episode of the same life. Reward still pending is dropped."""
    start = jnp.where(params.resets, _start(jax.random.uniform(key), params), state.state)
    return _new_episode(start, state.age), params.observation[start]


def _outcome(uniform: jax.Array, probability_O: jax.Array) -> jax.Array:
    if probability_O.shape[0] == 1:
        return jnp.int32(0)
    return jnp.sum(uniform >= jnp.cumsum(probability_O[:-1]), dtype=jnp.int32)


def step(
    key: jax.Array, params: TabularParams, state: TabularState, action: jax.Array
) -> tuple[TabularState, TimeStep]:
    """One step; the key is consumed once, for three uniforms: outcome, reward, next start."""
    u_outcome, u_reward, u_start = jax.random.uniform(key, (3,))
    action = jnp.asarray(action, jnp.int32)

    count = jnp.where(action == state.last_action, state.press_count + 1, 1)
    acts = count >= params.presses
    outcome = _outcome(u_outcome, params.outcome_probability[state.state, action])
    arrival = params.next_state[state.state, action, outcome].astype(jnp.int32)
    arrival = jnp.where(arrival >= num_active_states(params, state.age), 0, arrival)
    is_paid = u_reward < params.reward_probability[state.state, action, outcome]
    next_state = jnp.where(acts, arrival, state.state)
    pending = state.pending_reward + (is_paid & acts).astype(jnp.float32)

    step_in_episode = state.step_in_episode + 1
    truncated = step_in_episode >= params.horizon_steps
    pays = truncated | (step_in_episode % params.reward_every == 0)
    after_reset = jnp.where(truncated & params.resets, _start(u_start, params), next_state)

    new_state = TabularState(
        state=after_reset,
        step_in_episode=jnp.where(truncated, 0, step_in_episode),
        age=state.age + 1,
        last_action=action,
        press_count=jnp.where(acts | truncated, 0, count),
        pending_reward=jnp.where(pays, 0.0, pending),
    )
    return new_state, TimeStep(
        obs=params.observation[after_reset],
        reward=jnp.where(pays, pending, 0.0),
        terminated=jnp.bool_(False),
        truncated=truncated,
        final_obs=params.observation[next_state],
    )


@functools.cache
def make_env(shapes: Shapes, episode_steps: int) -> Env:
    """The bundle. Equal arguments give the same object, so compiled programs are shared."""
    if shapes.num_states > 2**15:
        raise ValueError(f"shapes.num_states = {shapes.num_states}; allowed: at most {2**15} (int16 tables)")
    spec = Spec(
        observation=SymbolObservation(shapes.num_symbols),
        num_actions=shapes.num_actions,
        reward_dtype="int8",
        can_truncate=True,
        episode_steps=episode_steps,
    )
    return Env(spec=spec, init=init, reset=reset, step=step)
