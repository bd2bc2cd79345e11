"""Cells whose answers are known: every arm is a given curve, plus noise of a given size."""

import dataclasses
from typing import Any

import numpy as np

from cl_imitate.config import Evaluation, Experiment, Gate, Lock, Month, Rules, Rung
from cl_imitate.evaluation.results import Cell

BLOCK_STEPS = 32
RANDOM, CEILING, OPTIMAL = 1.0, 10.0, 11.0
HASH = "0" * 64


def rising(start: float, end: float, *, half_blocks: float = 3.0, blocks: int = 20) -> np.ndarray:
    """A curve that makes half of its way in `half_blocks`."""
    return end + (start - end) * 0.5 ** ((np.arange(blocks) + 0.5) / half_blocks)


def cell(
    protocol: Any,
    levels: dict[str, Any],  # arm -> level, or curve [K]
    *,
    seed: int = 0,
    seeds: int = 3,
    learners: int = 24,
    per_task: int = 1,
    blocks: int = 20,
    noise: float = 0.2,
    seed_noise: float = 0.0,
    lasting_noise: float = 0.0,
    **labels: Any,
) -> Cell:
    """One cell. Learners differ by `noise`, the same in all arms; and each arm has its own noise besides, anew in
    each block. Imitator seeds differ by `seed_noise`; each learner's arms by `lasting_noise`, the same in all blocks
    and seeds.
    """
    rng = np.random.default_rng(seed)
    shared = noise * rng.standard_normal((1, learners, 1))
    returns = {}
    for arm, level in levels.items():
        curve = np.broadcast_to(level, np.shape(level) or (blocks,))
        arm_seeds = seeds if arm.startswith("imitator") else 1
        own = noise * rng.standard_normal((arm_seeds, learners, len(curve)))
        lasting = lasting_noise * rng.standard_normal((1, learners, 1))
        by_seed = seed_noise * rng.standard_normal((arm_seeds, 1, 1)) if arm_seeds > 1 else 0.0
        returns[arm] = curve + shared + own + lasting + by_seed
    fields: dict[str, Any] = {
        "name": f"{protocol} {' '.join(str(value) for value in labels.values())}",
        "context_steps": 128,
        "fork_step": 640,
        "start_step": 640,
        "target_step": None,
        "rung": None,
        "rung_name": None,
        "split": "held_out",
        "block_steps": BLOCK_STEPS,
        "epsilon": 0.1,
        "epsilon_at_start": 0.1,
        "ceiling_is_exact": True,
        "task": np.arange(learners) // per_task,
        "random_return": np.full(learners, RANDOM),
        "optimal_return": np.full(learners, OPTIMAL),
        "ceiling_return": np.full(learners, CEILING),
    }
    return Cell(protocol=protocol, returns=returns, **{**fields, **labels})


def without(one: Cell, *arms: str) -> Cell:
    return dataclasses.replace(one, returns={arm: v for arm, v in one.returns.items() if arm not in arms})


def now(imitator: float = 10.0, held: float = 10.0, **labels: Any) -> Cell:
    levels = {"learner_held": held, "imitator": imitator, "imitator_argmax": imitator, "random": RANDOM}
    return cell("now", levels, **{"blocks": 4, **labels})


def month(imitator: float = 10.0, held: float = 10.0, **labels: Any) -> Cell:
    levels = {"learner_held": held, "imitator": imitator, "imitator_argmax": imitator}
    return cell("month", levels, **{"blocks": 4, "start_step": 160, "target_step": 480, **labels})


def process(
    imitator_end: float = 10.0, learner_end: float = 10.0, start: float = RANDOM, **labels: Any
) -> Cell:
    blocks = labels.get("blocks", 20)
    curve = rising(start, imitator_end, half_blocks=labels.pop("imitator_half", 3.0), blocks=blocks)
    levels = {
        "learner": rising(start, learner_end, blocks=blocks),
        "imitator": curve,
        "imitator_argmax": curve - 0.5,
        "imitator_wiped": np.full(4, RANDOM),
        "imitator_masked": np.full(4, RANDOM + 0.5),
        "window": rising(start, CEILING, half_blocks=1.0, blocks=blocks),
        "learner_held": start,
    }
    return cell("process", levels, **{"start_step": 0, **labels})


