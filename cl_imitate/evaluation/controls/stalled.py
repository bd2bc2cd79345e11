"""The stalled learner: a history whose learner stopped updating at some step. Does the imitator stall with it?

Held-out learners are held from step s on, for as long as a context, and so reach the age s + L with the skill of s. The
imitator is prompted with that history, and beside it with the history of the same learner that went on learning up to
the same age. Both prompts are equally long and end at the same age; only what they show differs. Both then act from the
same state with the same random numbers. Two figures, each a share of what the imitator does after the learning
prompt, counted from the level of the learner held at s:

- its level over the first steps (NOW's): 0 where it plays as the stalled learner does, 1 where it plays as a learner
  of that age would, whatever it was shown, which is to read a clock;
- its level at the end of the horizon (the estimate): 0 where it stalls as the learner has, 1 where it ends up as high
  as after a prompt that shows learning. What starts low and ends high reads no clock, but goes on by itself.

No recorded learner ever stalls, so a stalled prompt is something new to the imitator.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import config, simulate, statistics
from cl_imitate.evaluation import entries
from cl_imitate.evaluation.controls import gains, scenes
from cl_imitate.evaluation.controls.study import Arrays, Control, Study
from cl_imitate.evaluation.imitator_arms import imitator_arms
from cl_imitate.evaluation.learner_arms import learner_arm
from cl_imitate.evaluation.protocols import Protocol
from cl_imitate.evaluation.scene import Count
from cl_imitate.learners import dqn
from cl_imitate.simulate import Ensemble
from cl_imitate.types import History

PROMPTS = ("stalled", "learning")


def stall_step(experiment: config.Experiment) -> int:
    """Where the learner stops. Raises ValueError: it is not kept there.

    (`check_controls` sees to it that it is held no longer than was recorded: imitators have read of no higher age.)
    """
    evaluation = experiment.evaluation
    step = experiment.controls.stall_step or evaluation.later_fork_step
    allowed = sorted({*evaluation.stage_steps, *evaluation.fork_steps} - {0})
    if step not in allowed:
        raise ValueError(
            f"controls.stall_step = {step}: learners are kept at stages and forks, {allowed}. Take one of these, or "
            "add the step to evaluation.stage_steps."
        )
    return step


def stalled_steps(experiment: config.Experiment, chunk_steps: int) -> int:
    """For how long the learner is held: what fills a context of the imitator's, in whole chunks."""
    steps = experiment.imitator.context_steps * experiment.training.keep_every_episodes
    return -(-steps // chunk_steps) * chunk_steps


def going_on(study: Study, *, num_steps: int, hold: bool) -> tuple[Ensemble, History]:
    """The held-out learners `num_steps` after the stall, held or learning, and their whole histories up to there."""
    population, step = study.population("held_out"), stall_step(study.experiment)
    past, parts, ensemble = study.history("held_out"), [], None
    age = jnp.int32(max(step - population.learner.learning_starts_steps, 0))
    rates = dqn.hold_epsilon(population.rates, age) if hold else population.rates
    for ensemble, history in simulate.advance(
        study.snapshot(population, step),
        population.streams,
        population.env_params,
        rates,
        **population.static,
        num_steps=num_steps,
        chunk_steps=study.chunk_steps,
        hold=hold,
    ):
        parts.append(jax.tree.map(np.asarray, history))
        study.tick(history.action.size)
    assert ensemble is not None
    first = jax.tree.map(lambda x: np.asarray(x)[:, :step], past)
    return ensemble, jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), first, *parts)


def _protocol(experiment: config.Experiment, age: int) -> Protocol:
    evaluation = experiment.evaluation
    return Protocol(
        name="now_and_later",
        label=f"stalled at {stall_step(experiment)}",
        population="held_out",
        fork_step=experiment.recorded_steps,
        prompt_step=age,
        learner_step=age,
        horizon_steps=evaluation.later_steps,
        now_steps=evaluation.now_steps,
        wiped=False,
    )


