"""Counted operations beside those that the compiler counts in the program that it made (on a CPU)."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest

from cl_imitate import config, cost, executed, keys, load_config, train
from cl_imitate.envs import tasks
from cl_imitate.imitators import learner_posterior
from cl_imitate.imitators.embedding import empty_tokens
from cl_imitate.imitators.make import make_imitator
from cl_imitate.learners.dqn import hyperparams, make_dqn
from cl_imitate.learners.replay import first_cursor
from cl_imitate.types import Context, ScreenObservation, Spec

pytestmark = pytest.mark.unoptimised

QUICK = load_config.load(pathlib.Path(__file__).parents[1] / "configs" / "quickstart.toml")
SYMBOLS = tasks.make(QUICK.environment, shapes=QUICK.shapes).env.spec
SCREENS = Spec(
    observation=ScreenObservation(10, 10, 4), num_actions=6, reward_dtype="int8", can_truncate=False,
    episode_steps=None,
)  # fmt: skip
SMALL = dataclasses.replace(QUICK.learner, hidden=(64, 64))
LEARNERS = {
    "quickstart's": (QUICK.learner, SYMBOLS),
    "64-64": (SMALL, SYMBOLS),
    "64-64, double Q, no averaging": (
        dataclasses.replace(SMALL, double_q=True, target_period_updates=100, optimiser="rmsprop_centred"),
        SYMBOLS,
    ),
    "MinAtar's": (
        config.Learner(hidden=(128,), replay_capacity=64, optimiser="rmsprop_centred", loss="huber"),
        SCREENS,
    ),
}
IMITATORS = {
    "quickstart's": QUICK.imitator,
    "twice as wide": dataclasses.replace(QUICK.imitator, width=128),
    "context 256, a reach of 64": dataclasses.replace(QUICK.imitator, context_steps=256, attention_steps=64),
    "linear recurrence": dataclasses.replace(QUICK.imitator, kind="linear_recurrence"),
    "gru": dataclasses.replace(QUICK.imitator, kind="gru"),
}
BATCH = 4


def compiled(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def learner_ratio(name: str) -> float:
    learner, spec = LEARNERS[name]
    dqn, obs = make_dqn(learner, spec), jnp.zeros(spec.observation.shape, jnp.uint8)
    state = jax.eval_shape(dqn.init, jax.random.key(0), obs)
    rates = jax.tree.map(lambda leaf: leaf[0], hyperparams(learner, 1))
    update = compiled(dqn.update, jax.random.key(1), state, rates, first_cursor())
    act = compiled(dqn.act, jax.random.key(1), state, rates, obs, jnp.int32(0))
    return (update + act) / executed.learner_flops(learner, spec)


def imitator_ratios(name: str) -> tuple[float, float]:
    """Compiled over counted: read, and trained on."""
    imitator = IMITATORS[name]
    steps = imitator.context_steps
    built = make_imitator(imitator, SYMBOLS, context_steps=steps)
    params, tokens = jax.eval_shape(built.init, jax.random.key(0)), empty_tokens((BATCH, steps), SYMBOLS)
    shape = (BATCH, steps)
    context = Context(tokens=tokens, action=jnp.zeros(shape, jnp.int32), weight=jnp.ones(shape))

    def loss(params, context):
        return train.next_action_loss(built.logits(params, context.tokens, None), context)

    read = compiled(lambda params, tokens: built.logits(params, tokens, None), params, tokens)
    trained = compiled(jax.value_and_grad(loss), params, context)
    counted = (
        count(imitator, SYMBOLS, context_steps=steps)
        for count in (executed.forward_flops, executed.training_flops)
    )
    return tuple(whole / (BATCH * steps) / one for whole, one in zip((read, trained), counted, strict=True))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learners_operations_are_those_of_the_compiled_program_within_a_tenth(name):
    assert 0.9 < learner_ratio(name) < 1.1


@pytest.mark.parametrize("name", [name for name, one in IMITATORS.items() if one.kind == "transformer"])
def test_a_transformers_operations_are_those_of_the_compiled_program_within_a_tenth(name):
    read, trained = imitator_ratios(name)
    assert 0.9 < read < 1.1
    assert 0.9 < trained < 1.1


def posterior_ratio() -> float:
    """Four hypotheses on one stream, all side by side: asked for their policies, and updated."""
    rates = (5e-4, 1e-3, 2e-3, 4e-3)
    learners = [dataclasses.replace(SMALL, learning_rate=rate) for rate in rates]
    hypotheses = [learner_posterior.Hypothesis(name=str(one.learning_rate), learner=one) for one in learners]
    mixture, settings = learner_posterior.make_mixture(hypotheses, SYMBOLS, at_once=len(rates))
    causes_keys = keys.members(keys.root(0), len(rates))[:, None]
    causes = learner_posterior.make_causes(mixture, causes_keys, jax.random.clone(causes_keys))
    obs = jnp.zeros(1, jnp.uint8)
    prior = jnp.full((len(rates), 1), -jnp.log(4.0))
    posterior = learner_posterior.init(mixture, causes, obs, prior)

    def step(posterior, replay_keys, obs):
        policy = learner_posterior.policies(mixture, posterior, settings, obs)
        return policy, learner_posterior.learn(mixture, posterior, settings, replay_keys)

    return compiled(step, posterior, causes.replay, obs) / sum(
        executed.learner_flops(learner, SYMBOLS) for learner in learners
    )


def test_a_posteriors_operations_are_those_of_the_compiled_program_within_a_tenth():
    assert 0.9 < posterior_ratio() < 1.1


if __name__ == "__main__":  # what the docstring of `executed` says
    for name, (learner, spec) in LEARNERS.items():
        ratio = learner_ratio(name)
        alone = ratio * executed.learner_flops(learner, spec) / cost.learning(learner, spec).flops_per_step
        print(f"learner {name}: {ratio:.3f}; against cost alone {alone:.3f}")
    for name, imitator in IMITATORS.items():
        ratios = imitator_ratios(name)
        steps = imitator.context_steps
        of = cost.of(imitator, SYMBOLS, context_steps=steps)
        more = (
            executed.forward_flops(imitator, SYMBOLS, context_steps=steps) / of.forward_flops,
            executed.training_flops(imitator, SYMBOLS, context_steps=steps) / of.training_flops,
        )
        print(f"imitator {name}: {ratios}; alone {[a * b for a, b in zip(ratios, more, strict=True)]}")
    print(f"posterior, four of 64-64 units: {posterior_ratio():.3f}")