def later(imitator_end: float, learner_end: float = 10.0, start: float = 5.0, **labels: Any) -> Cell:
    blocks = labels.get("blocks", 40)
    levels = {
        "learner": rising(start, learner_end, blocks=blocks),
        "imitator": np.r_[np.full(4, start), rising(start, imitator_end, blocks=blocks - 4)],
        "imitator_argmax": start,
        "learner_held": start,
        "imitator_wiped": np.full(4, RANDOM),
    }
    return cell("later", levels, **{"blocks": blocks, "fork_step": 320, "start_step": 320, **labels})


def elsewhere(rung: str, imitator_end: float, learner_end: float = 10.0, **labels: Any) -> Cell:
    levels = {
        "learner": rising(RANDOM, learner_end),
        "imitator": rising(RANDOM, imitator_end),
        "imitator_argmax": RANDOM,
        "learner_transplanted": rising(RANDOM + 1, learner_end),
        "imitator_prompted": rising(RANDOM, imitator_end),
        "random": RANDOM,
    }
    named = {"rung": rung, "rung_name": f"rung {rung}", "start_step": 0}
    return cell("elsewhere", levels, **{**named, **labels})


def experiment(**changes: Any) -> Experiment:
    evaluation = Evaluation(
        fork_steps=(320, 640),
        later_fork_step=320,
        stage_steps=(0, 160, 320),
        months=(Month(start_step=160, later_steps=320),),
        rungs=(Rung(rung="2", name="symbols permuted"),),
        block_steps=BLOCK_STEPS,
    )
    fields: dict[str, Any] = {
        "name": "synthetic",
        "environment": Lock(),
        "evaluation": evaluation,
        "rules": Rules(bootstrap_samples=200),
    }
    return Experiment(**{**fields, **changes})


def cells(context_steps: int = 128, *, process_end: float = 10.0) -> list[Cell]:
    """A run as the essay predicts it, but for PROCESS, which says yes (the gate needs it)."""
    names = {"2": "symbols permuted", "3": "ring of 16", "4": "Dark Room"}
    made = [
        now(10.0, 10.0, seed=1),
        now(4.9, 5.0, seed=2, fork_step=320, start_step=320),
        month(9.9, 10.0, split="train", seed=3),
        month(7.0, 10.0, split="held_out", seed=4),
        process(process_end, seed=5),
        process(9.8, start=5.0, start_step=160, blocks=15, seed=6),
        process(9.8, start=8.0, start_step=320, blocks=10, seed=7),
        later(5.2, seed=8),
        later(10.0, start=9.9, fork_step=640, start_step=640, seed=9),
        elsewhere("0", 10.0, seed=10, rung_name="unseen learner seed"),
        elsewhere("1", 9.7, seed=11, rung_name="unseen task"),
        *(elsewhere(rung, RANDOM, seed=12, rung_name=name) for rung, name in names.items()),
        elsewhere("3", 4.0, learner_end=5.0, seed=13, rung_name="delayed reward"),
    ]
    named = [dataclasses.replace(one, context_steps=context_steps) for one in made]
    return [dataclasses.replace(one, name=f"{one.name} context {context_steps}") for one in named]


def decide(given: list[Cell], of: Experiment | None = None, **changes: Any) -> dict:
    from cl_imitate.evaluation import verdict

    fields: dict[str, Any] = {
        "fingerprint": "f" * 64,
        "frozen": {"sha256_before": [HASH], "sha256_after": [HASH]},
        "seconds": {"simulate": 10.0, "train": 60.0, "evaluate": 20.0},
        "td_steps": 10_000,
        "imitator_steps": 200,
    }
    return verdict.decide(of or experiment(), given, **{**fields, **changes})


def passed_gate() -> Cell:
    """A gate of its own that is passed."""
    arms = {"learner": rising(1, 10), "imitator": rising(1, 10), "imitator_wiped": 1.0}
    return cell("gate", arms, start_step=0)


def with_own_gate() -> Experiment:
    return experiment(gate=Gate(experiment="gate.toml"))


def decide_past_the_gate(*given: Cell, **changes: Any) -> dict:
    """The verdict of a run that is not void, whatever its cells: its gate is one of its own, and passed."""
    return decide(list(given), with_own_gate(), gate_cells=[passed_gate()], **changes)
