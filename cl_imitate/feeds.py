"""Where training's histories come from: the store, or straight from the simulator with no disk between.

Streamed, the recorded learners are made some at a time: so many live from birth to the last fork, the imitators train
on their histories for an even share of the updates, and the histories make room for the next. So no learner is seen in
two epochs, and memory holds one epoch however many learners there are. They are those that the store would hold, one
for one; with all of them in one epoch, training's numbers are the same, bit for bit. With two devices or more, one half
of them can simulate the next epoch while the other trains on this one. A process that goes on makes its epoch's
learners again, and a notice to stop is heeded when the learners under way have lived. The processes of a job each
simulate some of an epoch's learners, and hand them to the others.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from cl_imitate import config, populations, processes, sharding, simulate, train, visibility
from cl_imitate.evaluation import returns
from cl_imitate.histories import contexts
from cl_imitate.populations import Population
from cl_imitate.types import History, empty_history

Tick = Callable[[int], None]


class Stored:
    """Histories that the simulate stage left.

    Attributes:
      held_out: [n, T] of learners that are not trained on.
      best: by fork, the best recorded learner's mean return over the last tenth of its history.
      train_devices: where training belongs; None: on all local devices.
      steps_lived: env steps that are simulated for one feed.
      spent: learners' updates by what they were made for (made again, they count once); td_updates: all of them.
    """

    def __init__(self, experiment: config.Experiment, recorded: History, held_out: History):
        """`recorded`, `held_out`: [N, T] on the host. The last `training.num_validation` recorded are held out too."""
        self._training = experiment.training
        self.train_devices: sharding.Devices | None = None
        self.steps_lived = self.td_updates = 0
        self.spent: dict[str, int] = {}
        self.best = best_levels(experiment, recorded)
        recorded, self.held_out = (
            visibility.show(contexts.thin(history, **contexts.thinning(experiment)), name, experiment)
            for name, history in (("recorded", recorded), ("held_out", held_out))
        )
        if num := self._training.num_validation:
            self.held_out = jax.tree.map(lambda x: x[-num:], recorded)
            recorded = jax.tree.map(lambda x: x[:-num], recorded)
        self._recorded = recorded

    def feed(self, tick: Tick, name: str = "") -> train.Feed:
        """What `train.fit` reads from. `tick` is told of env steps as they are lived: there are none."""
        del tick, name
        return lambda update: (self._recorded, self._training.num_updates)


class Streamed:
    """Histories made while training; attributes as those of `Stored`."""

    def __init__(self, experiment: config.Experiment, held_out: History | None, *, chunk_steps: int):
        """`held_out`: [n, T] on the host; None: `training.num_validation` of the recorded learners are."""
        self._experiment, self._chunk_steps = experiment, chunk_steps
        self._population = populations.make("recorded", experiment)
        num_validation = experiment.training.num_validation
        self._num_trained = self._population.num_learners - num_validation
        self.steps_lived = self._num_trained * experiment.recorded_steps
        self.spent: dict[str, int] = {}
        self._devices: sharding.Devices | None = None
        self.train_devices: sharding.Devices | None = None
        if experiment.training.stream_devices == "split":
            self._devices, self.train_devices = sharding.halves()
        self.best: dict[int, float] = {}
        if held_out is None:
            last = np.arange(self._num_trained, self._population.num_learners)
            self.held_out = self._live(self._population.members(last), lambda _: None, "held out")
        else:
            held_out = contexts.thin(held_out, **contexts.thinning(experiment))
            self.held_out = visibility.show(held_out, "held_out", experiment)

    @property
    def td_updates(self) -> int:
        return sum(self.spent.values())

    def feed(self, tick: Tick, name: str = "") -> train.Feed:
        """What `train.fit` reads from. `tick` is told of env steps as they are lived; `name` is what they are for."""
        training = self._experiment.training
        at_once = training.stream_learners
        num_epochs = self._num_trained // at_once

        def live(epoch: int) -> History:
            members = np.arange(epoch * at_once, (epoch + 1) * at_once)
            return self._live(self._population.members(members), tick, f"{name} {epoch}")

        started: dict[int, Future[History]] = {}
        beside = ThreadPoolExecutor(1, "simulate") if self._devices is not None else None

        def of(update: int) -> tuple[History, int]:
            epoch = update * num_epochs // training.num_updates
            until = -(-(epoch + 1) * training.num_updates // num_epochs)
            if beside is None:
                return live(epoch), until
            if epoch not in started:
                started[epoch] = beside.submit(live, epoch)
            history = started.pop(epoch).result()
            if epoch + 1 < num_epochs:
                started[epoch + 1] = beside.submit(live, epoch + 1)
            else:
                beside.shutdown(wait=False)
            return history, until

        return of

    def _live(self, some: Population, tick: Tick, name: str) -> History:
        """Whole histories of newly born learners, thinned as training wants them."""
        spec, own = some.family.env.spec, some.own_share()
        mine = some if processes.count() == 1 else some.members(np.array(own, int))
        parts = [] if own else [empty_history(spec, (0, self._experiment.recorded_steps))]
        updates = 0
        for kept, history in (
            ()
            if not own
            else simulate.advance(
                mine.newborn(),
                mine.streams,
                mine.env_params,
                mine.rates,
                **mine.static,
                num_steps=self._experiment.recorded_steps,
                chunk_steps=self._chunk_steps,
                devices=self._devices,
            )
        ):
            parts.append(jax.tree.map(np.asarray, history))
            tick(history.action.size)
            if kept is not None:
                updates = int(kept.clock.update) * mine.num_learners
        self.spent[name] = sum(processes.exchange(f"{name} has lived", updates))
        whole = jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *parts)
        whole = processes.gather_rows(whole)
        for fork, level in best_levels(self._experiment, whole).items():
            self.best[fork] = float(np.fmax(level, self.best.get(fork, level)))
        causes = visibility.causes_of(some, self._experiment.imitator)
        return contexts.thin(whole, **contexts.thinning(self._experiment)).replace(causes=causes)


def best_levels(experiment: config.Experiment, recorded: History) -> dict[int, float]:
    """At each fork, the best learner's mean return over the last tenth of its history [N, T]."""
    done = recorded.terminated | recorded.truncated
    return {
        fork: returns.best_level(
            recorded.reward, done, end_step=fork, num_steps=max(fork // 10, experiment.evaluation.now_steps)
        )
        for fork in experiment.evaluation.fork_steps
    }
