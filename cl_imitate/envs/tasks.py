"""The registry: from an environment's configuration to its bundle and its distribution of tasks."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np

from cl_imitate import keys
from cl_imitate.config import (
    Bandit,
    CartPole,
    DarkRoom,
    Environment,
    KeyToDoor,
    Lock,
    MinAtar,
    RandomMDP,
    Shapes,
    Variant,
)
from cl_imitate.envs import bandit, cart_pole, dark_room, key_to_door, lock, random_mdp
from cl_imitate.envs import variants as variants_of
from cl_imitate.envs.base import Env, EnvParams
from cl_imitate.envs.exact import exact_return
from cl_imitate.envs.splits import Split
from cl_imitate.envs.tabular import TabularParams, make_env

TabularFamily = Lock | DarkRoom | KeyToDoor | Bandit | RandomMDP

_TABULAR: dict[type, ModuleType] = {
    Lock: lock,
    DarkRoom: dark_room,
    KeyToDoor: key_to_door,
    Bandit: bandit,
    RandomMDP: random_mdp,
}
_DESCRIPTIONS = {
    "lock": "a ring of positions, each with one hidden right action; can grow without end",
    "dark_room": "an N x N room with one hidden goal (Laskin et al. 2022)",
    "key_to_door": "a room with a hidden key, then a hidden door (Laskin et al. 2022)",
    "bandit": "Bernoulli arms, with one or several observed contexts",
    "random_mdp": "a tabular MDP with random transitions and rewards (after Duan et al. 2016)",
    "cart_pole": "a pole to be balanced on a cart (Barto, Sutton & Anderson 1983; one task, no variants)",
    "minatar": "Breakout, Space Invaders, Asterix or Freeway (Young & Tian 2019; gymnax, Lange 2022)",
}


class Family(NamedTuple):
    """A distribution of tasks that share one environment bundle.

    sample(key) -> params of one task of the split, with its variants; jittable and vmappable.
    exact_return(params [n], epsilon, *, age=0) -> float64 [n], or None where it cannot be computed.
    published_return, random_return: mean episode returns where there is no exact one, else None.
    knows_window_line: `imitators.perfect_window` is the best that a memory of limited length can do.
    """

    env: Env
    sample: Callable[[jax.Array], EnvParams]
    exact_return: Callable[..., np.ndarray] | None
    published_return: float | None
    random_return: float | None
    knows_window_line: bool = False


def names() -> tuple[str, ...]:
    """Every family's name, as in `environment.family`."""
    return tuple(_DESCRIPTIONS)


def describe() -> tuple[str, ...]:
    """One line a family."""
    width = max(map(len, _DESCRIPTIONS))
    return tuple(f"{name:<{width}}  {text}" for name, text in _DESCRIPTIONS.items())


def make(
    environment: Environment,
    *,
    shapes: Shapes,
    variants: tuple[Variant, ...] = (),
    split: Split = "train",
) -> Family:
    """The family of a configuration. Train and held-out tasks are disjoint (before variants).

    MinAtar games and the cart have no hidden parameters: both splits hold the one task, `shapes` does not apply.

    Raises:
        ValueError: the family does not fit the shapes, a split is empty, or a variant does not apply.
    """
    if isinstance(environment, MinAtar):
        return _make_minatar(environment, variants)
    if isinstance(environment, CartPole):
        return _make_cart_pole(environment, variants)
    return _make_tabular(environment, shapes, variants, split)


def _variant_keys(key: jax.Array, num: int) -> list[jax.Array]:
    variant_key = keys.stream(key, keys.Stream.VARIANT)
    return [keys.member(variant_key, index) for index in range(num)]


def _make_tabular(
    environment: TabularFamily, shapes: Shapes, variants: tuple[Variant, ...], split: Split
) -> Family:
    family = _TABULAR[type(environment)]
    layout = family.layout(environment, shapes)
    for variant in variants:
        variants_of.check(variant, layout, shapes.num_symbols)

    def sample(key: jax.Array) -> TabularParams:
        task_key = keys.stream(key, keys.Stream.TASK)
        task = family.sample_task(task_key, environment, shapes, split)
        params = family.tabulate(task, environment, shapes)
        for variant_key, variant in zip(_variant_keys(key, len(variants)), variants, strict=True):
            params = variants_of.apply_tabular(
                variant, variant_key, params, layout=layout, num_symbols=shapes.num_symbols
            )
        return params

    jax.eval_shape(sample, jax.random.key(0))  # what cannot be sampled is an error here, not later
    return Family(
        env=make_env(shapes, environment.episode_steps),
        sample=sample,
        exact_return=exact_return,
        published_return=None,
        random_return=None,
        knows_window_line=isinstance(environment, Lock)
        and not {"invert_reward", "delay_reward", "double_press"} & set(variants),
    )


def _make_cart_pole(environment: CartPole, variants: tuple[Variant, ...]) -> Family:
    if variants:
        raise ValueError(
            f"the variant {variants[0]} does not apply to cart_pole, which has none. Fix: leave it out."
        )

    def sample(key: jax.Array):
        del key
        return cart_pole.params(environment.max_episode_steps)

    return Family(
        env=cart_pole.make_env(),
        sample=sample,
        exact_return=None,
        published_return=float(environment.max_episode_steps),  # a pole that never falls
        random_return=None,
    )


def _make_minatar(environment: MinAtar, variants: tuple[Variant, ...]) -> Family:
    from cl_imitate.envs import from_gymnax  # here: importing gymnax takes longer than everything else

    num_channels = from_gymnax.NUM_CHANNELS[environment.game]
    # other rewards or another stickiness: the levels known from outside do not apply
    is_original = environment.sticky_probability == 0.1 and not {"invert_reward", "delay_reward"} & set(
        variants
    )

    def sample(key: jax.Array):
        params = from_gymnax.params(environment.game, sticky_probability=environment.sticky_probability)
        for variant_key, variant in zip(_variant_keys(key, len(variants)), variants, strict=True):
            params = variants_of.apply_screen(variant, variant_key, params, num_channels=num_channels)
        return params

    jax.eval_shape(sample, jax.random.key(0))
    return Family(
        env=from_gymnax.make_env(environment.game),
        sample=sample,
        exact_return=None,
        published_return=from_gymnax.PUBLISHED_RETURN[environment.game] if is_original else None,
        random_return=from_gymnax.RANDOM_RETURN[environment.game] if is_original else None,
    )
