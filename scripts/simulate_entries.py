"""What bench_simulate.py times: ours and its peers, each as a compiled chunk that lives on and on.

Imported where the number of cores is already settled, because jax counts them when it starts.
"""

import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import simulate_peers

from cl_imitate import block_size, config, populations, sharding, simulate
from cl_imitate.blocks import Blocks
from cl_imitate.histories import store


@dataclasses.dataclass
class Entry:
    """A compiled chunk that lives on and on."""

    labels: dict[str, Any]
    advance: Callable  # carry -> carry
    carry: Any
    params: Callable
    num_updates: Callable
    num_learners: int
    num_steps: int
    compile_s: float
    peak_bytes: int
    seconds: list[float] = dataclasses.field(default_factory=list)

    def turn(self) -> None:
        start = time.perf_counter()
        self.carry = self.advance(self.carry)
        jax.block_until_ready(self.carry)
        self.seconds.append(time.perf_counter() - start)

    def updates(self) -> int:
        counted = np.asarray(self.num_updates(self.carry))
        return int(counted) * self.num_learners if counted.ndim == 0 else int(counted.sum())


def entries(arguments, name: str, num_learners: int, replay: int) -> list[Entry]:
    num_steps = 64 if name == "breakout" and not has_gpu() else 256
    made = []
    for implementation in arguments.implementations:
        if implementation == "ours":
            for recording in ("off", "memory", "disk") if arguments.recording else ("memory",):
                made += _ours(arguments, name, num_learners, replay, num_steps, recording)
            continue
        for split in {False, num_learners > 1 and num_devices() > 1}:
            try:
                made.append(_peer(implementation, name, num_learners, replay, num_steps, split))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                print(f"{implementation}, {name}, {num_learners} learners: out of memory", file=sys.stderr)
    return made


def num_devices() -> int:
    return len(jax.local_devices())


def has_gpu() -> bool:
    return jax.local_devices()[0].platform != "cpu"


def _compiled(function, *args) -> tuple[Any, float, int]:
    """A program, the seconds its compilation took, and the bytes it needs."""
    start = time.perf_counter()
    program = jax.jit(function, donate_argnums=0).lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return program, seconds, _bytes(memory)


def _bytes(memory) -> int:
    parts = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return int(parts - memory.alias_size_in_bytes)


def _peer(
    implementation: str, name: str, num_learners: int, replay: int, num_steps: int, split: bool
) -> Entry:
    """A peer on one device that may use all cores, or split over a device a core: the faster one is shown."""
    peer = simulate_peers.PEERS[implementation](name, num_learners, replay)

    def chunk(members, shared):
        body = jax.lax.scan(lambda carry, _: (peer.step(*carry), None), (members, shared), None, num_steps)
        return body[0]

    function, carry = chunk, (peer.members, peer.shared)
    if split:
        mesh = sharding.ensemble_mesh(num_learners)
        specs = (sharding.SPLIT, sharding.WHOLE)
        function = sharding.over_ensemble(chunk, mesh, in_specs=specs, out_specs=specs)
        carry = sharding.place(carry, mesh, specs)
    program, compile_s, peak_bytes = _compiled(lambda carry: function(*carry), carry)
    return Entry(
        {"impl": implementation, "split": split, "replay": replay},
        program,
        carry,
        lambda carry: peer.params(carry[0]),
        lambda carry: peer.num_updates(carry[0]),
        num_learners,
        num_steps,
        compile_s,
        peak_bytes,
    )


def _population(arguments, name: str, num_learners: int, replay: int):
    environment = {
        "cart_pole": config.CartPole(),
        "dark_room": config.DarkRoom(),
        "breakout": config.MinAtar(game="breakout"),
    }[name]
    learner = config.Learner(
        learning_rate=simulate_peers.LEARNING_RATE,
        hidden=simulate_peers.HIDDEN[name],
        replay_capacity=replay,
        batch_size=simulate_peers.BATCH,
        target_period_updates=1024,  # the peers' 1000, fitted to the chunk
        products=arguments.products,
    )
    experiment = config.Experiment(
        name="bench",
        environment=environment,
        shapes=config.Shapes(num_symbols=81, num_actions=5, num_states=81),
        learner=learner,
        simulation=config.Simulation(num_recorded=num_learners, block_size=1),
    )
    return populations.make("recorded", experiment)


