"""The counterfactual learner: what a learner would do, had it lived what the imitator lived.

At the later fork the frozen imitator acts in closed loop. A held-out learner is resumed from its snapshot at the fork
and fed that very stream: the same environment with the same random numbers, the imitator's actions in the place of its
own, its updates as ever (it is off-policy, so that any stream will do). At every step, before it learns from it, its
policy is compared with the imitator's: KL(learner || imitator), in nats. The same learner held at the fork is compared
on the same observations.

A closed loop drifts: an imitator that erred once sees what no learner saw, and to differ from the learner's own
continuation may be no fault of its own. Here there is nothing to drift apart: the learner is asked about the imitator's
own stream. If the imitator changed as learners do, it would stay by the one that learns from this stream and leave the
held one; if it stays what it was, the reverse.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, simulate, statistics
from cl_imitate.evaluation import entries
from cl_imitate.evaluation.closed_loop import Frozen, Record
from cl_imitate.evaluation.controls import gains, scenes
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.scene import Count, Scene, Tick, again
from cl_imitate.learners import dqn as dqn_lib

LEARNERS = ("counterfactual", "held")


def imitators_stream(
    scene: Scene, frozen: Frozen, *, num_steps: int, tick: Tick
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the imitators do in closed loop: actions [S, n, T], rewards [S, n, T], log probabilities [S, n, T, A]."""
    parts: list[tuple[np.ndarray, ...]] = []

    def keep(params, record: Record):
        assert record.log_probs is not None
        parts.append(tuple(np.asarray(x) for x in (record.action, record.reward, record.log_probs)))
        return params

    imitator_arms(
        scene,
        frozen,
        ways=("imitator",),
        prompt_step=scene.protocol.prompt_step,
        num_steps=num_steps,
        count=Count(),
        tick=tick,
        after_block=keep,
    )
    action, reward, log_probs = (
        np.concatenate(one, axis=2)[:, :, :num_steps] for one in zip(*parts, strict=True)
    )
    return action, reward, log_probs


def follow(scene: Scene, action: np.ndarray, *, hold: bool, tick: Tick) -> simulate.Followed:
    """The scene's learners fed the actions [n, T], learning or held: what came of it, and their policies [n, T, A]."""
    population = scene.population
    ensemble = simulate.begin_episode(
        jax.tree.map(jnp.copy, scene.snapshot),
        again(scene.reset_keys),
        population.env_params,
        env=population.family.env,
        dqn=population.dqn,
    )
    age, rates = ensemble.clock.step, population.rates
    if hold:
        rates = dqn_lib.hold_epsilon(rates, jnp.maximum(age - population.learner.learning_starts_steps, 0))
    script = simulate.Script(
        action=jnp.asarray(action), first_step=jnp.full(population.num_learners, age, jnp.int32)
    )
    parts = []
    for _, followed in simulate.advance(
        ensemble,
        population.streams.replace(env=scene.env_keys, script=script),
        population.env_params,
        rates,
        **population.static,
        num_steps=action.shape[1],
        chunk_steps=scene.chunk_steps,
        hold=hold,
    ):
        parts.append(jax.tree.map(np.asarray, followed))
        tick(population.num_learners * scene.chunk_steps)
    return jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)


def divergence(policy: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """KL(policy || imitator) in nats, [..., A] -> [...]."""
    return np.sum(policy * (np.log(np.maximum(policy, 1e-30)) - log_probs), axis=-1)


def _measure(study: Study) -> Arrays:
    experiment = study.experiment
    fork = experiment.evaluation.later_fork_step
    scene = scenes.scene_of(study, scenes.at_fork(experiment, fork))
    frozen = study.imitators[study.frozen.context_steps][fork]
    num_steps, block = scene.protocol.horizon_steps, scene.block_steps
    actions, _, log_probs = imitators_stream(scene, frozen, num_steps=num_steps, tick=study.tick)
    arrays: Arrays = {"task": scene.population.task}
    for learner in LEARNERS:
        found = [
            divergence(np.asarray(follow(scene, action, hold=learner == "held", tick=study.tick).policy), own)
            for action, own in zip(actions, log_probs, strict=True)
        ]
        arrays[learner] = (
            np.stack(found).reshape(*actions.shape[:2], -1, block).mean(axis=-1).astype(np.float32)
        )
    return arrays


def _answer(experiment: config.Experiment, arrays: Arrays) -> dict:
    rules, num_blocks = experiment.rules, arrays["held"].shape[-1]
    tenth = max(1, round(rules.reference_fraction * num_blocks))
    first = {name: arrays[name][..., :tenth].mean(axis=-1) for name in LEARNERS}
    last = {name: arrays[name][..., -tenth:].mean(axis=-1) for name in LEARNERS}

    def difference(one: np.ndarray, other: np.ndarray, label: str) -> statistics.Estimate:
        return gains.estimate(
            lambda a, b: statistics.iqm(a - b),
            one,
            other,
            task=arrays["task"],
            experiment=experiment,
            label=f"counterfactual {label}",
        )

    growth = {name: difference(last[name], first[name], f"growth {name}") for name in LEARNERS}
    over_held = difference(last["counterfactual"], last["held"], "over held")
    zero = np.zeros_like(first["held"])
    return {
        **entries.figure(growth["counterfactual"], rules),
        "unit": "nats: KL(learner || imitator) of the learner that learns from the imitator's own stream, in the last "
        f"{rules.reference_fraction:.0%} of LATER less the first",
        "meaning": _meaning(growth["counterfactual"], over_held, rules),
        "over_held": entries.figure(over_held, rules),
        "growth_of_held": entries.figure(growth["held"], rules),
        "first": {
            name: entries.figure(difference(first[name], zero, f"first {name}"), rules) for name in LEARNERS
        },
        "last": {
            name: entries.figure(difference(last[name], zero, f"last {name}"), rules) for name in LEARNERS
        },
        "by_block": {name: np.round(arrays[name].mean(axis=(0, 1)), 4) for name in LEARNERS},
    }


def _meaning(growth: statistics.Estimate, over_held: statistics.Estimate, rules: config.Rules) -> str:
    grows = "does not surely change"
    if gains.is_above(growth, 0.0, rules):
        grows = "grows"
    elif gains.is_below(growth, 0.0, rules):
        grows = "shrinks"
    where = "whether it ends nearer to that learner or to the one held at the fork is undecided"
    if gains.is_below(over_held, 0.0, rules):
        where = (
            "it ends nearer to that learner than to the one held at the fork: it has moved as learning moves"
        )
    elif gains.is_above(over_held, 0.0, rules):
        where = "it ends nearer to the learner held at the fork: on what it lived, a learner would have changed more"
    return f"Its divergence from a learner that learns from the imitator's own stream {grows}; {where}."


def _work(experiment: config.Experiment) -> int:
    streams = (1 + len(LEARNERS)) * experiment.training.num_seeds
    return streams * experiment.evaluation.later_steps * experiment.simulation.num_held_out


CONTROL = Control(measure=_measure, answer=_answer, work=_work)
