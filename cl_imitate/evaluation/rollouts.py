"""The arms side by side: every protocol runs through `run_protocol`.

In one cell all arms live in the same tasks, begin a new episode with the same reset keys, and draw the
environment's randomness from the same keys.
"""

import jax.numpy as jnp
import numpy as np

from cl_imitate.evaluation import divergence, metrics, summary
from cl_imitate.evaluation.closed_loop import Frozen
from cl_imitate.evaluation.imitator_arms import ImitatorArms, imitator_arms
from cl_imitate.evaluation.learner_arms import LearnerArms
from cl_imitate.evaluation.results import Cell
from cl_imitate.evaluation.scene import Count, Scene, Tick, epsilon_of, prompt_for
from cl_imitate.imitators.perfect_window import make_perfect_window
from cl_imitate.keeper import Keeper
from cl_imitate.populations import Population
from cl_imitate.types import History


def levels(
    population: Population, epsilon: float, age: int, random_level: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Random, optimal and ceiling returns of each task, [n]; NaN where not known.

    By dynamic programming where the task is tabular; else as published, and random as measured if it was.
    """
    family, num = population.family, population.num_learners
    if family.exact_return is not None:
        random, optimal, ceiling = (
            family.exact_return(population.env_params, level, age=age) for level in (1.0, 0.0, epsilon)
        )
    else:
        random = np.full(num, family.random_return) if random_level is None else random_level
        level = np.nan if family.published_return is None else family.published_return
        optimal, ceiling = np.full(num, np.nan), np.full(num, level)
    return {"random_return": random, "optimal_return": optimal, "ceiling_return": ceiling}


def cell(
    scene: Scene,
    context_steps: int,
    name: str,
    returns: dict,
    random_level: np.ndarray | None,
    scalars: dict | None = None,
) -> Cell:
    """What the arms of a scene returned, beside what is known of its tasks."""
    protocol, population = scene.protocol, scene.population
    span = protocol.horizon_steps if "learner" in returns else 0
    epsilon = epsilon_of(population, protocol.learner_step + span)  # there the reference is measured
    known = levels(population, epsilon, protocol.learner_step, random_level)
    num_blocks = next(iter(returns.values())).shape[-1]
    random = np.repeat(known["random_return"][None, :, None], num_blocks, axis=2).astype(np.float32)
    rung = protocol.rung
    return Cell(
        protocol=name,  # pyright: ignore[reportArgumentType]
        name=f"{protocol.label} {name} context {context_steps}",
        context_steps=context_steps,
        fork_step=protocol.fork_step,
        start_step=protocol.prompt_step,
        target_step=protocol.age_step,
        rung=rung.rung if rung else None,
        rung_name=rung.name if rung else None,
        split=protocol.split,
        block_steps=scene.block_steps,
        epsilon=epsilon,
        epsilon_at_start=epsilon_of(population, protocol.learner_step),
        ceiling_is_exact=population.family.exact_return is not None,
        task=population.task,
        **known,
        returns={**returns, "random": random},
        scalars=scalars or {},
    )


def run_protocol(
    scene: Scene,
    learners: LearnerArms,
    frozen: Frozen,
    *,
    source_step: int,
    count: Count,
    tick: Tick,
    keeper: Keeper | None = None,
    argmax: bool = True,
) -> list[Cell]:
    """The cells of one protocol for the imitators of one context length.

    `source_step` is where the prompt from the source task ends (ELSEWHERE with transplant). `argmax` adds the
    imitators that act so.
    """
    protocol = scene.protocol
    ways = ("imitator", *("imitator_argmax",) * argmax)
    ways += ("imitator_wiped",) * protocol.wiped + ("imitator_masked",) * protocol.masked
    spent = {"count": count, "tick": tick, "keeper": keeper}
    arms = imitator_arms(
        scene,
        frozen,
        ways=ways,
        prompt_step=protocol.prompt_step if protocol.name != "elsewhere" else 0,
        num_steps=protocol.horizon_steps,
        judged=protocol.name == "now_and_later",
        **spent,
    )
    returns = {**learners.returns, **arms.returns, **_window_line(scene, frozen, **spent)}
    if protocol.transplant:
        prompted = imitator_arms(
            scene,
            frozen,
            ways=("imitator",),
            prompt_step=source_step,
            num_steps=protocol.horizon_steps,
            **spent,
        )
        returns["imitator_prompted"] = prompted.returns["imitator"]
    occupancy = _occupancy(arms, learners) if protocol.goes_on else {}
    if protocol.name != "now_and_later":
        return [cell(scene, frozen.context_steps, protocol.name, returns, learners.random_level, occupancy)]
    num_now = protocol.now_steps // scene.block_steps
    now = {arm: values[..., :num_now] for arm, values in returns.items() if arm != "learner"}
    # One who is shown the coin predicts what is left of an action; no policy of the learner's is the same.
    scalars = {} if frozen.imitator.sees_coin else _divergences(scene, learners, arms, frozen, num_now)
    best = {"best_history_return": np.array(scene.best_history)}
    return [
        cell(scene, frozen.context_steps, "now", now, learners.random_level, scalars),
        cell(scene, frozen.context_steps, "later", returns, learners.random_level, {**best, **occupancy}),
    ]


def _window_line(
    scene: Scene, frozen: Frozen, *, count: Count, tick: Tick, keeper: Keeper | None
) -> dict[str, np.ndarray]:
    """The arm "window", where it is known: the best return with a memory as long as the imitator's.

    It meets the same environments' coins. It is no frozen imitator: what it does is not counted or hashed as one's.
    """
    protocol, population, imitator = scene.protocol, scene.population, frozen.imitator
    epsilon = epsilon_of(population, protocol.learner_step)
    is_constant = epsilon == epsilon_of(population, protocol.learner_step + protocol.horizon_steps)
    if not population.family.knows_window_line or not is_constant or protocol.age_step is not None:
        return {}
    window = make_perfect_window(
        population.family.env.spec,
        context_steps=frozen.context_steps,
        epsilon=round(epsilon, 6),
        block_steps=imitator.block_steps,
    )
    arms = imitator_arms(
        scene,
        Frozen(imitator=window, context_steps=frozen.context_steps, params={}, num_seeds=1),
        ways=("window",),
        prompt_step=protocol.prompt_step if protocol.name != "elsewhere" else 0,
        num_steps=protocol.horizon_steps,
        count=Count(),
        tick=tick,
        keeper=keeper,
    )
    return arms.returns


def _divergences(
    scene: Scene, learners: LearnerArms, arms: ImitatorArms, frozen: Frozen, num_now: int
) -> dict[str, np.ndarray]:
    """From the held learner's policy: on its own stream, and on the imitator's over its first `num_now` blocks."""
    return {
        **_divergence(scene, learners.held_history, frozen),
        "closed_loop_cross_entropy": arms.cross_entropy["imitator"][..., :num_now].mean(axis=-1),
        "held_entropy": np.full((1, scene.population.num_learners), _policy_entropy(scene)),
    }


def _occupancy(arms: ImitatorArms, learners: LearnerArms) -> dict[str, np.ndarray]:
    """How differently from the learner that goes on each way of acting spent its time, [S, n]."""
    return {
        f"{way}_occupancy_distance": summary.occupancy_distance(visits, learners.visits[None])
        for way, visits in arms.visits.items()
    }


def _policy_entropy(scene: Scene) -> float:
    """Nats: of the held learners' policies, the least that a cross-entropy to them can be."""
    num_actions = scene.population.family.env.spec.num_actions
    return metrics.policy_entropy(epsilon_of(scene.population, scene.protocol.learner_step), num_actions)


def _divergence(scene: Scene, held: History, frozen: Frozen) -> dict[str, np.ndarray]:
    population, step = scene.population, scene.protocol.prompt_step
    return divergence.teacher_forced(
        frozen.imitator,
        frozen.params,
        prompt_for(frozen, scene, step),
        held,
        scene.snapshot.learner,
        population.rates,
        jnp.int32(max(0, step - population.learner.learning_starts_steps)),
        dqn=population.dqn,
    )