def _ours(arguments, name, num_learners, replay, num_steps, recording) -> list[Entry]:
    """One entry for every block size worth trying; the fastest one is shown."""
    population = _population(arguments, name, num_learners, replay)
    entries = []
    for size in block_size.candidates(num_learners, num_devices()):
        blocks = Blocks(num_learners, size)
        if len(blocks.devices) * size != num_learners:
            continue
        static = {**population.program, "num_steps": num_steps, "mode": "learn"}
        trees = (population.streams, population.env_params, population.rates)
        rest = list(zip(*(blocks.split(tree, sharding.SPLIT) for tree in trees), strict=True))
        ensembles = blocks.split(_with_full_replay(population.newborn()), simulate.SPECS)

        def chunk(ensemble, *rest, static=static):
            ensemble, history = simulate.run_chunk(ensemble, *rest, **static)
            return ensemble if recording == "off" else (ensemble, history)

        program, compile_s, peak_bytes = _compiled(chunk, ensembles[0], *rest[0])
        programs = {blocks.devices[0]: program}
        for index, device in enumerate(blocks.devices):
            if device not in programs:
                programs[device], _, _ = _compiled(chunk, ensembles[index], *rest[index])
        own = blocks.devices.count(blocks.devices[0])  # the first device's blocks, one of which is computed
        held_bytes = sum(leaf.nbytes for one in ensembles[1:own] for leaf in jax.tree.leaves(one))
        entries.append(
            Entry(
                {"impl": "ours", "block_size": size, "recording": recording, "replay": replay},
                _advance(programs, rest, recording, population, blocks),
                ensembles,
                lambda ensembles, blocks=blocks: blocks.on_host([one.learner.params for one in ensembles]),
                lambda ensembles: ensembles[0].clock.update,
                num_learners,
                num_steps,
                compile_s,
                peak_bytes + held_bytes,
            )
        )
    if not entries:
        raise SystemExit(f"{num_learners} learners do not make whole blocks: change --learners")
    return entries


def _with_full_replay(ensemble: simulate.Ensemble) -> simulate.Ensemble:
    """Every row written, so that samples come from all over the memory that a capacity takes."""
    rows = ensemble.learner.rows
    full = jnp.copy(jnp.broadcast_to(rows[:, :1], rows.shape))
    cursor = ensemble.clock.cursor.replace(num_added=jnp.int32(rows.shape[1]))
    return ensemble.replace(
        learner=ensemble.learner.replace(rows=full), clock=ensemble.clock.replace(cursor=cursor)
    )


def _advance(programs: dict, rest, recording: str, population, blocks: Blocks) -> Callable:
    """One chunk, its history left out, returned, or written to the disk while the next one is computed."""

    def run(ensembles):
        return blocks.compute(lambda index: programs[blocks.devices[index]](ensembles[index], *rest[index]))

    if recording == "off":
        return run
    if recording == "memory":
        return lambda ensembles: [one for one, _ in run(ensembles)]
    folder = tempfile.TemporaryDirectory()
    writer = store.Writer(
        pathlib.Path(folder.name) / "histories",
        fingerprint="bench",
        spec=population.family.env.spec,
        num_learners=population.num_learners,
        num_steps=1 << 20,
        learner_key_data=np.asarray(jax.random.key_data(population.learner_keys)),
    )
    waiting = []

    def advance(ensembles):
        assert folder  # kept as long as this function is
        done = run(ensembles)
        if waiting:
            writer.append(jax.tree.map(np.asarray, blocks.on_host(waiting.pop())))
        waiting.append([history for _, history in done])
        return [one for one, _ in done]

    return advance