def _measure(study: Study) -> Arrays:
    experiment, population = study.experiment, study.population("held_out")
    num_steps = stalled_steps(experiment, study.chunk_steps)
    protocol = _protocol(experiment, stall_step(experiment) + num_steps)
    stalled, stalled_past = going_on(study, num_steps=num_steps, hold=True)
    learning, learning_past = going_on(study, num_steps=num_steps, hold=False)
    scene = scenes.scene_of(study, protocol, snapshot=stalled, past=stalled_past)
    spent = {"count": Count(), "tick": study.tick, "keeper": study.keeper}
    arrays: Arrays = {"task": population.task}
    held = learner_arm(scene, "held", num_steps=protocol.horizon_steps, hold=True, **spent)
    learner = learner_arm(scene, "learner", num_steps=protocol.horizon_steps, snapshot=learning, **spent)
    arrays |= {"learner_held": held.returns, "learner": learner.returns}
    for prompt, past in zip(PROMPTS, (stalled_past, learning_past), strict=True):
        one = scenes.scene_of(
            study,
            dataclasses.replace(protocol, label=f"{protocol.label} {prompt}"),
            snapshot=stalled,
            past=past,
        )
        arms = imitator_arms(
            one,
            study.frozen,
            ways=("imitator",),
            prompt_step=protocol.prompt_step,
            num_steps=protocol.horizon_steps,
            **spent,
        )
        arrays[prompt] = arms.returns["imitator"]
    return arrays


def _answer(experiment: config.Experiment, arrays: Arrays) -> dict:
    rules, evaluation = experiment.rules, experiment.evaluation
    num_blocks = arrays["stalled"].shape[-1]
    now = max(1, evaluation.now_steps // evaluation.block_steps)
    last = max(1, round(rules.reference_fraction * num_blocks))
    held = np.nanmean(arrays["learner_held"], axis=-1)
    common = {"task": arrays["task"], "experiment": experiment}

    def shares(blocks: slice, when: str):
        over = {name: np.nanmean(arrays[name][..., blocks], axis=-1) - held for name in (*PROMPTS, "learner")}
        share = gains.estimate(
            statistics.iqm_ratio, over["stalled"], over["learning"], label=f"stalled {when}", **common
        )
        gain = {
            name: gains.estimate(_iqm, values, label=f"stalled {when} {name}", **common)
            for name, values in over.items()
        }
        return share, gain

    first, first_gain = shares(slice(0, now), "first")
    end, end_gain = shares(slice(num_blocks - last, None), "end")
    is_asked = gains.is_above(end_gain["learning"], 0.0, rules)
    none = {"estimate": np.nan, "ci95": (np.nan, np.nan)}
    return {
        **(entries.figure(end, rules) if is_asked else none),
        "unit": "the imitator's gain at the end of the horizon over the learner held at the stall: after a stalled "
        "prompt / after a learning one of the same age",
        "meaning": _meaning(first, end, rules)
        if is_asked
        else "Not even after a prompt that shows learning does the "
        "imitator surely come above the stalled learner: nothing could stall.",
        "at_once": entries.figure(first, rules),
        "stall_step": stall_step(experiment),
        "gain_at_once": {name: entries.figure(one, rules) for name, one in first_gain.items()},
        "gain_at_end": {name: entries.figure(one, rules) for name, one in end_gain.items()},
    }


def _iqm(values: np.ndarray) -> np.ndarray:
    return statistics.iqm(values)


def _meaning(first: statistics.Estimate, end: statistics.Estimate, rules: config.Rules) -> str:
    if gains.is_below(end, rules.learns_yes, rules):
        return "It stalls with the learner that stalled, at least by half: it reads what the learner does, no clock."
    if not gains.is_above(end, rules.learns_yes, rules):
        return "Undecided: it may stall with the learner or go on without it."
    if gains.is_above(first, rules.learns_yes, rules):
        return (
            "It plays at once as a learner of that age would, though the one it was shown had stopped: it reads a "
            "clock, or knows from its context what the learner did not."
        )
    if gains.is_below(first, rules.learns_yes, rules):
        return "It starts where the stalled learner is and goes on by itself: it reads no clock, but does not stall."
    return "It does not stall with the learner; whether it goes by a clock is undecided."


def _work(experiment: config.Experiment) -> int:
    evaluation, num = experiment.evaluation, experiment.simulation.num_held_out
    streams = 2 + len(PROMPTS) * experiment.training.num_seeds
    lived = 2 * experiment.imitator.context_steps * experiment.training.keep_every_episodes
    return num * (streams * evaluation.later_steps + lived)


CONTROL = Control(measure=_measure, answer=_answer, work=_work)
