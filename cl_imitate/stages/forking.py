"""Forks: a run whose learners start as another run's were at one of its snapshots, and live on with a changed config.

What may be changed is what leaves true all that the learners lived before: their rates from the fork on, and everything
that comes after learners: imitators, training, evaluation, gate, rules.
"""

import dataclasses
import pathlib
import tomllib
from typing import Any

from cl_imitate import config, load_config, populations
from cl_imitate.evaluation import frozen, protocols
from cl_imitate.learners.dqn import DQNHyperparams
from cl_imitate.stages.artifacts import load_snapshot, recorded_steps
from cl_imitate.stages.parent import open_finished
from cl_imitate.stages.run import Run

RATES = tuple(DQNHyperparams.__dataclass_fields__)
_FREE_OF_SIMULATION = ("chunk_steps", "block_size")  # they change how bits are computed, not who lives


def fork_of(path: pathlib.Path, at: int, overrides: tuple[str, ...]) -> tuple[config.Experiment, Run]:
    """The configuration of a fork of the run at `path` from step `at` on, and that run.

    It is called <name>-fork-<at> unless an override says otherwise; a block size that was measured there is kept.

    Raises:
      ValueError: there is no such run or snapshot, or an override would make untrue what was lived before.
    """
    if at < 1:
        raise ValueError(
            f"--at {at}: a fork starts at a step that was lived; from 0 on it is a run of its own"
        )
    parent = open_finished(path)
    values = tomllib.loads(load_config.dump(parent.experiment))
    values.pop("fork", None)
    values["name"] = f"{parent.experiment.name}-fork-{at}"
    for override in overrides:
        load_config.override_value(values, override)
    if "fork" in values:
        raise ValueError("--set fork...: this table is written by the command, from RUN and --at")
    origin = f"a fork of {path}"
    since = _rates_since(parent.experiment, load_config.build(values, origin=origin), at)
    values["fork"] = {"parent_fingerprint": parent.folder.fingerprint, "step": at, "rates_since": since}
    experiment = load_config.build(values, origin=origin)
    check(parent, experiment)
    return experiment, parent


def name_parent(run: Run, parent: Run) -> None:
    """Keep in a fork's manifest where its parent lies, and what its snapshots hold (if that was not kept before)."""
    told = run.folder.manifest.get("parent") or {"snapshots": _digests(run, parent)}
    run.folder.note(parent={**told, "path": str(parent.path.resolve())})


def _digests(run: Run, parent: Run) -> dict[str, dict[str, str]]:
    return {
        name: {
            str(step): frozen.digest(load_snapshot(parent, populations.make(name, parent.experiment), step))
            for step in steps
        }
        for name, steps in _snapshots_needed(run.experiment).items()
    }


def check(parent: Run, experiment: config.Experiment) -> None:
    """Whether `experiment` can be a fork of `parent`.

    Raises:
      ValueError: it differs in what was lived before, or needs what the parent did not keep.
    """
    fork, past = experiment.fork, parent.experiment
    assert fork is not None
    if past.training.feed == "stream":
        raise ValueError(
            f'{parent.path} has training.feed = "stream": its recorded learners were not kept. Fork a run that has '
            '"store".'
        )
    if past.fork is not None and fork.step < past.fork.step:
        raise ValueError(
            f"--at {fork.step}: {parent.path} is a fork itself, from step {past.fork.step} on. Fork the run that it "
            f"was forked from: {parent.folder.manifest['parent']['path']}"
        )
    _check_same_past(parent, experiment)
    _check_kept(parent, experiment)
    since = _rates_since(past, experiment, fork.step)
    if fork.rates_since != since:
        raise ValueError(
            f"fork.rates_since = {fork.rates_since}, but the learners' rates are those of this configuration since "
            f"step {since}. Use what `cl-imitate fork` wrote."
        )


def _check_same_past(parent: Run, experiment: config.Experiment) -> None:
    was, now = _lived_with(parent.experiment), _lived_with(experiment)
    if all("held_out_train_tasks" in recorded_steps(one) for one in (parent.experiment, experiment)):
        for one, told in (
            (parent.experiment, was),
            (experiment, now),
        ):  # those learners' tasks are the first so many
            told["the number of training tasks (by training.num_validation)"] = populations.num_train_tasks(
                one.simulation, one.training
            )
    changed = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if not changed:
        return
    told = "; ".join(f"{key} = {now.get(key)!r} (there {was.get(key)!r})" for key in changed)
    assert experiment.fork is not None
    raise ValueError(
        f"a fork cannot change {told}: the learners of {parent.path} lived otherwise before step "
        f"{experiment.fork.step}, and are read as they were. What it can change: learner.{', learner.'.join(RATES)}; "
        "imitator, training, evaluation, gate, rules, name. For anything else start a run of its own."
    )


def _lived_with(experiment: config.Experiment) -> dict[str, Any]:
    """By dotted key, all that a learner's life depends on but for its rates."""
    learner, simulation = dataclasses.asdict(experiment.learner), dataclasses.asdict(experiment.simulation)
    fixed = {
        "environment": dataclasses.asdict(experiment.environment),
        "shapes": dataclasses.asdict(experiment.shapes),
        "learner": {name: value for name, value in learner.items() if name not in RATES},
        "simulation": {name: value for name, value in simulation.items() if name not in _FREE_OF_SIMULATION},
    }
    flat = {f"{table}.{name}": value for table, fields in fixed.items() for name, value in fields.items()}
    return {"seed": experiment.seed, **flat}


def _snapshots_needed(experiment: config.Experiment) -> dict[str, set[int]]:
    """By population, the steps at which the parent's snapshots are read."""
    fork = experiment.fork
    assert fork is not None
    return {
        name: {step for step in protocols.snapshot_steps(experiment, name) if step <= fork.step}
        | ({fork.step} if num_steps > fork.step else set())
        for name, num_steps in recorded_steps(experiment).items()
    }


def _check_kept(parent: Run, experiment: config.Experiment) -> None:
    assert experiment.fork is not None
    lived, at = recorded_steps(parent.experiment), experiment.fork.step
    for name, num_steps in recorded_steps(experiment).items():
        if min(at, num_steps) > lived.get(name, 0):
            raise ValueError(
                f"{parent.path} recorded {lived.get(name, 0)} steps of its {name} learners; a fork at step {at} with "
                f"this evaluation reads {min(at, num_steps)} of them. Leave out what needs them (months need "
                "held_out_train_tasks), or fork earlier."
            )
    kept = {name: set(protocols.snapshot_steps(parent.experiment, name)) for name in lived}
    needed = _snapshots_needed(experiment)
    there = ", ".join(
        map(str, sorted(set.intersection(*(kept[name] for name, steps in needed.items() if steps))))
    )
    for name, steps in needed.items():
        if missing := sorted(steps - kept[name]):
            raise ValueError(
                f"{parent.path} kept no snapshot of its {name} learners at step {missing[0]}, "
                + ("where the fork begins" if missing[0] == at else "where the evaluation starts an arm")
                + f". It has some at {', '.join(map(str, sorted(kept[name]))) or 'no step'}; at which all that are "
                f"needed were kept: {there or 'none'}."
            )


def _rates_since(past: config.Experiment, experiment: config.Experiment, at: int) -> int:
    """Since which age the rates of `experiment` are the learners', if they change at `at` from those of `past`."""
    if any(getattr(past.learner, rate) != getattr(experiment.learner, rate) for rate in RATES):
        return at
    return past.fork.rates_since if past.fork is not None else 0
