"""The arms in which a learner acts: it goes on, is held, or is carried into another task."""

import dataclasses
from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import simulate
from cl_imitate.evaluation import summary
from cl_imitate.evaluation.returns import BlockReturns
from cl_imitate.evaluation.scene import Count, Scene, Tick, again, part_name
from cl_imitate.keeper import Keeper
from cl_imitate.learners import dqn as dqn_lib
from cl_imitate.types import History, empty_history


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LearnerArm:
    """What a learner did."""

    returns: np.ndarray  # mean returns [1, n, K] over the cell's whole horizon, NaN past the arm's own steps
    visits: np.ndarray  # int [n, V]
    history: History | None  # [n, its steps], if it was to be kept


def learner_arm(
    scene: Scene,
    name: str,
    *,
    num_steps: int,
    count: Count,
    tick: Tick,
    keeper: Keeper | None = None,
    hold: bool = False,
    epsilon: float | None = None,
    snapshot: simulate.Ensemble | None = None,
    keeps_history: bool = False,
) -> LearnerArm:
    """One of the learner's arms: weights changing, or held with `hold`, at its own epsilon or a given one.

    `name` is what the keeper calls it. A history can be millions of steps: think before keeping it.
    """
    population, part = scene.population, part_name(scene.protocol.label, name)
    if keeper is not None and (done := keeper.finished(part)):
        arrays, facts = done
        count.td_updates += facts["td_updates"]
        tick(population.num_learners * num_steps)
        fields: dict[str, Any] = {
            key.removeprefix("history."): value for key, value in arrays.items() if "history." in key
        }
        history = History(**fields) if keeps_history else None
        return LearnerArm(returns=arrays["returns"], visits=arrays["visits"], history=history)
    start = scene.snapshot if snapshot is None else snapshot
    life = _Life.begin(scene, start, num_steps, keeps_history)
    if keeper is not None:
        life.go_on(keeper, part)
    tick(population.num_learners * life.lived)
    since, num_left = count.clock(), (num_steps - life.lived) * population.num_learners
    for kept, history in simulate.advance(
        life.ensemble,
        population.streams.replace(env=scene.env_keys),
        population.env_params,
        _rates(scene, start, hold=hold, epsilon=epsilon),
        **population.static,
        num_steps=num_steps - life.lived,
        chunk_steps=scene.chunk_steps,
        keep_steps=life.wanted(keeper, part),
        hold=hold,
    ):
        life.add(kept, jax.tree.map(np.asarray, history))
        tick(history.action.size)
        if keeper is not None:
            keeper.attempt.stepped()
        if kept is not None and keeper is not None and life.lived < num_steps:
            keeper.save(part, life.lived, life.tree, life.facts)
    if not hold:
        count.time("learner", since, num_left)
    td_updates = (int(life.ensemble.clock.update) - int(start.clock.update)) * population.num_learners
    count.td_updates += td_updates
    arm = life.arm(scene.protocol.horizon_steps // scene.block_steps)
    if keeper is not None:
        fields = {} if arm.history is None else vars(arm.history)
        arrays = {f"history.{key}": np.asarray(value) for key, value in fields.items() if value is not None}
        keeper.finish(
            part, {"returns": arm.returns, "visits": arm.visits, **arrays}, {"td_updates": td_updates}
        )
    return arm


def _rates(
    scene: Scene, start: simulate.Ensemble, *, hold: bool, epsilon: float | None
) -> dqn_lib.DQNHyperparams:
    rates = scene.population.rates
    if hold:
        learning_step = jnp.maximum(start.clock.step - scene.population.learner.learning_starts_steps, 0)
        rates = dqn_lib.hold_epsilon(rates, learning_step)
    if epsilon is not None:
        constant = jnp.full_like(rates.epsilon_start, epsilon)
        rates = rates.replace(epsilon_start=constant, epsilon_end=constant)
    return rates


@dataclasses.dataclass(kw_only=True, eq=False)
class _Life:
    """A learner's arm under way."""

    scene: Scene
    ensemble: simulate.Ensemble
    blocks: BlockReturns
    visits: np.ndarray
    histories: list[History] | None
    first_step: int
    lived: int = 0

    @classmethod
    def begin(cls, scene: Scene, start: simulate.Ensemble, num_steps: int, keeps_history: bool) -> "_Life":
        population, spec = scene.population, scene.population.family.env.spec
        ensemble = simulate.begin_episode(
            _copy(start),
            again(scene.reset_keys),
            population.env_params,
            env=population.family.env,
            dqn=population.dqn,
        )
        return cls(
            scene=scene,
            ensemble=ensemble,
            blocks=BlockReturns((population.num_learners,), num_steps, scene.block_steps),
            visits=np.zeros((population.num_learners, summary.num_places(spec)), np.int64),
            histories=[] if keeps_history else None,
            first_step=int(ensemble.clock.step),
        )

    def wanted(self, keeper: Keeper | None, part: str) -> Container[int]:
        """Ages at which the ensemble is wanted whole: when the keeper wants it."""
        return () if keeper is None else keeper.steps(part, from_step=self.first_step)

    def add(self, kept: simulate.Ensemble | None, history: History) -> None:
        self.ensemble = self.ensemble if kept is None else kept
        self.lived += history.action.shape[1]
        self.blocks.add(np.asarray(history.reward), np.asarray(history.terminated | history.truncated))
        self.visits += summary.visits_of(
            self.scene.population.family.env.spec,
            history.obs,
            history.action,  # pyright: ignore
        )
        if self.histories is not None:
            self.histories.append(history)

    @property
    def history(self) -> History | None:
        return (
            jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *self.histories) if self.histories else None
        )

    @property
    def tree(self) -> dict[str, Any]:
        return {
            "ensemble": self.ensemble,
            "blocks": self.blocks.state,
            "visits": self.visits,
            "history": self.history if self.histories else {},
        }

    @property
    def facts(self) -> dict[str, Any]:
        return {"lived": self.lived}

    def go_on(self, keeper: Keeper, part: str) -> None:
        """From what the keeper has, if it has something."""

        def like(facts):
            shape = (self.scene.population.num_learners, facts["lived"])
            spec = self.scene.population.family.env.spec
            return {**self.tree, "history": {} if self.histories is None else empty_history(spec, shape)}

        if (saved := keeper.load(part, like)) is None:
            return
        self.ensemble, self.lived = saved.tree["ensemble"], saved.facts["lived"]
        self.blocks.state, self.visits = saved.tree["blocks"], saved.tree["visits"]
        self.histories = None if self.histories is None else [saved.tree["history"]]

    def arm(self, num_blocks: int) -> LearnerArm:
        mean = self.blocks.mean
        returns = np.full((1, len(mean), num_blocks), np.nan, np.float32)
        returns[0, :, : mean.shape[-1]] = mean
        return LearnerArm(returns=returns, visits=self.visits, history=self.history)


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def transplanted(scene: Scene, source_snapshot: simulate.Ensemble) -> simulate.Ensemble:
    """The source learners' weights and optimiser in the cell's tasks; replay starts empty, age goes on."""
    newborn = scene.snapshot
    num = scene.population.num_learners

    def first(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:num], tree)

    carried = source_snapshot.learner
    learner = newborn.learner.replace(
        params=first(carried.params),
        target_params=first(carried.target_params),
        opt_state=first(carried.opt_state),
    )
    old = source_snapshot.clock
    clock = newborn.clock.replace(step=old.step, update=old.update)  # env_step: the new environment's
    return newborn.replace(learner=learner, clock=clock)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LearnerArms:
    """The learner's arms of one scene, which imitators of every context length are compared with."""

    returns: dict[str, np.ndarray]  # arm -> [1, n, K]
    visits: np.ndarray  # int [n, V]: of the learner that goes on
    held_history: History  # [n, now_steps]
    random_level: np.ndarray | None  # [n]: the random policy's return where only running it can tell


