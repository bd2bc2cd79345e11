"""CartPole, solved or not: learners' greedy policies ten times in their lives, 100 episodes each.

    python scripts/solve_cart_pole.py             # configs/cart_pole.toml: ten learners, 163,840 steps
    python scripts/solve_cart_pole.py --seed 1    # ten others

A learner has solved it once a greedy mean is at least 475 of 500 steps (Gym's CartPole-v1); whether it does so at the
end too is told beside it. One JSON line a learner, and one for all.
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
EVALUATIONS = 10  # at every tenth of a life


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="override the config")
    arguments = parser.parse_args()
    experiment = load_config.load(CONFIG, (*arguments.set, f"seed={arguments.seed}"))
    population = populations.make("recorded", experiment)
    steps, means = live(population, experiment)
    facts = {"bench": "cart_pole", "seed": experiment.seed, "steps": experiment.recorded_steps}
    for number, row in enumerate(means):
        over = np.flatnonzero(row >= SOLVED)
        told = {"solved_at": steps[over[0]] if over.size else None, "greedy_means": np.round(row, 1).tolist()}
        print(json.dumps({**facts, "learner": number, **told}))
    solved, at_end = (means >= SOLVED).any(axis=1), means[:, -1] >= SOLVED
    counts = {"learners": len(means), "solved": int(solved.sum()), "solved_at_end": int(at_end.sum())}
    print(json.dumps({**facts, **counts, "device": jax.local_devices()[0].device_kind}))


def live(population: Population, experiment: config.Experiment) -> tuple[list[int], np.ndarray]:
    """The steps, at each tenth of the lives, and every learner's greedy mean there, [N, 10]."""
    ensemble, chunk = population.newborn(), experiment.simulation.chunk_steps
    num_chunks = experiment.recorded_steps // chunk
    steps = sorted({-(-part * num_chunks // EVALUATIONS) * chunk for part in range(1, EVALUATIONS + 1)})
    means = []
    with progress.bar("learn", experiment.recorded_steps * population.num_learners, "steps") as tick:
        for kept, history in _advance(
            population,
            ensemble,
            experiment,
            num_chunks * chunk,
            population.rates,
            hold=False,
            keep_steps=steps,
        ):
            tick(history.action.size)
            if kept is not None:
                means.append(greedy_means(population, jax.tree.map(jnp.copy, kept), experiment))
    return steps, np.stack(means, axis=1)


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
    for _, history in _advance(population, ensemble, experiment, num_steps, rates, hold=True):
        done.append(np.asarray(history.terminated | history.truncated))
    ends = [np.flatnonzero(row) for row in np.concatenate(done, axis=1)]
    return np.array([np.diff(some)[:EPISODES].mean() for some in ends])


def _advance(population, ensemble, experiment, num_steps, rates, *, hold, keep_steps=()):
    return simulate.advance(
        ensemble,
        population.streams,
        population.env_params,
        rates,
        **population.static,
        num_steps=num_steps,
        chunk_steps=experiment.simulation.chunk_steps,
        hold=hold,
        keep_steps=keep_steps,
    )


if __name__ == "__main__":
    cli.set_up_jax()
    main()
