"""What every imitator owes, whatever its memory: acting equals reading, and nothing leaks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config
from cl_imitate.imitators import embedding
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import ScreenObservation, Spec, StepTokens, SymbolObservation, VectorObservation

pytestmark = pytest.mark.unoptimised

SPEC = Spec(
    observation=SymbolObservation(12), num_actions=4, reward_dtype="int8", can_truncate=True, episode_steps=8
)
SCREEN = dataclasses.replace(SPEC, observation=ScreenObservation(5, 5, 2), can_truncate=False)
VECTOR = dataclasses.replace(SPEC, observation=VectorObservation(3))
CONTEXT = 16
SMALL = config.Imitator(width=16, num_layers=2, num_heads=2, context_steps=CONTEXT)
KINDS = {
    "refilled": SMALL,
    "refilled by quarters, three layers": dataclasses.replace(SMALL, refill_steps=4, num_layers=3),
    "refilled, absolute positions": dataclasses.replace(SMALL, positions="absolute"),
    "ring": dataclasses.replace(SMALL, attention_steps=6),
    "linear recurrence": dataclasses.replace(SMALL, kind="linear_recurrence"),
    "gru": dataclasses.replace(SMALL, kind="gru"),
}
every_kind = pytest.mark.parametrize("imitator", KINDS.values(), ids=KINDS)


def is_refilled(imitator: config.Imitator) -> bool:
    return imitator.kind == "transformer" and not imitator.attention_steps


def random_tokens(spec: Spec, batch: int, num_steps: int, seed: int = 0) -> StepTokens:
    """Tokens [batch, num_steps] as numpy arrays: slicing them compiles nothing."""
    rng, shape = np.random.default_rng(seed), (batch, num_steps)
    if isinstance(spec.observation, VectorObservation):
        obs = rng.normal(size=(*shape, spec.observation.num_values)).astype(np.float32).view(np.uint8)
    else:
        high = 12 if isinstance(spec.observation, SymbolObservation) else 256
        obs = rng.integers(0, high, (*shape, *spec.observation.shape)).astype(np.uint8)
    return StepTokens(
        obs=obs,
        prev_action=rng.integers(0, spec.num_actions + 1, shape).astype(np.int32),
        prev_reward=rng.integers(0, 2, shape).astype(np.float32),
        prev_done=rng.random(shape) < 0.1,
        is_begin=np.broadcast_to(np.arange(num_steps) == 0, shape),
        age=rng.integers(0, 20, shape).astype(np.int32),
    )


@functools.cache
def make(imitator: config.Imitator, spec: Spec = SPEC):
    built = make_imitator(imitator, spec, context_steps=CONTEXT)
    # weights that are random, whatever the last bit: half the time to compile
    init = jax.jit(built.init, compiler_options={"xla_backend_optimization_level": 0})
    return built, init(jax.random.key(0))


@functools.cache
def compiled(imitator):
    return jax.jit(imitator.act), jax.jit(imitator.begin_block)


@functools.cache
def forward_of(imitator):
    return jax.jit(functools.partial(imitator.logits, key=None))


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


def read_whole(imitator: config.Imitator, built, params, tokens, num_steps) -> np.ndarray:
    """Logits [B, num_steps, A] by full forward passes over what each step's memory should hold."""
    forward = forward_of(built)
    if not is_refilled(imitator):
        return np.asarray(forward(params, at(tokens, slice(None), slice(0, num_steps))))
    rows, refill = [], built.block_steps
    for end in range(1, num_steps + 1):
        start = max(0, (end - 1) // refill * refill - (CONTEXT - refill))
        window = at(tokens, slice(None), slice(start, end))
        missing = CONTEXT - (end - start)
        pad = jax.tree.map(
            lambda x, n=missing: np.concatenate([x, np.zeros((len(x), n, *x.shape[2:]), x.dtype)], 1), window
        )
        rows.append(np.asarray(forward(params, pad))[:, end - start - 1])
    return np.stack(rows, axis=1)


@pytest.mark.parametrize(
    ("imitator", "spec"),
    [
        *((imitator, SPEC) for imitator in KINDS.values()),
        (dataclasses.replace(SMALL, observation_factor=5), SPEC),
        (SMALL, SCREEN),
        (SMALL, VECTOR),
    ],
    ids=[*KINDS, "factored symbols", "screens", "vectors"],
)
def test_acting_equals_a_full_forward_at_three_times_the_window(imitator, spec):
    built, params = make(imitator, spec)
    num_steps = 3 * CONTEXT
    tokens = random_tokens(spec, 2, num_steps)
    acted, _ = act_through(built, params, tokens, built.init_memory(2), num_steps)
    expected = read_whole(imitator, built, params, tokens, num_steps)
    np.testing.assert_allclose(acted, expected, rtol=3e-4, atol=3e-5)


@pytest.mark.parametrize("imitator", [KINDS["refilled"], KINDS["ring"]], ids=["refilled", "ring"])
def test_a_rounded_transformer_acts_and_is_prompted_from_rounded_caches(imitator):
    imitator = dataclasses.replace(imitator, products="bfloat16")
    built, params = make(imitator)
    empty = built.init_memory(2)
    assert {x.dtype for x in (*empty.keys, *empty.values)} == {jnp.dtype(jnp.bfloat16)}
    tokens = random_tokens(SPEC, 2, 40)
    acted, _ = act_through(built, params, tokens, empty, 40)
    expected = read_whole(imitator, built, params, tokens, 40)
    assert np.abs(acted - expected).max() < 0.05 * np.abs(expected).max()
    past, rest = at(tokens, slice(None), slice(0, 16)), at(tokens, slice(None), slice(16, 24))
    memory = built.prompt(params, built.init_memory(2), past, jnp.ones((2, 16), bool))
    prompted, _ = act_through(built, params, rest, memory, 8)
    assert np.abs(prompted - acted[:, 16:24]).max() < 0.05 * np.abs(expected).max()


@every_kind
def test_a_prompt_read_at_once_equals_steps_lived_through(imitator):
    built, params = make(imitator)
    tokens = random_tokens(SPEC, 2, 24)
    lived, _ = act_through(built, params, tokens, built.init_memory(2), 24)
    past, rest = at(tokens, slice(None), slice(0, 16)), at(tokens, slice(None), slice(16, 24))
    memory = built.prompt(params, built.init_memory(2), past, jnp.ones((2, 16), bool))
    prompted, _ = act_through(built, params, rest, memory, 8)
    np.testing.assert_allclose(prompted, lived[:, 16:], rtol=3e-4, atol=3e-5)


@every_kind
def test_a_short_prompt_is_as_if_nothing_came_before(imitator):
    built, params = make(imitator)
    tokens = random_tokens(SPEC, 2, 16)
    is_there = jnp.arange(16) >= 12
    short = built.prompt(params, built.init_memory(2), tokens, jnp.broadcast_to(is_there, (2, 16)))
    noise = tokens.replace(obs=np.where(np.arange(16) < 12, 7, tokens.obs).astype(np.uint8))
    other = built.prompt(params, built.init_memory(2), noise, jnp.broadcast_to(is_there, (2, 16)))
    follow = random_tokens(SPEC, 2, 8, seed=1)
    one, two = (act_through(built, params, follow, memory, 8)[0] for memory in (short, other))
    np.testing.assert_array_equal(one, two)
    if imitator.positions == "relative":
        alone = built.prompt(
            params, built.init_memory(2), at(tokens, slice(None), slice(12, 16)), jnp.ones((2, 4), bool)
        )
        three, _ = act_through(built, params, follow, alone, 8)
        np.testing.assert_allclose(one, three, rtol=3e-4, atol=3e-5)


@every_kind
def test_forgetting_empties_one_stream_and_leaves_the_others(imitator):
    built, params = make(imitator)
    tokens, follow = random_tokens(SPEC, 2, 8), random_tokens(SPEC, 2, 8, seed=1)
    _, memory = act_through(built, params, tokens, built.init_memory(2), 4)
    forgot = built.forget(memory, jnp.array([True, False]))
    act, begin = compiled(built)
    kept, _ = act(params, memory, at(follow, slice(None), 0))
    after, _ = act(params, forgot, at(follow, slice(None), 0))
    np.testing.assert_array_equal(after[1], kept[1])
    assert np.abs(np.asarray(after[0] - kept[0])).max() > 1e-4
    if imitator.positions == "relative":
        fresh, _ = act(params, begin(params, built.init_memory(2)), at(follow, slice(None), 0))
        np.testing.assert_allclose(after[0], fresh[0], rtol=1e-4, atol=1e-5)


@every_kind
def test_no_logit_depends_on_a_later_step_and_every_earlier_one_in_reach_counts(imitator):
    built, params = make(imitator)
    tokens = random_tokens(SPEC, 1, CONTEXT)

    def logit(reward, step):
        return built.logits(params, tokens.replace(prev_reward=reward), None)[0, step, 0]

    gradient = jax.jit(jax.vmap(jax.grad(logit), (None, 0)))(tokens.prev_reward, jnp.arange(CONTEXT))[:, 0]
    reaches = np.abs(np.asarray(gradient)) > 0
    back = np.arange(CONTEXT)[:, None] - np.arange(CONTEXT)[None, :]
    most = imitator.num_layers * (imitator.attention_steps - 1) if imitator.attention_steps else CONTEXT
    np.testing.assert_array_equal(reaches, (back >= 0) & (back <= most))


@every_kind
@pytest.mark.parametrize("field", ["obs", "prev_action", "prev_reward", "prev_done", "is_begin", "age"])
def test_every_part_of_a_token_is_read(field, imitator):
    built, params = make(imitator)
    tokens = random_tokens(SPEC, 1, 8)
    old = getattr(tokens, field)
    new = ~old if old.dtype == bool else old + np.ones_like(old)
    if field == "prev_action":
        new = new % 5
    forward = forward_of(built)
    change = forward(params, tokens) - forward(params, tokens.replace(**{field: new}))
    assert np.abs(np.asarray(change)).max() > 1e-4


@pytest.mark.parametrize(
    ("option", "field"), [("reads_reward", "prev_reward"), ("reads_done", "prev_done"), ("reads_age", "age")]
)
@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_a_part_that_is_left_out_is_not_read_and_has_no_weights(option, field, kind):
    built, params = make(dataclasses.replace(SMALL, kind=kind, **{option: False}))
    whole = make(dataclasses.replace(SMALL, kind=kind))[1]
    tokens = random_tokens(SPEC, 1, 8)
    old = getattr(tokens, field)
    other = tokens.replace(**{field: ~old if old.dtype == bool else old + np.ones_like(old)})
    forward = forward_of(built)
    np.testing.assert_array_equal(forward(params, tokens), forward(params, other))
    assert set(whole) - set(params) == {option.removeprefix("reads_")}


@every_kind
def test_dropout_and_masking_act_in_training_only(imitator):
    built, params = make(dataclasses.replace(imitator, dropout=0.2, mask_inputs=0.3))
    tokens = random_tokens(SPEC, 2, 8)
    forward = jax.jit(built.logits)
    plain, again = forward(params, tokens, None), forward(params, tokens, None)
    one, two = (forward(params, tokens, jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(plain, again)
    assert np.abs(np.asarray(one - two)).max() > 1e-3
    assert np.abs(np.asarray(one - plain)).max() > 1e-3


def test_what_dropout_leaves_is_scaled_up_by_what_it_takes():
    kept = np.asarray(embedding.dropout(jnp.ones(20_000), jax.random.key(0), 0.25))
    np.testing.assert_allclose(np.unique(kept), [0.0, 1.0 / 0.75])
    assert kept.mean() == pytest.approx(1.0, abs=0.02)


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


def gradients(imitator: config.Imitator):
    built, params = make(imitator)
    tokens = random_tokens(SPEC, 2, CONTEXT)
    loss = jax.jit(jax.value_and_grad(lambda p: jnp.sum(built.logits(p, tokens, jax.random.key(0)) ** 2)))
    return loss(params)


@pytest.mark.parametrize("kind", ["transformer", "linear_recurrence"])
def test_computing_layers_again_backwards_changes_nothing_but_memory(kind):
    plain = dataclasses.replace(SMALL, kind=kind, dropout=0.1)
    (value, grads), (again, other) = (
        gradients(plain),
        gradients(dataclasses.replace(plain, rematerialise=True)),
    )
    np.testing.assert_allclose(value, again, rtol=1e-5)
    for one, two in zip(jax.tree.leaves(grads), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "imitator",
    [
        KINDS["refilled"],
        KINDS["ring"],
        dataclasses.replace(SMALL, rematerialise=True),
        KINDS["linear recurrence"],
        KINDS["gru"],
    ],
)
def test_rounded_products_are_near_the_exact_ones_and_logits_stay_float32(imitator):
    (value, grads), (rounded, other) = (
        gradients(imitator),
        gradients(dataclasses.replace(imitator, products="bfloat16")),
    )
    assert value != rounded
    np.testing.assert_allclose(value, rounded, rtol=0.1)
    exact, near = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (grads, other))
    assert np.linalg.norm(exact - near) < 0.1 * np.linalg.norm(exact)
    built, params = make(dataclasses.replace(imitator, products="bfloat16"))
    assert jax.eval_shape(forward_of(built), params, random_tokens(SPEC, 1, 4)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refill_steps": 16}, "refill_steps = 16"),
        ({"width": 18}, "num_heads"),
        ({"attention_steps": 4, "positions": "absolute"}, "attention_steps = 0"),
        ({"kind": "gru", "attention_steps": 4}, "no window"),
        ({"kind": "linear_recurrence", "num_heads": 3}, "num_heads = 3"),
    ],
)
def test_impossible_options_name_their_fields(change, message):
    with pytest.raises(ValueError, match=message):
        make_imitator(dataclasses.replace(SMALL, **change), SPEC, context_steps=CONTEXT)
