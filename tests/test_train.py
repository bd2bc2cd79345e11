"""Training in lockstep: members as if alone, resumable, and it learns what can be learned."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config, keys, train
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import Context, History, Spec, SymbolObservation
from tests.ensembles import assert_same

pytestmark = pytest.mark.unoptimised

SPEC = Spec(
    observation=SymbolObservation(4), num_actions=4, reward_dtype="int8", can_truncate=True, episode_steps=8
)
IMITATOR = config.Imitator(width=16, num_layers=1, num_heads=2, context_steps=16)
TRAINING = config.Training(
    num_updates=90,
    batch_size=8,
    learning_rate=1e-2,
    warmup_updates=2,
    evaluate_every_updates=15,
    evaluate_windows=16,
)


def copying_history(num_learners: int = 6, num_steps: int = 64) -> History:
    """Learners whose action names what they see: predictable without error."""
    obs = np.random.default_rng(0).integers(0, 4, (num_learners, num_steps))
    nothing = jnp.zeros((num_learners, num_steps), bool)
    return History(
        obs=jnp.asarray(obs, jnp.uint8),
        action=jnp.asarray(3 - obs, jnp.uint8),
        reward=jnp.zeros((num_learners, num_steps), jnp.int8),
        terminated=nothing,
        truncated=nothing,
        explored=nothing,
    )


@functools.cache
def imitator():
    return make_imitator(IMITATOR, SPEC, context_steps=16)


def fit(num_members: int, training=TRAINING, state=None, history=None, forks=None, built=None):
    member_keys = keys.members(keys.root(0), num_members)
    built = built or imitator()
    state = state or train.init_train_state(member_keys, imitator=built, training=training)
    history = history or copying_history()
    steps = []
    for state, progress in train.fit(
        state,
        member_keys,
        jnp.full(num_members, 64) if forks is None else forks,
        lambda update: (history, training.num_updates),
        history,
        jax.random.key(9),
        imitator=built,
        training=training,
        context_steps=16,
        devices=jax.local_devices()[:1],  # of several: test_spread, test_blocks
    ):
        steps.append((jax.tree.map(jnp.copy, state), progress))
    return steps


def test_what_can_be_predicted_is_learned():
    steps = fit(2)
    first, last = steps[0][1], steps[-1][1]
    assert first.train_loss[:, 0] == pytest.approx(np.log(4), abs=0.7)
    assert (last.held_out_loss < 0.3).all(), last.held_out_loss


def test_a_history_that_was_read_leaves_the_device_before_the_next_is_fed():
    training = dataclasses.replace(TRAINING, num_updates=6, evaluate_every_updates=2)
    history = jax.tree.map(
        lambda x: np.asarray(x)[:-1], copying_history()
    )  # of a shape that nothing else has
    held_out = jax.tree.map(lambda x: x[:3], history)
    on_device = []

    def feed(update: int):
        on_device.append(sum(x.shape == history.action.shape for x in jax.live_arrays()))
        return history, update + 2

    member_keys = keys.members(keys.root(0), 1)
    fitting = train.fit(
        train.init_train_state(member_keys, imitator=imitator(), training=training),
        member_keys,
        jnp.full(1, 64),
        feed,
        held_out,
        jax.random.key(9),
        imitator=imitator(),
        training=training,
        context_steps=16,
    )
    for _ in fitting:
        pass
    assert on_device == [0, 0, 0]


def test_a_member_is_trained_as_if_it_were_alone():
    together, alone = fit(2)[-1][0], fit(1)[-1][0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:1], b, rtol=2e-3, atol=2e-4), together.params, alone.params
    )
    first, second = (jax.tree.map(lambda x, i=i: x[i], together.params) for i in (0, 1))
    assert np.abs(np.asarray(first["head"]["kernel"] - second["head"]["kernel"])).max() > 1e-3


def test_training_goes_on_exactly_where_it_stopped():
    steps = fit(2)
    resumed = fit(2, state=steps[0][0])
    assert_same(steps[-1][0], resumed[-1][0])


def test_nothing_after_a_member_s_fork_influences_it():
    history = copying_history()
    changed = history.replace(action=history.action.at[:, 32:].set(0))
    forks = jnp.array([32, 64])
    one, two = (fit(2, history=h, forks=forks)[-1][0].params for h in (history, changed))
    assert_same(*(jax.tree.map(lambda x: x[0], params) for params in (one, two)))
    assert np.abs(np.asarray(one["head"]["kernel"][1] - two["head"]["kernel"][1])).max() > 1e-3


def test_the_checkpoint_rule_picks_the_last_or_the_best_on_held_out_learners():
    steps = fit(2)
    losses = np.stack([progress.held_out_loss for _, progress in steps])
    state = steps[-1][0]
    np.testing.assert_array_equal(state.best_loss, losses.min(axis=0))
    for member, best in enumerate(losses.argmin(axis=0)):
        expected = jax.tree.map(lambda x, m=member: x[m], steps[best][0].params)
        assert_same(jax.tree.map(lambda x, m=member: x[m], state.best_params), expected)
    assert train.chosen_params(state, TRAINING) is state.params
    best = config.Training(checkpoint_rule="best_validation")
    assert train.chosen_params(state, best) is state.best_params


def test_the_loss_is_the_mean_cross_entropy_over_the_steps_that_count():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    tokens = None
    context = Context(tokens=tokens, action=jnp.array([[0, 2]]), weight=jnp.array([[1.0, 0.0]]))
    assert train.next_action_loss(logits, context) == pytest.approx(-np.log(0.5))
    both = context.replace(weight=jnp.ones((1, 2)))
    assert train.next_action_loss(logits, both) == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2)


def test_the_held_out_loss_is_of_lives_as_they_were_lived_whatever_training_s_windows_skip():
    still = dataclasses.replace(
        TRAINING,
        num_updates=1,
        evaluate_every_updates=1,
        learning_rate=1e-30,  # no weight changes by so little
        final_learning_rate=1e-30,
        start_every_steps=8,
    )
    plain, skipping = (
        fit(1, training=dataclasses.replace(still, skip_ahead=share))[-1][1] for share in (0.0, 1.0)
    )
    np.testing.assert_array_equal(plain.held_out_loss, skipping.held_out_loss)
    assert (plain.train_loss != skipping.train_loss).all()


@pytest.mark.parametrize("field", ["dropout", "mask_inputs"])
def test_noise_is_part_of_training_and_the_same_each_time(field):
    short = dataclasses.replace(TRAINING, num_updates=15)
    noisy = make_imitator(dataclasses.replace(IMITATOR, **{field: 0.5}), SPEC, context_steps=16)
    quiet, once, again = (fit(1, short, built=built)[-1][0].params for built in (None, noisy, noisy))
    assert_same(once, again)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(quiet), jax.tree.leaves(once), strict=True))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_update():
    bad = train.init_train_state(keys.members(keys.root(0), 1), imitator=imitator(), training=TRAINING)
    bad = bad.replace(params=jax.tree.map(lambda x: x.at[...].set(jnp.nan), bad.params))
    with pytest.raises(FloatingPointError, match="imitator 0 is nan at update 0"):
        fit(1, state=bad)


def test_a_held_out_loss_that_is_not_finite_stops_the_run_even_after_the_very_last_update():
    fine = train.Progress(
        update=8, train_loss=np.ones((3, 4), np.float32), held_out_loss=np.ones(3, np.float32)
    )
    assert train.problem(fine) is None
    broken = fine._replace(held_out_loss=np.array([1.0, np.inf, np.nan], np.float32))
    assert re.search(
        r"held-out loss of imitator 1 is inf after 8 updates.*learning_rate", str(train.problem(broken))
    )
    diverging = dataclasses.replace(TRAINING, num_updates=1, warmup_updates=0, learning_rate=float("inf"))
    with pytest.raises(FloatingPointError, match="held-out loss of imitator 0 is nan after 1 updates"):
        fit(1, training=diverging)


def test_the_learning_rate_warms_up_then_falls():
    training = config.Training(num_updates=100, warmup_updates=10, learning_rate=1.0, final_learning_rate=0.1)
    optimiser = train.make_optimiser(training)
    params = {"w": jnp.ones((2, 2))}
    state, sizes = optimiser.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(optimiser.update)
        for _ in range(100):
            delta, state = update({"w": jnp.ones((2, 2))}, state, {"w": jnp.zeros((2, 2))})
            sizes.append(float(np.abs(np.asarray(delta["w"])).max()))
    assert sizes[0] == 0
    assert sizes[5] == pytest.approx(0.5, rel=0.05)
    assert max(sizes) == pytest.approx(1.0, rel=0.05)
    assert sizes[-1] == pytest.approx(0.1, rel=0.1)


def test_with_a_reference_width_an_update_moves_the_logits_as_far_at_every_width():
    tokens = empty_tokens((1, 16), SPEC)

    def moved(width, reference_width):
        wide = config.Imitator(width=width, num_layers=1, num_heads=width // 8)
        built = make_imitator(wide, SPEC, context_steps=16)
        training = config.Training(
            learning_rate=1e-3, warmup_updates=0, num_updates=100, reference_width=reference_width
        )
        optimiser = train.make_optimiser(training)

        def change(params, opt_state):
            loss = jax.grad(lambda p: -jax.nn.log_softmax(built.logits(p, tokens, None))[..., 0].mean())
            new = jax.tree.map(jnp.add, params, optimiser.update(loss(params), opt_state, params)[0])
            return jnp.abs(built.logits(new, tokens, None) - built.logits(params, tokens, None)).mean()

        state = train.init_train_state(keys.members(keys.root(0), 8), imitator=built, training=training)
        with jax.numpy_dtype_promotion("standard"):
            return float(np.mean(jax.jit(jax.vmap(change))(state.params, state.opt_state)))

    narrow = moved(16, 16)
    assert moved(128, 0) / narrow > 4.0
    assert 0.6 < moved(128, 16) / narrow < 1.7
