"""The memory's window is training's window: what is acted on equals a full forward pass over it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config
from cl_imitate.imitators.transformer import make_transformer
from cl_imitate.types import ScreenObservation, Spec, StepTokens, SymbolObservation

SPEC = Spec(
    observation=SymbolObservation(12), num_actions=4, reward_dtype="int8", can_truncate=True, episode_steps=8
)
SCREEN = dataclasses.replace(SPEC, observation=ScreenObservation(5, 5, 2), can_truncate=False)
SMALL = config.Imitator(width=16, num_layers=2, num_heads=2, context_steps=16)
CONTEXT = 16


def random_tokens(spec: Spec, batch: int, num_steps: int, seed: int = 0) -> StepTokens:
    """Tokens [batch, num_steps] as numpy arrays: slicing them compiles nothing."""
    rng, shape = np.random.default_rng(seed), (batch, num_steps)
    high = 12 if isinstance(spec.observation, SymbolObservation) else 256
    return StepTokens(
        obs=rng.integers(0, high, (*shape, *spec.observation.shape)).astype(np.uint8),
        prev_action=rng.integers(0, spec.num_actions + 1, shape).astype(np.int32),
        prev_reward=rng.integers(0, 2, shape).astype(np.float32),
        prev_done=rng.random(shape) < 0.1,
        is_begin=np.broadcast_to(np.arange(num_steps) == 0, shape),
        age=rng.integers(0, 20, shape).astype(np.int32),
    )


@functools.cache
def make(imitator=SMALL, spec=SPEC):
    built = make_transformer(imitator, spec, context_steps=CONTEXT)
    return built, jax.jit(built.init)(jax.random.key(0))


@functools.cache
def compiled(imitator):
    return jax.jit(imitator.act), jax.jit(imitator.begin_block)


def at(tokens: StepTokens, *index) -> StepTokens:
    return jax.tree.map(lambda x: x[index], tokens)


def act_through(imitator, params, tokens, memory, num_steps):
    """Logits [B, num_steps, A] of acting step by step."""
    act, begin = compiled(imitator)
    rows = []
    for t in range(num_steps):
        if t % imitator.block_steps == 0:
            memory = begin(params, memory)
        logits, memory = act(params, memory, at(tokens, slice(None), t))
        rows.append(logits)
    return np.stack(rows, axis=1), memory


@pytest.mark.parametrize(
    ("imitator", "spec"),
    [
        (SMALL, SPEC),
        (dataclasses.replace(SMALL, refill_steps=4, num_layers=3), SPEC),
        (dataclasses.replace(SMALL, observation_factor=5), SPEC),
        (SMALL, SCREEN),
    ],
    ids=["half", "a quarter, three layers", "factored", "screens"],
)
def test_acting_equals_a_full_forward_over_the_same_window_at_three_windows_length(imitator, spec):
    built, params = make(imitator, spec)
    num_steps, refill = 3 * CONTEXT, built.block_steps
    tokens = random_tokens(spec, 2, num_steps)
    acted, _ = act_through(built, params, tokens, built.init_memory(2), num_steps)
    forward = jax.jit(functools.partial(built.logits, key=None))
    for end in range(1, num_steps + 1):
        block = (end - 1) // refill
        start = max(0, block * refill - (CONTEXT - refill))
        window = at(tokens, slice(None), slice(start, end))
        pad = jax.tree.map(
            lambda x: np.concatenate([x, np.zeros((2, CONTEXT - x.shape[1], *x.shape[2:]), x.dtype)], 1),
            window,
        )
        expected = forward(params, pad)[:, end - start - 1]
        np.testing.assert_allclose(acted[:, end - 1], expected, rtol=2e-4, atol=2e-5, err_msg=str(end))


def test_nothing_older_than_the_window_reaches_a_step():
    built, params = make(dataclasses.replace(SMALL, num_layers=3))
    tokens = random_tokens(SPEC, 1, 40)
    changed = tokens.replace(prev_action=np.where(np.arange(40) < 24, 0, tokens.prev_action))
    one, _ = act_through(built, params, tokens, built.init_memory(1), 40)
    two, _ = act_through(built, params, changed, built.init_memory(1), 40)
    reached = np.abs(np.asarray(one - two)).max(axis=(0, 2)) > 0
    assert reached[24:32].all()  # the window of steps 24 to 31 begins at 16
    assert not reached[32:].any()  # that of steps 32 to 39 begins at 24


def test_a_prompt_read_at_once_equals_steps_lived_through():
    built, params = make()
    tokens = random_tokens(SPEC, 2, 24)
    lived, _ = act_through(built, params, tokens, built.init_memory(2), 24)
    past, rest = at(tokens, slice(None), slice(0, 16)), at(tokens, slice(None), slice(16, 24))
    memory = built.prompt(params, built.init_memory(2), past, jnp.ones((2, 16), bool))
    prompted, _ = act_through(built, params, rest, memory, 8)
    np.testing.assert_allclose(prompted, lived[:, 16:], rtol=2e-4, atol=2e-5)


def test_a_short_prompt_is_as_if_nothing_came_before():
    built, params = make()
    tokens = random_tokens(SPEC, 2, 16)
    is_there = jnp.arange(16) >= 12
    short = built.prompt(params, built.init_memory(2), tokens, jnp.broadcast_to(is_there, (2, 16)))
    noise = tokens.replace(obs=np.where(np.arange(16) < 12, 7, tokens.obs).astype(np.uint8))
    other = built.prompt(params, built.init_memory(2), noise, jnp.broadcast_to(is_there, (2, 16)))
    follow = random_tokens(SPEC, 2, 8, seed=1)
    one, two = (act_through(built, params, follow, memory, 8)[0] for memory in (short, other))
    np.testing.assert_array_equal(one, two)


def test_forgetting_empties_one_stream_and_leaves_the_others():
    built, params = make()
    tokens, follow = random_tokens(SPEC, 2, 8), random_tokens(SPEC, 2, 8, seed=1)
    _, memory = act_through(built, params, tokens, built.init_memory(2), 4)
    forgot = built.forget(memory, jnp.array([True, False]))
    act, begin = compiled(built)
    kept, _ = act(params, memory, at(follow, slice(None), 0))
    after, _ = act(params, forgot, at(follow, slice(None), 0))
    fresh, _ = act(params, begin(params, built.init_memory(2)), at(follow, slice(None), 0))
    np.testing.assert_allclose(after[0], fresh[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after[1], kept[1])
    assert np.abs(np.asarray(after[0] - kept[0])).max() > 1e-4


def test_no_logit_depends_on_a_later_step():
    built, params = make()
    tokens = random_tokens(SPEC, 1, CONTEXT)

    def logit(reward, step):
        return built.logits(params, tokens.replace(prev_reward=reward), None)[0, step, 0]

    gradient = jax.jit(jax.vmap(jax.grad(logit), (None, 0)))(tokens.prev_reward, jnp.arange(CONTEXT))[:, 0]
    reaches = np.abs(np.asarray(gradient)) > 0
    np.testing.assert_array_equal(reaches, np.tril(np.ones((CONTEXT, CONTEXT), bool)))


@pytest.mark.parametrize("field", ["obs", "prev_action", "prev_reward", "prev_done", "is_begin", "age"])
def test_every_part_of_a_token_is_read(field):
    built, params = make()
    tokens = random_tokens(SPEC, 1, 8)
    old = getattr(tokens, field)
    new = ~old if old.dtype == bool else old + np.ones_like(old)
    if field == "prev_action":
        new = new % 5
    forward = jax.jit(functools.partial(built.logits, key=None))
    assert (
        np.abs(np.asarray(forward(params, tokens) - forward(params, tokens.replace(**{field: new})))).max()
        > 1e-4
    )


def test_dropout_and_masking_act_in_training_only():
    built, params = make(dataclasses.replace(SMALL, dropout=0.2, mask_inputs=0.3))
    tokens = random_tokens(SPEC, 2, 8)
    forward = jax.jit(built.logits)
    plain, again = forward(params, tokens, None), forward(params, tokens, None)
    one, two = (forward(params, tokens, jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(plain, again)
    assert np.abs(np.asarray(one - two)).max() > 1e-3
    assert np.abs(np.asarray(one - plain)).max() > 1e-3


def test_dropout_alone_differs_by_key():
    built, params = make(dataclasses.replace(SMALL, dropout=0.2))
    tokens = random_tokens(SPEC, 2, 8)
    forward = jax.jit(built.logits)
    one, two = (forward(params, tokens, jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(np.asarray(one - two)).max() > 1e-3


def test_masking_everything_is_having_been_told_no_action_and_no_reward():
    built, params = make(dataclasses.replace(SMALL, mask_inputs=1.0))
    tokens = random_tokens(SPEC, 2, 8)
    untold = tokens.replace(
        prev_action=jnp.full_like(tokens.prev_action, SPEC.num_actions),
        prev_reward=jnp.zeros_like(tokens.prev_reward),
    )
    forward = jax.jit(built.logits)
    masked, expected = forward(params, tokens, jax.random.key(0)), forward(params, untold, None)
    np.testing.assert_allclose(masked, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(masked - forward(params, tokens, None))).max() > 1e-3


def test_impossible_sizes_name_their_fields():
    with pytest.raises(ValueError, match="refill_steps = 16"):
        make_transformer(dataclasses.replace(SMALL, refill_steps=16), SPEC, context_steps=16)
    with pytest.raises(ValueError, match="num_heads"):
        make_transformer(dataclasses.replace(SMALL, width=18), SPEC, context_steps=16)
