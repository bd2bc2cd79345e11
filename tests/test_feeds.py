"""Histories from the store and from the simulator are the same histories."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl_imitate import config, feeds, keys, load_config, populations, simulate, train
from cl_imitate.imitators.make import make_imitator
from cl_imitate.types import History
from tests.ensembles import assert_same

pytestmark = pytest.mark.unoptimised

SMOKE = pathlib.Path(__file__).parents[1] / "configs" / "smoke.toml"
CHUNK = 32
TINY = ("training.num_updates=6", "training.evaluate_every_updates=2", "simulation.block_size=2")


@functools.cache
def experiment(*overrides: str) -> config.Experiment:
    return load_config.load(SMOKE, (*TINY, *overrides))


@functools.cache
def recorded(name: str) -> History:
    population = populations.make(name, experiment())
    parts = [
        jax.tree.map(np.asarray, history)
        for _, history in simulate.advance(
            population.newborn(),
            population.streams,
            population.env_params,
            population.rates,
            **population.static,
            num_steps=experiment().recorded_steps,
            chunk_steps=CHUNK,
        )
    ]
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


def stream(*overrides: str) -> feeds.Streamed:
    return feeds.Streamed(experiment('training.feed="stream"', *overrides), None, chunk_steps=CHUNK)


VALIDATED = ("training.num_validation=4", "training.stream_learners=4")


def test_the_learners_that_are_streamed_are_those_that_would_be_stored_each_in_one_epoch():
    source, whole = stream(*VALIDATED), recorded("recorded")
    lived = []
    feed = source.feed(lived.append)
    update, seen = 0, []
    while update < 6:
        history, until = feed(update)
        seen.append(history)
        assert until > update
        update = until
    assert len(seen) == 3
    assert sum(lived) == source.steps_lived == 12 * 128
    streamed = jax.tree.map(lambda *xs: np.concatenate(xs), *seen, source.held_out)
    assert_same(streamed, whole)
    assert source.td_updates == 16 * 128
    assert source.best == feeds.best_levels(experiment(), whole)


@functools.cache
def imitator():
    spec = populations.make("recorded", experiment()).family.env.spec
    return make_imitator(config.Imitator(width=16, num_layers=1, num_heads=2), spec, context_steps=16)


def fit(source: feeds.Stored | feeds.Streamed) -> list[np.ndarray]:
    training, member_keys = experiment(*VALIDATED[:1]).training, keys.members(keys.root(3), 2)
    losses = []
    for _, progress in train.fit(
        train.init_train_state(member_keys, imitator=imitator(), training=training),
        member_keys,
        jnp.array([64, 128]),
        source.feed(lambda _: None),
        source.held_out,
        jax.random.key(1),
        imitator=imitator(),
        training=training,
        context_steps=16,
        devices=source.train_devices,
    ):
        losses += [progress.train_loss, progress.held_out_loss]
    return losses


def test_in_one_epoch_training_s_numbers_are_the_store_s_bit_for_bit_and_in_more_each_learner_counts():
    stored = fit(feeds.Stored(experiment(VALIDATED[0]), recorded("recorded"), recorded("held_out")))
    assert_same(stored, fit(stream(VALIDATED[0], "training.stream_learners=12")))
    first, second = (fit(stream(*VALIDATED)) for _ in range(2))
    assert_same(first, second)
    assert not np.array_equal(first[-1], stored[-1])


def test_learners_held_out_for_good_come_from_the_store():
    source = feeds.Streamed(
        experiment('training.feed="stream"', "training.stream_learners=8"),
        recorded("held_out"),
        chunk_steps=CHUNK,
    )
    assert_same(source.held_out, recorded("held_out"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("training.stream_learners=5",), "does not divide"),
        (("training.stream_learners=1", "training.num_updates=6"), "number of epochs, 16"),
    ],
)
def test_epochs_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        experiment('training.feed="stream"', *overrides)


def test_a_stored_feed_serves_every_update():
    one = experiment()
    source = feeds.Stored(one, recorded("recorded"), recorded("held_out"))
    history, until = source.feed(lambda _: None)(3)
    assert until == one.training.num_updates
    assert source.steps_lived == source.td_updates == 0
    assert_same(history, recorded("recorded"))


SPLIT = 'training.stream_devices="split"'


def test_half_of_the_devices_simulate_while_the_others_train_the_same_learners():
    """Bits of training depend on how many imitators a device has, those of learners on their block alone."""
    shared, split = stream(*VALIDATED), stream(*VALIDATED, SPLIT)
    assert (split.train_devices, split._devices) == (jax.local_devices()[1:], jax.local_devices()[:1])
    expected, found = fit(shared), fit(split)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)
    assert_same(found, fit(stream(*VALIDATED, SPLIT)))
    assert (split.best, split.td_updates) == (shared.best, shared.td_updates)
    feeds_of = [source.feed(lambda _: None) for source in (shared, split)]
    for update in (0, 2, 4):
        (one, until), (other, other_until) = (feed(update) for feed in feeds_of)
        assert until == other_until
        assert_same(one, other)


def test_learners_that_diverge_beside_training_stop_it():
    diverging = ('training.feed="stream"', "training.stream_learners=8", SPLIT, "learner.learning_rate=1e30")
    source = feeds.Streamed(experiment(*diverging), recorded("held_out"), chunk_steps=CHUNK)
    with pytest.raises(FloatingPointError, match="not finite"):
        fit(source)


def test_one_device_cannot_be_split(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    with pytest.raises(ValueError, match="needs two local devices"):
        stream(*VALIDATED, SPLIT)
