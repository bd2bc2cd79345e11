"""CartPole, solved or not: learners at the end of their lives, 100 greedy episodes each.

    python scripts/solve_cart_pole.py             # configs/cart_pole.toml: ten learners, 163,840 steps
    python scripts/solve_cart_pole.py --seed 1    # ten others

Solved is a mean of at least 475 of 500 steps (Gym's CartPole-v1). One JSON line a learner, and one for all.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cl_imitate import cli, config, load_config, populations, progress, simulate
from cl_imitate.populations import Population

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "cart_pole.toml"
SOLVED = 475.0
EPISODES = 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="override the config")
    arguments = parser.parse_args()
    experiment = load_config.load(CONFIG, (*arguments.set, f"seed={arguments.seed}"))
    population = populations.make("recorded", experiment)
    means = greedy_means(population, live(population, experiment), experiment)
    facts = {"bench": "cart_pole", "seed": experiment.seed, "steps": experiment.recorded_steps}
    for number, mean in enumerate(means):
        print(json.dumps({**facts, "learner": number, "greedy_mean": round(float(mean), 1)}))
    solved = int((means >= SOLVED).sum())
    device = jax.local_devices()[0].device_kind
    print(json.dumps({**facts, "learners": len(means), "solved": solved, "device": device}))


def live(population: Population, experiment: config.Experiment) -> simulate.Ensemble:
    """The learners after `recorded_steps`."""
    ensemble, num_steps = population.newborn(), experiment.recorded_steps
    with progress.bar("learn", num_steps * population.num_learners, "steps") as tick:
        for now, history in _advance(
            population, ensemble, experiment, num_steps, population.rates, hold=False
        ):
            ensemble = ensemble if now is None else now
            tick(history.action.size)
    return ensemble


def greedy_means(
    population: Population, ensemble: simulate.Ensemble, experiment: config.Experiment
) -> np.ndarray:
    """Each held learner's mean length of the first 100 greedy episodes that it begins; the ensemble is consumed."""
    never = jnp.zeros_like(population.rates.epsilon_start)
    rates = population.rates.replace(epsilon_start=never, epsilon_end=never)
    chunk = experiment.simulation.chunk_steps
    longest = getattr(experiment.environment, "max_episode_steps", 0) * (EPISODES + 1)  # one is under way
    num_steps = -(-longest // chunk) * chunk
    done = []
    with progress.bar("greedy", num_steps * population.num_learners, "steps") as tick:
        for _, history in _advance(population, ensemble, experiment, num_steps, rates, hold=True):
            done.append(np.asarray(history.terminated | history.truncated))
            tick(history.action.size)
    ends = [np.flatnonzero(row) for row in np.concatenate(done, axis=1)]
    return np.array([np.diff(some)[:EPISODES].mean() for some in ends])


def _advance(population, ensemble, experiment, num_steps, rates, *, hold):
    return simulate.advance(
        ensemble,
        population.streams,
        population.env_params,
        rates,
        **population.static,
        num_steps=num_steps,
        chunk_steps=experiment.simulation.chunk_steps,
        hold=hold,
    )


if __name__ == "__main__":
    cli.set_up_jax()
    main()
