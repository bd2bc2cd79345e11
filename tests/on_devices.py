"""Simulates a few learners and trains a few imitators on as many virtual devices as it is told, into one npz.

    python -m tests.on_devices OUT DEVICES SHARD...

Not a test: test_sharding.py and test_processes.py run it, because the number of devices is fixed when jax starts.
"""

import pathlib
import re
import sys

import jax


def main(out: pathlib.Path, num_devices: int, shards: tuple[str, ...]) -> None:
    jax.config.update("jax_num_cpu_devices", num_devices)
    import numpy as np

    from cl_imitate import config
    from cl_imitate.start_jax import share_programs_among_cpu_devices
    from tests import ensembles

    share_programs_among_cpu_devices()
    found = {}
    group = ensembles.group(8)
    for block_size in (3, 1):  # of 3: as many blocks as neither 2 nor 8 devices divide
        ensemble, history = group.live(group.newborn(), 24, chunk_steps=8, block_size=block_size)
        for name, tree in {"snapshot": ensemble, "history": history}.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                found[f"learners in blocks of {block_size}: {name}{jax.tree_util.keystr(path)}"] = np.asarray(
                    leaf
                )
    found["devices"] = np.array(len(ensemble.obs.sharding.device_set))
    state, measured = blocks_of_one_imitator()
    for path, leaf in jax.tree_util.tree_leaves_with_path((state, measured)):
        found[f"imitators in blocks of 1: {jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    for shard in shards:
        training = config.Training(
            shard=shard,
            num_updates=6,
            batch_size=8,
            learning_rate=1e-3,
            warmup_updates=2,
            evaluate_every_updates=3,
            evaluate_windows=16,
        )
        steps = fit(training)
        losses = [measured.train_loss for _, measured in steps]
        found[f"{shard} losses"] = np.concatenate(losses, axis=1)
        found[f"{shard} held_out"] = np.stack([measured.held_out_loss for _, measured in steps])
        state = steps[-1][0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            found[f"{shard} params{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
        kernel = state.params["head"]["kernel"]
        found[f"{shard} mesh"] = np.array(list(kernel.sharding.mesh.shape.values()))
        largest = [
            max(
                x.addressable_shards[0].data.nbytes * 2 / x.nbytes
                for x in jax.tree.leaves(tree)
                if x.ndim > 2
            )
            for tree in (state.params, state.opt_state)
        ]
        found[f"{shard} part of a member on one device"] = np.array(largest)
        found[f"{shard} program"] = np.array(program(training, state))
    np.savez(out, **found)


def blocks_of_one_imitator() -> tuple:
    """Two imitators, a block each: their state, and what was measured, after a few updates."""
    from cl_imitate import config, train
    from tests import test_train

    training = config.Training(
        num_updates=4, batch_size=8, evaluate_every_updates=4, evaluate_windows=16, block_size=1
    )
    *_, fitted = train.fit_together([trainee(training)], imitator=test_train.imitator(), context_steps=16)
    [state], [measured] = fitted.states(), fitted.progress
    return state, (measured.train_loss, measured.held_out_loss)


def trainee(training, num_members: int = 2):
    """Imitators of what `test_train` trains."""
    from cl_imitate import keys, train
    from tests import test_train

    member_keys, history = keys.members(keys.root(0), num_members), test_train.copying_history()
    return train.Trainee(
        state=train.init_train_state(member_keys, imitator=test_train.imitator(), training=training),
        imitator_keys=member_keys,
        fork_steps=jax.numpy.full(num_members, 64),
        feed=lambda update: (history, training.num_updates),
        held_out=history,
        held_out_key=jax.random.key(9),
        training=training,
    )


def fit(training) -> list:
    """States and what was measured, after every chunk."""
    from cl_imitate import spread
    from tests import test_train

    fitting = spread.fit(trainee(training), imitator=test_train.imitator(), context_steps=16)
    return [(jax.tree.map(jax.numpy.copy, one.states()[0]), one.progress[0]) for one in fitting]


def program(training, state) -> str:
    """Which collectives a chunk's compiled program has."""
    from cl_imitate import sharding, spread, train
    from cl_imitate.optimiser import without_rates
    from tests import test_train

    mesh = spread.make_mesh(2, training)
    history = sharding.place(test_train.copying_history(), mesh, sharding.WHOLE)
    compiled = train.train_chunk.lower(
        state,
        sharding.place(trainee(training).members(), mesh, sharding.SPLIT),
        history,
        history,
        imitator=test_train.imitator(),
        training=without_rates(training),
        context_steps=16,
        num_updates=3,
        mesh=mesh,
    ).compile()
    names = re.findall(
        r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?=[-(])", compiled.as_text()
    )
    return " ".join(sorted(set(names)))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]))
