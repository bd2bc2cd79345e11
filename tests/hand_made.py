"""Imitators made by hand for worlds in which the right action pays: each knows its rule of improvement exactly.

All remember which action paid at which symbol (in their prompt, and since). They play it with a probability that is
their *skill*; else, or where nothing has paid yet, they do what the learner of their prompt did there lately (its
habit), nine times in ten. Skill is what they differ in:

- "habit": none, for ever;
- "clock": it grows with the steps in the context, whatever these show, and without it they play at random;
- "climber": it grows with every step acted;
- "follower": it grows as fast as the returns did within the prompt.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.imitators.base import Imitator

Kind = Literal["habit", "clock", "climber", "follower"]
SYMBOLS, ACTIONS = 16, 5


@struct.dataclass(kw_only=True)
class Memory:
    paid: jax.Array  # float32 [E, symbols, actions]
    habit: jax.Array  # float32 [E, symbols, actions]: how often in the prompt, lately
    last_obs: jax.Array  # int32 [E]
    steps: jax.Array  # float32 [E]: in the context
    slope: jax.Array  # float32 [E]: a step
    acted: jax.Array  # float32 [E]


@functools.cache
def imitator(kind: Kind, *, block_steps: int = 8) -> Imitator:
    def init_memory(num: int) -> Memory:
        table, one = jnp.zeros((num, SYMBOLS, ACTIONS), jnp.float32), jnp.zeros(num, jnp.float32)
        return Memory(
            paid=table, habit=table, last_obs=jnp.zeros(num, jnp.int32), steps=one, slope=one, acted=one
        )

    def read(memory, tokens, counts):
        place = jnp.arange(counts.shape[0]), memory.last_obs, jnp.minimum(tokens.prev_action, ACTIONS - 1)
        was_done = jnp.where((memory.acted == 0) & (tokens.prev_action < ACTIONS), counts, 0.0)
        return memory.replace(
            paid=memory.paid.at[place].add(tokens.prev_reward * counts),
            habit=(0.95 * memory.habit).at[place].add(was_done),
            last_obs=tokens.obs.astype(jnp.int32),
            steps=memory.steps + counts,
        )

    def prompt(params, memory, tokens, is_there):
        del params

        def body(memory, t):
            return read(
                memory, jax.tree.map(lambda x: x[:, t], tokens), is_there[:, t].astype(jnp.float32)
            ), None

        memory, _ = jax.lax.scan(body, memory, jnp.arange(tokens.obs.shape[1]))
        before, recent = (part.mean(axis=1) for part in jnp.split(tokens.prev_reward, 2, axis=1))
        return memory.replace(slope=jnp.maximum(recent - before - 0.1, 0.0) / 8)

    def act(params, memory, tokens):
        del params
        memory = read(memory, tokens, jnp.ones_like(memory.steps))
        skill = {
            "habit": jnp.zeros_like(memory.acted),
            "clock": memory.steps / 64,
            "climber": memory.acted / 128,
            "follower": memory.slope * memory.acted,
        }[kind]
        here = jnp.arange(memory.steps.shape[0]), memory.last_obs
        paid, habit = memory.paid[here], memory.habit[here]
        has_habit = (habit.max(axis=-1, keepdims=True) > 0) & (kind != "clock")
        does = jnp.where(has_habit, 0.9, 0.0)
        base = does * jax.nn.one_hot(habit.argmax(axis=-1), ACTIONS) + (1 - does) / ACTIONS
        skill = jnp.where(paid.max(axis=-1) > 0, jnp.clip(skill, 0.0, 0.98), 0.0)[:, None]
        probability = skill * jax.nn.one_hot(paid.argmax(axis=-1), ACTIONS) + (1 - skill) * base
        return jnp.log(probability), memory.replace(acted=memory.acted + 1)

    return Imitator(
        init=lambda key: {"nothing": jax.random.normal(key, (1,))},
        logits=lambda params, tokens, key: jnp.zeros((*tokens.prev_action.shape, ACTIONS)),
        init_memory=init_memory,
        prompt=prompt,
        begin_block=lambda params, memory: memory,
        act=act,
        forget=lambda memory, where: memory,
        block_steps=block_steps,
        num_actions=ACTIONS,
    )
