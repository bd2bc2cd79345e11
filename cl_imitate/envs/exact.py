"""The exact expected return of perfect knowledge, by finite-horizon dynamic programming in numpy.

Axes: n tasks, S states, A actions, O outcomes.
"""

import jax
import numpy as np

from cl_imitate.envs.tabular import TabularParams


def exact_return(params: TabularParams, epsilon: float, *, age: int = 0) -> np.ndarray:
    """Expected return float64 [n] of one episode, for params with a leading axis n.

    The best that any policy can do which takes a uniformly random action with probability epsilon at each step:
    0 is optimal, 1 is random. The episode begins at the life's given age (an open-ended task grows on meanwhile), at
    its start; where episodes do not reset, uniformly at any active state. Delaying reward changes when it is paid,
    not its sum, so it has no effect here. Policies know what has been pressed, and in which step they are.
    """
    task = jax.tree.map(np.asarray, params)
    if task.next_state.ndim != 4:
        raise ValueError(
            f"params.next_state has shape {task.next_state.shape}; needed: [n, S, A, O], one leading axis over tasks. "
            f"Fix: stack tasks, or add the axis."
        )
    total = np.zeros(task.next_state.shape[0])
    kinds = np.stack([task.presses, task.horizon_steps], axis=1)
    for kind in np.unique(kinds, axis=0):
        rows = np.flatnonzero((kinds == kind).all(axis=1))
        part = jax.tree.map(lambda leaf, rows=rows: leaf[rows], task)
        value = _value_at_start(part, epsilon, age, presses=int(kind[0]), horizon=int(kind[1]))
        total[rows] = _mean_over_starts(part, value, age)
    return total


def _num_active(task: TabularParams, age: int) -> np.ndarray:
    growth = np.maximum(task.grow_every_steps, 1)
    grown = np.where(task.grow_every_steps > 0, np.maximum(age - task.grow_from_step, 0) // growth, 0)
    return np.asarray(np.minimum(task.num_states, task.initial_states + grown))


def _soft(q: np.ndarray, epsilon: float) -> np.ndarray:
    return (1.0 - epsilon) * q.max(axis=-1) + epsilon * q.mean(axis=-1)


def _acting(task: TabularParams, value_nS: np.ndarray, age: int) -> np.ndarray:
    """[n, S, A]: reward now plus value after, if the action acts."""
    active = _num_active(task, age)[:, None, None, None]
    arrival = np.asarray(np.where(task.next_state >= active, 0, task.next_state))
    after = value_nS[np.arange(len(value_nS))[:, None, None, None], arrival]
    return np.asarray(task.outcome_probability * (task.reward_probability + after)).sum(axis=-1)


def _value_at_start(
    task: TabularParams, epsilon: float, age: int, *, presses: int, horizon: int
) -> np.ndarray:
    """[n, S]: the value of each state at step 0. Presses 1 .. p - 1 of an action are part of the state."""
    num_tasks, num_states, num_actions = task.next_state.shape[:3]
    fresh = np.zeros((num_tasks, num_states))
    pressed = [np.zeros((num_tasks, num_states, num_actions)) for _ in range(presses - 1)]
    same_action = np.eye(num_actions, dtype=bool)
    for step in reversed(range(horizon)):
        first = [*pressed, _acting(task, fresh, age + step)]  # first[c]: the (c + 1)th press of an action
        pressed = [
            _soft(np.where(same_action, again[..., None], first[0][:, :, None, :]), epsilon)
            for again in first[1:]
        ]
        fresh = _soft(first[0], epsilon)
    return fresh


def _mean_over_starts(task: TabularParams, value: np.ndarray, age: int) -> np.ndarray:
    state = np.arange(value.shape[1])
    resets = task.resets[:, None]
    first = np.where(resets, task.start_state[:, None], 0)
    num = np.where(resets, task.num_start_states[:, None], _num_active(task, age)[:, None])
    weight = (state >= first) & (state < first + num)
    return (value * weight).sum(axis=1) / weight.sum(axis=1)
