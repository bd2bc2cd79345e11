"""Imitators trained on altered histories, and how they do beside the real ones.

Everything but the histories is the run's own: the training config, the initialisations, the batches' keys, the scenes.
So what a real imitator gains more is what the histories lost when they were altered.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import keys, statistics, train
from cl_imitate.config import Experiment, Rules
from cl_imitate.evaluation import entries, metrics, returns
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.controls import gains, scenes
from cl_imitate.evaluation.controls.study import Arrays, Study
from cl_imitate.evaluation.results import Cell
from cl_imitate.evaluation.scene import part_name
from cl_imitate.histories import contexts
from cl_imitate.imitators.base import Imitator
from cl_imitate.types import History


def recorded_histories(study: Study) -> History:
    """The recorded learners' histories as training reads them, on the host.

    Raises:
      ValueError: they were streamed into training, and nobody kept them.
    """
    if study.experiment.training.feed != "store":
        raise ValueError(
            'this control alters recorded histories, and training.feed = "stream" keeps none: set it to "store", or '
            "take the control out of controls.run."
        )
    return contexts.thin(study.history("recorded"), **contexts.thinning(study.experiment))


def retrain(
    study: Study, name: str, histories: History, *, forks: Sequence[int], imitator: Imitator | None = None
) -> dict[int, Frozen]:
    """Imitators of the headline context trained on `histories` [N, T] (thinned, on the host), by fork.

    `imitator`: acts and is trained in the place of the run's own; it must have the same parameters.
    """
    experiment, training, keeper = study.experiment, study.experiment.training, study.keeper
    imitator = study.frozen.imitator if imitator is None else imitator
    root, num_seeds = keys.root(experiment.seed), training.num_seeds
    seed_keys = keys.members(keys.stream(root, keys.Stream.IMITATOR), num_seeds, first=training.first_seed)
    member_keys = seed_keys[np.tile(np.arange(num_seeds), len(forks))]
    thinned = [contexts.thinned_step(fork, **contexts.thinning(experiment)) for fork in forks]
    held_out = contexts.thin(study.history("held_out"), **contexts.thinning(experiment))
    if num := training.num_validation:
        held_out = jax.tree.map(lambda x: x[-num:], histories)
        histories = jax.tree.map(lambda x: x[:-num], histories)
    state, part = (
        train.init_train_state(member_keys, imitator=imitator, training=training),
        part_name("imitators", name),
    )
    if keeper is not None and (saved := keeper.load(part, lambda _: state)):
        state = saved.tree
    an_update = len(member_keys) * training.batch_size * study.frozen.context_steps
    study.tick(int(state.update) * an_update)
    for state, measured in train.fit(
        state,
        member_keys,
        jnp.repeat(jnp.array(thinned, jnp.int32), num_seeds),
        lambda _: (histories, training.num_updates),
        held_out,
        keys.stream(root, keys.Stream.BATCH),
        imitator=imitator,
        training=training,
        context_steps=study.frozen.context_steps,
    ):
        study.tick(measured.train_loss.shape[1] * an_update)
        is_done = measured.update == training.num_updates
        if keeper is not None and (is_done or keeper.is_due(part, measured.update)):
            keeper.save(part, measured.update, state, {})
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), train.chosen_params(state, training))
    return {
        fork: Frozen(
            imitator=imitator,
            context_steps=study.frozen.context_steps,
            params=jax.tree.map(lambda leaf, i=index: leaf[i * num_seeds : (i + 1) * num_seeds], params),
            num_seeds=num_seeds,
        )
        for index, fork in enumerate(forks)
    }


def beside_real(study: Study, name: str, altered: dict[int, Frozen]) -> Arrays:
    """Real and altered imitators through PROCESS from nothing, and NOW and LATER at every fork of `altered`.

    The cells' names begin with "real: " and "<name>: ".
    """
    experiment, real = study.experiment, study.imitators[study.frozen.context_steps]
    protocols = {experiment.recorded_steps: [scenes.process(experiment)]}
    for fork in altered:
        protocols.setdefault(fork, []).append(scenes.at_fork(experiment, fork))
    cells = []
    for fork, of_fork in protocols.items():
        for protocol in of_fork:
            cells += scenes.beside_learners(study, protocol, real=real[fork], **{name: altered[fork]})
    return gains.keep(cells)


def data_levels(study: Study, altered: History, real: History) -> Arrays:
    """What the altered histories themselves reach in their end, beside the unaltered ones, each [1, N]; and the tasks.

    An imitator that reproduces its data reaches no more than this.
    """
    fraction = study.experiment.rules.reference_fraction
    found = {}
    for name, history in (("altered", altered), ("real", real)):
        done = np.asarray(history.terminated | history.truncated)
        num_steps = max(1, round(fraction * done.shape[1]))
        found[f"data {name}"] = returns.levels(
            history.reward, done, end_step=done.shape[1], num_steps=num_steps
        )[None]
    return {**found, "data task": study.population("recorded").task}


def steps(experiment: Experiment, *, forks: Sequence[int]) -> int:
    """How many steps `retrain` and `beside_real` tell of."""
    training = experiment.training
    windows = len(forks) * training.num_seeds * training.num_updates * training.batch_size
    played = [scenes.process(experiment), *(scenes.at_fork(experiment, fork) for fork in forks)]
    acted = sum(scenes.steps_beside_learners(experiment, one, kinds=2) for one in played)
    return windows * experiment.imitator.context_steps + acted


class Words(NamedTuple):
    """How an altered history is spoken of."""

    histories: str  # "shuffled histories"
    lost: str  # what they lack: "the order of a learner's episodes"
    as_good: str  # what it means if an imitator of them does as well


def answer(experiment: Experiment, arrays: Arrays, words: Words) -> dict[str, Any]:
    """Real less altered, as shares of what the learner gains; the estimate is PROCESS's."""
    rules = experiment.rules
    real, altered = ({}, {})
    for cell in gains.kept(arrays):
        (real if cell.name.startswith("real: ") else altered)[cell.protocol, cell.fork_step] = cell
    compared = {place: _compared(experiment, one, altered[place]) for place, one in real.items()}
    place = "process", experiment.recorded_steps
    difference, real_share, altered_share = compared[place]
    course = _on_the_way(experiment, real[place], altered[place], is_asked=np.isfinite(real_share.value))
    data_share = _data_share(experiment, real[place], arrays)
    further = [
        {
            "protocol": protocol,
            "fork_step": fork,
            **{
                key: entries.figure(one, rules)
                for key, one in zip(("difference", "real", "altered"), found, strict=True)
            },
        }
        for (protocol, fork), found in compared.items()
    ]
    return {
        **entries.figure(difference, rules),
        "unit": f"share of the learner's gain in PROCESS: real imitator less one trained on {words.histories}",
        "meaning": _meaning(experiment.rules, words, compared[place], course, data_share),
        "real": entries.figure(real_share, rules),
        "altered": entries.figure(altered_share, rules),
        "whole_span_difference": course[0].value,
        "whole_span_difference_ci95": course[0].interval(rules.confidence),
        "whole_span_real": entries.figure(course[1], rules),
        "whole_span_altered": entries.figure(course[2], rules),
        "steps_to_half_of_the_learner_s_gain": {
            "learner": gains.steps_to_half(real[place], "learner", experiment),
            "real": gains.steps_to_half(real[place], "imitator", experiment),
            "altered": gains.steps_to_half(altered[place], "imitator", experiment),
        },
        "data": entries.figure(data_share, rules),
        "protocols": further,
    }


