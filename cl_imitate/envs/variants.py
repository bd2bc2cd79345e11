"""Variants: the same task with one thing about it changed (the rungs of ELSEWHERE's novelty ladder).

Each is a pure function of a task's leaves, so it can be jitted and vmapped, and never changes a compiled
program. Permutations are single cycles, uniform among those: nothing keeps its place.

| variant | tables | screens |
|---|---|---|
| permute_symbols | every symbol the task shows takes the place of another | - |
| permute_channels | - | the same for the game's channels |
| permute_actions | every action does what another did | the same for all six |
| new_symbols | symbols that the family never shows | - |
| mirror | left and right seen exchanged (rooms); the order of states seen reversed (elsewhere) | the screen |
| invert_reward | reward r becomes 1 - r | r becomes -r |
| delay_reward | paid every fourth step of an episode and at its last | the same |
| double_press | an action acts when chosen twice in a row | - |
| change_start | another start state | - |

Where the task itself is drawn uniformly from all relabellings (the action code of a Lock, the arms of a
bandit), `permute_actions` gives just another task of the family, perhaps of the other split.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cl_imitate.config import Variant
from cl_imitate.envs.screens import NUM_ACTIONS, SCREEN, ScreenParams
from cl_imitate.envs.tabular import Layout, TabularParams

DELAY_STEPS = 4
_TABULAR = (
    "permute_symbols",
    "permute_actions",
    "new_symbols",
    "mirror",
    "invert_reward",
    "delay_reward",
    "double_press",
    "change_start",
)
_SCREEN = ("permute_channels", "permute_actions", "mirror", "invert_reward", "delay_reward")


def _error(variant: str, family: str, reason: str, allowed: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"variant {variant!r} cannot be applied to {family}: {reason}. Allowed there: {', '.join(allowed)}."
    )


def unsupported(variant: Variant, layout: Layout, num_symbols: int) -> str | None:
    """Why a variant cannot be applied to a tabular family, or None if it can."""
    if variant not in _TABULAR:
        return "it is defined for screens only"
    if variant in ("permute_symbols", "mirror") and layout.num_symbols < 2:
        return "its tasks show a single symbol"
    free = num_symbols - layout.num_family_symbols
    if variant == "new_symbols" and free < layout.num_symbols:
        return (
            f"{layout.num_symbols} symbols are needed that the family never uses, and {free} of "
            f"shapes.num_symbols = {num_symbols} are left (raise shapes.num_symbols, or use symbols = 'fixed')"
        )
    if variant == "change_start" and layout.num_start_choices < 2:
        return "its episodes do not begin at a chosen state"
    return None


def check(variant: Variant, layout: Layout, num_symbols: int) -> None:
    """Raises ValueError with the reason and what is allowed instead."""
    reason = unsupported(variant, layout, num_symbols)
    if reason is not None:
        allowed = tuple(name for name in _TABULAR if unsupported(name, layout, num_symbols) is None)
        raise _error(variant, layout.family, reason, allowed)


def cycle(key: jax.Array, num: int) -> jax.Array:
    """A permutation int32 [num] that is one cycle through all items, uniform among those."""
    order = jax.random.permutation(key, num).astype(jnp.int32)
    return jnp.zeros(num, jnp.int32).at[order].set(jnp.roll(order, -1))


def _show_instead(params: TabularParams, layout: Layout, symbols: jax.Array) -> TabularParams:
    """What showed state d's symbol (d < num_symbols) shows symbols[d], wherever it stood."""
    shown = params.observation[: layout.num_symbols]
    translate = jnp.arange(256, dtype=jnp.uint8).at[shown].set(symbols.astype(jnp.uint8))
    return dataclasses.replace(params, observation=translate[params.observation])


def apply_tabular(
    variant: Variant, key: jax.Array, params: TabularParams, *, layout: Layout, num_symbols: int
) -> TabularParams:
    """The changed task. Raises ValueError where the family does not support the variant."""
    check(variant, layout, num_symbols)
    if variant == "permute_symbols":
        shown = params.observation[: layout.num_symbols]
        return _show_instead(params, layout, shown[cycle(key, layout.num_symbols)])
    if variant == "mirror":
        return _show_instead(params, layout, params.observation[jnp.array(layout.mirrored)])
    if variant == "new_symbols":
        unused = jnp.arange(layout.num_family_symbols, num_symbols)
        return _show_instead(params, layout, jax.random.permutation(key, unused)[: layout.num_symbols])
    if variant == "permute_actions":
        meaning = cycle(key, params.next_state.shape[1])
        return dataclasses.replace(
            params,
            next_state=params.next_state[:, meaning],
            outcome_probability=params.outcome_probability[:, meaning],
            reward_probability=params.reward_probability[:, meaning],
        )
    if variant == "invert_reward":
        return dataclasses.replace(params, reward_probability=1.0 - params.reward_probability)
    if variant == "delay_reward":
        return dataclasses.replace(params, reward_every=jnp.int32(DELAY_STEPS))
    if variant == "double_press":
        return dataclasses.replace(params, presses=jnp.int32(2))
    shift = jax.random.randint(key, (), 1, layout.num_start_choices)
    return dataclasses.replace(params, start_state=(params.start_state + shift) % layout.num_start_choices)


def apply_screen(
    variant: Variant, key: jax.Array, params: ScreenParams, *, num_channels: int
) -> ScreenParams:
    """The changed game. Raises ValueError where screens do not support the variant."""
    if variant == "permute_channels":
        source = jnp.arange(SCREEN.channels, dtype=jnp.int32).at[:num_channels].set(cycle(key, num_channels))
        return dataclasses.replace(params, channel_source=params.channel_source[source])
    if variant == "permute_actions":
        return dataclasses.replace(params, action_meaning=params.action_meaning[cycle(key, NUM_ACTIONS)])
    if variant == "mirror":
        return dataclasses.replace(params, mirrored=~params.mirrored)
    if variant == "invert_reward":
        return dataclasses.replace(params, reward_sign=-params.reward_sign)
    if variant == "delay_reward":
        return dataclasses.replace(params, reward_every=jnp.int32(DELAY_STEPS))
    raise _error(variant, "minatar", "it is defined for tables only", _SCREEN)
