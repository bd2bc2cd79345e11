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

    from cl_imitate import keys, sharding, train
    from tests import ensembles, test_train

    found = {}
    group = ensembles.group(8)
    ensemble, history = group.live(group.newborn(), 24, chunk_steps=8, block_size=1)
    for name, tree in {"snapshot": ensemble, "history": history}.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    found["devices"] = np.array(len(ensemble.obs.sharding.device_set))
    for shard in shards:
        training = test_train.config.Training(
            shard=shard,
            num_updates=6,
            batch_size=8,
            learning_rate=1e-3,
            warmup_updates=2,
            evaluate_every_updates=3,
            evaluate_windows=16,
        )
        steps = test_train.fit(2, training)
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
        found[f"{shard} program"] = np.array(program(train, sharding, keys, training, state))
    np.savez(out, **found)


def program(train, sharding, keys, training, state) -> str:
    """Which collectives a chunk's compiled program has."""
    from tests import test_train

    mesh = sharding.training_mesh(2, 8, splits_batches=training.shard != "members")
    history = sharding.place(test_train.copying_history(), mesh, sharding.WHOLE)
    member_keys = sharding.place(keys.members(keys.root(0), 2), mesh, sharding.SPLIT)
    forks = sharding.place(jax.numpy.full(2, 64), mesh, sharding.SPLIT)
    compiled = train.train_chunk.lower(
        state,
        member_keys,
        forks,
        history,
        history,
        sharding.place(jax.random.key(9), mesh, sharding.WHOLE),
        imitator=test_train.imitator(),
        training=training,
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
