"""Imitators made by hand for worlds in which the right action pays: each knows its rule of improvement exactly.

All remember which action paid at which symbol (in their prompt, and since), and play it with a probability that is
their *skill*; else, or where nothing has paid yet, they play at random. Skill is what they differ in:

- "clock": it grows with the steps in the context, whatever these show;
- "copycat": it is that of the prompt's last steps, for ever;
- "climber": it starts as the copycat's, and grows with every step acted;
- "habit": it is great, but for what the prompt's learner did most often, whether that paid or not;
- "follower": it starts as the copycat's, and grows as fast as it did within the prompt.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cl_imitate.imitators.base import Imitator

Kind = Literal["clock", "copycat", "climber", "habit", "follower"]
SYMBOLS, ACTIONS, RECENT = 16, 5, 16


@struct.dataclass(kw_only=True)
class Memory:
    paid: jax.Array  # float32 [E, symbols, actions]; done, in a habit's
    last_obs: jax.Array  # int32 [E]
    steps: jax.Array  # float32 [E]: in the context
    skill: jax.Array  # float32 [E]: at the prompt's end
    slope: jax.Array  # float32 [E]: a step
    acted: jax.Array  # float32 [E]


@functools.cache
def imitator(kind: Kind, *, block_steps: int = 8) -> Imitator:
    def init_memory(num: int) -> Memory:
        zeros = {name: jnp.zeros(num, jnp.float32) for name in ("steps", "skill", "slope", "acted")}
        return Memory(
            paid=jnp.zeros((num, SYMBOLS, ACTIONS), jnp.float32), last_obs=jnp.zeros(num, jnp.int32), **zeros
        )

    def read(memory, tokens, counts):
        row = jnp.arange(tokens.obs.shape[0])
        action = jnp.minimum(tokens.prev_action, ACTIONS - 1)
        if kind != "habit":
            counts_for = tokens.prev_reward
        else:
            counts_for = jnp.where(memory.acted == 0, tokens.prev_action < ACTIONS, 0).astype(jnp.float32)
        paid = memory.paid.at[row, memory.last_obs, action].add(counts_for * counts)
        return memory.replace(paid=paid, last_obs=tokens.obs.astype(jnp.int32), steps=memory.steps + counts)

    def skill_of(rate):
        return jnp.clip((rate - 1 / ACTIONS) / (1 - 1 / ACTIONS), 0.0, 1.0)

    def prompt(params, memory, tokens, is_there):
        del params

        def body(memory, t):
            return read(
                memory, jax.tree.map(lambda x: x[:, t], tokens), is_there[:, t].astype(jnp.float32)
            ), None

        length = tokens.obs.shape[1]
        memory, _ = jax.lax.scan(body, memory, jnp.arange(length))
        recent = skill_of(tokens.prev_reward[:, -RECENT:].mean(axis=1))
        before = skill_of(tokens.prev_reward[:, -2 * RECENT : -RECENT].mean(axis=1))
        return memory.replace(skill=recent, slope=jnp.maximum(recent - before, 0.0) / RECENT)

    def act(params, memory, tokens):
        del params
        memory = read(memory, tokens, jnp.ones_like(memory.steps))
        skill = {
            "clock": memory.steps / 64,
            "copycat": memory.skill,
            "habit": jnp.full_like(memory.skill, 0.9),
            "climber": memory.skill + memory.acted / 32,
            "follower": memory.skill + memory.slope * memory.acted,
        }[kind]
        here = memory.paid[jnp.arange(memory.steps.shape[0]), memory.last_obs]
        known = jax.nn.one_hot(here.argmax(axis=-1), ACTIONS)
        skill = jnp.where(here.max(axis=-1) > 0, jnp.clip(skill, 0.0, 0.98), 0.0)[:, None]
        logits = jnp.log(skill * known + (1 - skill) / ACTIONS)
        return logits, memory.replace(acted=memory.acted + 1)

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
