"""The arithmetic of the learner posterior, against numpy and by hand; the learners inside it: `test_posterior_arms`."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ensembles import LEARNER, SHAPES, assert_same

from cl_imitate import config, keys
from cl_imitate.envs import tasks
from cl_imitate.imitators import learner_posterior as lib
from cl_imitate.imitators.learner_posterior import Hypothesis

SPEC = tasks.make(config.Lock(num_positions=4, episode_steps=8), shapes=SHAPES).env.spec


def policies(seed: int, *, steps=50, particles=3, streams=2, actions=4) -> tuple[np.ndarray, np.ndarray]:
    """Policies [T, P, N, A] and the actions [T, N] that the first particle would take."""
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(actions), size=(steps, particles, streams))
    draws = [[rng.choice(actions, p=policy[t, 0, n]) for n in range(streams)] for t in range(steps)]
    return policy, np.array(draws)


def weighed(policy: np.ndarray, action: np.ndarray, prior: np.ndarray, **options) -> np.ndarray:
    likelihood = np.take_along_axis(policy, action[:, None, :, None], axis=3)[..., 0]

    def step(log_weights, now):
        return lib.weigh(log_weights, now, **options), None

    start = jnp.log(jnp.asarray(prior, jnp.float32))
    return np.exp(np.asarray(jax.lax.scan(step, start, jnp.asarray(likelihood, jnp.float32))[0]))


@pytest.mark.parametrize("power", [1.0, 0.3])
def test_weights_are_prior_times_likelihood_to_its_power_normalised(power):
    policy, action = policies(0)
    prior = np.array([[0.2, 0.5], [0.3, 0.25], [0.5, 0.25]])
    likelihood = np.take_along_axis(policy, action[:, None, :, None], axis=3)[..., 0].prod(axis=0)
    expected = prior * likelihood**power
    np.testing.assert_allclose(
        weighed(policy, action, prior, power=power), expected / expected.sum(axis=0), rtol=1e-4
    )


def test_a_tempered_likelihood_is_slower_to_believe():
    policy, action = policies(1)
    prior = np.full((3, 2), 1 / 3)
    assert (weighed(policy, action, prior, power=0.2)[0] < weighed(policy, action, prior)[0]).all()


def test_what_the_prior_rules_out_stays_out_and_long_lives_do_not_underflow():
    policy, action = policies(2, steps=2000)
    found = weighed(policy, action, np.array([[0.0, 1e-3], [0.5, 0.5], [0.5, 0.499]]))
    assert (found[0, 0], found[0, 1]) == (0.0, pytest.approx(1.0))
    np.testing.assert_allclose(found.sum(axis=0), 1.0, rtol=1e-5)


def test_the_mixture_is_the_mean_of_policies_by_weight():
    (policy, *_), _ = policies(3)
    weights = np.array([[0.2, 1.0], [0.3, 0.0], [0.5, 0.0]])
    found = jnp.exp(
        lib.log_mixture(jnp.log(jnp.asarray(weights, jnp.float32)), jnp.asarray(policy, jnp.float32))
    )
    np.testing.assert_allclose(found, np.einsum("pn,pna->na", weights, policy), rtol=1e-5)


# --- resampling

systematic = jax.jit(lib.systematic)
begin = jax.jit(lib.init, static_argnums=0)
resample = jax.jit(lib.resample, static_argnums=0, static_argnames="below")


@pytest.mark.parametrize(
    ("uniform", "weights", "ancestors"),
    [
        (0.0, [0.5, 0.25, 0.25, 0.0], [0, 0, 1, 2]),  # the comb: 0, 1/4, 1/2, 3/4
        (0.5, [0.5, 0.25, 0.25, 0.0], [0, 0, 1, 2]),  # 1/8, 3/8, 5/8, 7/8
        (0.5, [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 3]),
        (0.0, [0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3]),
        (0.99, [0.0, 1.0, 0.0, 0.0], [1, 1, 1, 1]),
        (0.3, [0.25, 0.25, 0.25, 0.25], [0, 1, 2, 3]),
    ],
)
def test_systematic_resampling_by_hand(uniform, weights, ancestors):
    assert systematic(jnp.float32(uniform), jnp.asarray(weights, jnp.float32)).tolist() == ancestors


@hypothesis.given(
    st.floats(0, 0.99),
    st.lists(st.integers(0, 20), min_size=5, max_size=5).filter(lambda found: sum(found) > 0),
)
def test_an_ancestor_has_as_many_descendants_as_its_weight_says_or_one_more_or_less(uniform, parts):
    weights = np.array(parts, np.float32) / sum(parts)
    counts = np.bincount(np.asarray(systematic(jnp.float32(uniform), jnp.asarray(weights))), minlength=5)
    assert (np.abs(counts - 5 * weights) < 1 + 1e-4).all()
    assert (counts[weights == 0] == 0).all()


def test_the_effective_size_of_even_and_of_one_sided_weights():
    found = lib.effective_size(jnp.array([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]))
    assert found.tolist() == [4.0, 1.0, 2.0]


def mixture_of_two_groups(copies: int = 4):
    double = dataclasses.replace(LEARNER, double_q=True)
    whom = [Hypothesis(name="one", learner=LEARNER), Hypothesis(name="two", learner=double)]
    return lib.make_mixture(whom, SPEC, copies=copies)


def newborn(mixture: lib.Mixture, num_streams: int = 2, log_prior=None) -> lib.Posterior:
    shape = (len(mixture.hypothesis_of), num_streams)
    init = keys.members(keys.root(1), shape[0] * shape[1]).reshape(shape)
    replay = keys.members(keys.root(2), shape[0] * shape[1]).reshape(shape)
    obs = jnp.zeros(num_streams, jnp.uint8)
    even = jnp.full((mixture.num_hypotheses, num_streams), -np.log(mixture.num_hypotheses), jnp.float32)
    return begin(
        mixture, lib.make_causes(mixture, init, replay), obs, even if log_prior is None else log_prior
    )


def test_resampling_evens_the_weights_within_a_group_and_keeps_the_group_s():
    mixture, _ = mixture_of_two_groups()
    posterior = newborn(mixture)
    uneven = np.log([[0.57, 0.01, 0.01, 0.01, 0.1, 0.1, 0.1, 0.1], [0.125] * 8]).T
    posterior = posterior.replace(log_weights=jnp.asarray(uneven, jnp.float32))
    draws = keys.members(keys.root(3), 2)
    found = resample(mixture, posterior, draws, below=0.5)
    np.testing.assert_allclose(jnp.exp(found.log_weights[:, 0]), [0.15] * 4 + [0.1] * 4, rtol=1e-5)
    np.testing.assert_array_equal(found.log_weights[:, 1], posterior.log_weights[:, 1])
    old, new = posterior.particles[0].params, found.particles[0].params
    heaviest = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], leaf.shape)[:, 0], old)
    shares = [
        jnp.all(one[:, 0] == other, axis=tuple(range(1, other.ndim)))
        for one, other in zip(jax.tree.leaves(new), jax.tree.leaves(heaviest), strict=True)
        if other.size > 4 * 3
    ]
    assert int(shares[0].sum()) >= 3  # the one with 95% of its group's weight
    assert_same(jax.tree.map(lambda leaf: leaf[:, 1], old), jax.tree.map(lambda leaf: leaf[:, 1], new))
    assert_same(posterior.particles[1], found.particles[1])


def test_nothing_is_resampled_where_a_group_is_ruled_out():
    mixture, _ = mixture_of_two_groups()
    prior = jnp.log(jnp.array([[0.0, 0.0], [1.0, 1.0]]))
    posterior = newborn(mixture, log_prior=prior)
    found = resample(mixture, posterior, keys.members(keys.root(3), 2), below=1.0)
    assert np.isneginf(np.asarray(found.log_weights[:4])).all()
    np.testing.assert_allclose(jnp.exp(found.log_weights).sum(axis=0), 1.0, rtol=1e-6)


# --- hypotheses and their groups


def test_hypotheses_that_differ_in_rates_alone_share_a_program():
    faster = dataclasses.replace(LEARNER, learning_rate=0.1, discount=0.9, target_tau=1.0)
    double = dataclasses.replace(LEARNER, double_q=True)
    whom = [Hypothesis(name=str(index), learner=one) for index, one in enumerate((LEARNER, double, faster))]
    mixture, settings = lib.make_mixture(whom, SPEC, copies=2)
    assert [group.hypotheses for group in mixture.groups] == [(0, 2), (1,)]
    assert mixture.hypothesis_of.tolist() == [0, 0, 2, 2, 1, 1]
    np.testing.assert_allclose(settings.rates.learning_rate, [5e-3, 5e-3, 0.1])


@pytest.mark.parametrize(
    "changes", [{"replay_capacity": 32}, {"learning_starts_steps": 8}, {"steps_per_update": 2}]
)
def test_hypotheses_that_would_not_live_in_lockstep_are_refused(changes):
    other = dataclasses.replace(LEARNER, **changes)
    with pytest.raises(ValueError, match=f"hypothesis other: learner.{next(iter(changes))}"):
        lib.make_mixture(
            [Hypothesis(name="one", learner=LEARNER), Hypothesis(name="other", learner=other)], SPEC
        )


def test_the_posterior_on_a_hypothesis_is_that_of_all_its_particles():
    mixture, _ = mixture_of_two_groups(copies=3)
    posterior = newborn(mixture, log_prior=jnp.log(jnp.array([[0.25, 0.5], [0.75, 0.5]])))
    np.testing.assert_allclose(lib.by_hypothesis(mixture, posterior), [[0.25, 0.5], [0.75, 0.5]], rtol=1e-6)


def test_a_frozen_hypothesis_stops_where_it_should_and_the_others_go_on():
    whom = [
        Hypothesis(name="lives", learner=LEARNER),
        Hypothesis(name="stops", learner=LEARNER, stops_at_step=2),
    ]
    mixture, settings = lib.make_mixture(whom, SPEC)
    posterior, replay_keys = newborn(mixture), (keys.members(keys.root(4), 4).reshape(2, 2),)
    seen = []

    @jax.jit
    def live(posterior, obs):
        taken = {"action": jnp.ones(2, jnp.int32), "reward": jnp.ones(2), "terminated": jnp.zeros(2, bool)}
        posterior = lib.observe(mixture, posterior, obs=obs, final_obs=obs, **taken)
        return lib.learn(mixture, posterior, settings, replay_keys)

    for step in range(4):
        posterior = live(posterior, jnp.full(2, step, jnp.uint8))
        seen.append(jax.tree.leaves(posterior.particles[0].params)[-1])
    moved = [
        [bool((after[p] != before[p]).any()) for p in range(2)]
        for before, after in zip(seen, seen[1:], strict=False)
    ]
    assert moved == [
        [True, True],
        [True, False],
        [True, False],
    ]  # its last update is that after the second step
