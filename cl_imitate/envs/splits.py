"""Disjoint train and held-out tasks: every family's tasks fall into one of two sets by a fixed rule."""

import functools
import hashlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Split = Literal["train", "held_out"]


def with_digit_sum(key: jax.Array, digits: jax.Array, modulus: int, split: Split) -> jax.Array:
    """Digits int32 [n], uniform in 0 .. m * modulus - 1 -> the same with the last digit's residue replaced.

    Held-out: the digits' sum is 0 modulo `modulus`. Train: it is one of 1 .. modulus - 1, uniformly. So no tuple
    of digits is in both, each digit on its own stays uniform, and any n - 1 of them stay independent.
    """
    lowest, highest = (0, 1) if split == "held_out" else (1, modulus)
    wanted = jax.random.randint(key, (), lowest, highest)
    last = digits[-1]
    residue = (wanted - jnp.sum(digits[:-1])) % modulus
    return digits.at[-1].set(last - last % modulus + residue)


@functools.cache
def shuffled(num_items: int) -> np.ndarray:
    """A fixed permutation int32 [num_items], the same on every machine and for every library version."""
    hashes = [hashlib.sha256(f"{num_items}:{item}".encode()).digest() for item in range(num_items)]
    return np.array(sorted(range(num_items), key=lambda item: hashes[item]), np.int32)


def items_of(num_items: int, num_held_out: int, split: Split) -> np.ndarray:
    """The items int32 [.] of a split: the last `num_held_out` of the fixed permutation, or the others."""
    if not 0 <= num_held_out < num_items:
        raise ValueError(
            f"{num_held_out} of {num_items} tasks held out; allowed: 0 to {num_items - 1}. "
            f"Usual cause: a family made smaller. Fix: hold out fewer, or make the family larger."
        )
    if split == "held_out" and num_held_out == 0:
        raise ValueError("the held-out split is empty: no task is held out. Fix: hold out at least one.")
    num_train = num_items - num_held_out
    return shuffled(num_items)[num_train:] if split == "held_out" else shuffled(num_items)[:num_train]