def _compared(experiment: Experiment, real: Cell, altered: Cell) -> list[statistics.Estimate]:
    """The difference of the shares of the learner's gain, and both shares; nothing where the learner gains too little
    of its range to take shares of, as in the rules for PROCESS and LATER."""
    of = {
        "now": gains.now_gains,
        "process": lambda cell: gains.process_gains(cell, experiment),
        "later": lambda cell: gains.later_gains(cell, experiment),
    }[real.protocol]
    (own, whole), (other, _) = of(real), of(altered)
    common: dict[str, Any] = {"task": real.task, "experiment": experiment}
    if real.protocol != "now":
        full = metrics.end_level(real, "learner", experiment.rules) - real.random_return
        gained = gains.estimate(statistics.iqm_ratio, whole, full, label=f"{real.name} learner", **common)
        if not gained.value >= experiment.rules.min_learner_gain:
            return [statistics.nothing()] * 3
    return [
        gains.estimate(gains.difference_of_shares, own, other, whole, label=f"{altered.name} less", **common),
        gains.estimate(statistics.iqm_ratio, own, whole, label=real.name, **common),
        gains.estimate(statistics.iqm_ratio, other, whole, label=altered.name, **common),
    ]


def _on_the_way(
    experiment: Experiment, real: Cell, altered: Cell, *, is_asked: bool
) -> list[statistics.Estimate]:
    """PROCESS over the whole span, not its end alone: who comes as far in the end may have come there later."""
    if not is_asked:
        return [statistics.nothing()] * 3
    (own, whole), (other, _) = (gains.course_gains(cell, experiment) for cell in (real, altered))
    common: dict[str, Any] = {"task": real.task, "experiment": experiment}
    return [
        gains.estimate(
            gains.difference_of_shares, own, other, whole, label=f"{altered.name} course", **common
        ),
        gains.estimate(statistics.iqm_ratio, own, whole, label=f"{real.name} course", **common),
        gains.estimate(statistics.iqm_ratio, other, whole, label=f"{altered.name} course alone", **common),
    ]