def learner_arms(
    scene: Scene,
    source_snapshot: simulate.Ensemble | None,
    *,
    count: Count,
    tick: Tick,
    keeper: Keeper | None = None,
) -> LearnerArms:
    """All arms in which a learner acts."""
    protocol = scene.protocol
    spent = {"count": count, "tick": tick, "keeper": keeper}
    held_steps = protocol.horizon_steps if protocol.held_whole else protocol.now_steps
    held = learner_arm(scene, "learner_held", num_steps=held_steps, hold=True, keeps_history=True, **spent)
    returns, visits = {"learner_held": held.returns}, np.zeros_like(held.visits)
    if protocol.goes_on:
        arm = learner_arm(scene, "learner", num_steps=protocol.horizon_steps, **spent)
        returns["learner"], visits = arm.returns, arm.visits
    if protocol.transplant and source_snapshot is not None:
        snapshot = transplanted(scene, source_snapshot)
        returns["learner_transplanted"] = learner_arm(
            scene, "learner_transplanted", num_steps=protocol.horizon_steps, snapshot=snapshot, **spent
        ).returns
    family, random_level = scene.population.family, None
    if family.exact_return is None and family.random_return is None:
        arm = learner_arm(scene, "random", num_steps=protocol.now_steps, hold=True, epsilon=1.0, **spent)
        random_level = np.nanmean(arm.returns[0], axis=-1)
    assert held.history is not None
    now = jax.tree.map(lambda x: x[:, : protocol.now_steps], held.history)
    return LearnerArms(returns=returns, visits=visits, held_history=now, random_level=random_level)