def _data_share(experiment: Experiment, real: Cell, arrays: Arrays) -> statistics.Estimate:
    """How much of the learners' gain the altered histories themselves reach in their end; nothing where that was not
    measured."""
    if "data altered" not in arrays:
        return statistics.nothing()
    held = metrics.start_level(real, "learner_held", experiment.evaluation.now_steps)
    start = float(metrics.value_of(statistics.iqm, held))
    return gains.estimate(
        statistics.iqm_ratio,
        arrays["data altered"] - start,
        arrays["data real"] - start,
        task=arrays["data task"],
        experiment=experiment,
        label=f"data of {real.name}",
    )


def _meaning(
    rules: Rules,
    words: Words,
    in_the_end: Sequence[statistics.Estimate],
    on_the_way: Sequence[statistics.Estimate],
    data: statistics.Estimate,
) -> str:
    """In words. Each of the first two: real less altered, real, altered."""
    difference, real, altered = in_the_end
    low, high = difference.interval(rules.confidence)
    if not gains.is_above(real, rules.learns_no, rules):
        return "The learner, or the real imitator, gains too little in PROCESS: there is nothing to compare with."
    if data.value < 1.0 - rules.departure_margin and low > 0:
        return (
            f"{words.histories[0].upper()}{words.histories[1:]} reach {data.value:.2f} of the learners' gain in their "
            f"end, and an imitator of them {altered.value:.2f}: that it gains less than the real one, it may owe to "
            "what it was shown to reach, and nothing is said of anything else."
        )
    if low > 0 and gains.is_below(altered, rules.learns_no, rules):
        return f"All that the imitator gains, it owes to {words.lost}: trained on {words.histories}, it gains nothing."
    if low > 0:
        return f"Part of what the imitator gains, it owes to {words.lost}; the rest is learned without."
    if high < 0:
        return f"Trained on {words.histories}, an imitator gains even more. {words.as_good}"
    is_as_good = -rules.departure_margin < low and high < rules.departure_margin
    if on_the_way[0].interval(rules.confidence)[0] > 0:
        ends = "ends as high" if is_as_good else "may end as high (undecided)"
        return (
            f"Trained on {words.histories}, an imitator {ends}, and comes there later: over the whole span it makes "
            f"{on_the_way[2].value:.2f} of the learner's gain, the real one {on_the_way[1].value:.2f}. Part of how it "
            f"learns in the context, the real one owes to {words.lost}."
        )
    if is_as_good:
        return words.as_good
    return f"Undecided: the interval leaves open whether the imitator needs {words.lost}."
