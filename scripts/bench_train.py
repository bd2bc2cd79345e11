"""Training tokens a second: our transformer, the same with plain attention, and PyTorch's, interleaved in one process.

    python scripts/bench_train.py --quick          # a few seconds a row, and compilation
    python scripts/bench_train.py --cores 2
    python scripts/bench_train.py --gpu --implementations ours --shape 512 8192 4 --rematerialise

Needs `pip install '.[bench]'` (PyTorch). One JSON line a row on stdout. All three train the same network (four
layers, heads of 16 or 32, rotary positions, AdamW with clipping, float32) on batches of equal shape:

  ours         `train.train_chunk` as a run calls it, windows drawn from histories on the device included
  einsum       the same, its layers plain JAX: `x @ w`, two einsums and a softmax over whole windows
  torch_sdpa   PyTorch's scaled_dot_product_attention and fused AdamW, batches made beforehand

On a GPU the row holds the share of the measured peak of bfloat16 products that the model's operations come to.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable

SHAPES = ((64, 256, 8), (64, 1024, 2), (128, 256, 8), (128, 1024, 2))  # width, context, batch
LARGE_SHAPES = ((512, 2048, 32),)
NUM_LAYERS, NUM_HEADS, NUM_SYMBOLS, NUM_ACTIONS = 4, 4, 16, 5


def main() -> None:
    arguments = _arguments()
    if not arguments.gpu:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        os.environ["JAX_PLATFORMS"] = "cpu"
    rows = []
    shapes = (tuple(arguments.shape),) if arguments.shape else LARGE_SHAPES if arguments.gpu else SHAPES
    for width, context, batch in shapes:
        entries = [
            ENTRIES[name](width, context, batch, gpu=arguments.gpu, rematerialise=arguments.rematerialise)
            for name in arguments.implementations
        ]
        _time(entries, arguments.seconds)
        rows += [_row(entry, width, context, arguments) for entry in entries]
        for row in rows[-len(entries) :]:
            print(json.dumps(row), flush=True)
    _print_ratios(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter timings")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--gpu", action="store_true", help="8 layers of width 512, context 2,048, bfloat16")
    parser.add_argument("--implementations", nargs="+", default=["ours", "torch_sdpa", "einsum"])
    parser.add_argument(
        "--shape", type=int, nargs=3, metavar=("WIDTH", "CONTEXT", "BATCH"), help="this one only"
    )
    parser.add_argument(
        "--rematerialise", action="store_true", help="layers computed again backwards (not PyTorch's)"
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="of timing a row (default 20; quick: 4)")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (4.0 if arguments.quick else 20.0)
    return arguments


@dataclasses.dataclass
class Entry:
    """Something that trains; a turn is `num_updates` updates."""

    impl: str
    turn: Callable[[], float]  # trains, waits, and gives back the last loss
    tokens: int  # a turn
    flops: float  # a token, forwards and backwards
    seconds: list[float] = dataclasses.field(default_factory=list)


def _time(entries: list[Entry], seconds: float) -> None:
    """All in turn, so that what else the machine does falls on each alike."""
    for entry in entries:
        first = entry.turn()
        if not math.isfinite(first) or abs(first - math.log(NUM_ACTIONS)) > 1.5:
            raise SystemExit(f"{entry.impl}: a loss of {first} after its first turn is not that of this work")
    deadline = time.perf_counter() + seconds * len(entries)
    while time.perf_counter() < deadline or len(entries[0].seconds) < 3:
        for entry in entries:
            start = time.perf_counter()
            entry.turn()
            entry.seconds.append(time.perf_counter() - start)


def _row(entry: Entry, width: int, context: int, arguments: argparse.Namespace) -> dict:
    import jax
    import numpy as np

    rate = entry.tokens / float(np.median(entry.seconds))
    row = {
        "bench": "train",
        "impl": entry.impl,
        "width": width,
        "context": context,
        "rematerialise": arguments.rematerialise and entry.impl != "torch_sdpa",
        "tokens_per_s": round(rate),
        "flops_per_token": round(entry.flops),
        "flops_per_s": rate * entry.flops,
        "cores": None if arguments.gpu else arguments.cores,
        "device": jax.local_devices()[0].device_kind,
    }
    if arguments.gpu:
        row["peak_share"] = rate * entry.flops / _peak_flops()
    return row


def _print_ratios(rows: list[dict]) -> None:
    by = {(row["width"], row["context"], row["impl"]): row["tokens_per_s"] for row in rows}
    for other in ("torch_sdpa", "einsum"):
        shapes = [key[:2] for key in by if key[2] == other and (*key[:2], "ours") in by]
        ratios = [by[*shape, "ours"] / by[*shape, other] for shape in shapes]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            each = ", ".join(f"{shape} {ratio:.2f}" for shape, ratio in zip(shapes, ratios, strict=True))
            print(f"ours / {other}: geometric mean {mean:.2f} ({each})", file=sys.stderr)


@functools.cache
def _peak_flops() -> float:
    """Operations a second of large bfloat16 products of random numbers, ten in a row, the best of five."""
    import jax
    import jax.numpy as jnp

    size, times = 8192, 10
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda x, y: (x @ y) * jnp.bfloat16(size**-0.5))
    best, y = math.inf, product(x, x)
    for _ in range(5):
        jax.block_until_ready(y)
        start = time.perf_counter()
        for _ in range(times):
            y = product(x, y)
        jax.block_until_ready(y)
        best = min(best, (time.perf_counter() - start) / times)
    return 2 * size**3 / best


def _spec():
    from cl_imitate.types import Spec, SymbolObservation

    return Spec(
        observation=SymbolObservation(NUM_SYMBOLS),
        num_actions=NUM_ACTIONS,
        reward_dtype="int8",
        can_truncate=True,
        episode_steps=None,
    )


# ---- ours, and the same with plain attention


def _jax_entry(width: int, context: int, batch: int, *, gpu: bool, rematerialise: bool, plain: bool) -> Entry:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cl_imitate import config, cost, keys, optimiser, train, trainees
    from cl_imitate.imitators import transformer
    from cl_imitate.imitators.attention import window_angles
    from cl_imitate.imitators.base import assemble
    from cl_imitate.imitators.refill_memory import RefillMemory
    from cl_imitate.products import branch_dtype
    from cl_imitate.types import History

    class Plain(transformer.Transformer):
        """A layer as one would first write it: `x @ w`, two einsums and a softmax, and JAX's own gradients."""

        def _layer(self, block, x, dropout_keys, *, turns, is_there):
            del dropout_keys, is_there, turns
            short = branch_dtype(self.imitator.products)

            def linear(layer, x):
                return x.astype(short) @ layer.kernel[...].astype(short) + layer.bias[...].astype(short)

            def rotated(x):
                angle = window_angles(jnp.arange(x.shape[1]), self.head_size)[None, :, None]
                first, second = jnp.split(x, 2, axis=-1)
                cos, sin = jnp.cos(angle).astype(short), jnp.sin(angle).astype(short)
                return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)

            qkv = linear(block.qkv, block.norm_attention(x))
            q, k, v = jnp.split(qkv.reshape(*x.shape[:2], 3 * block.num_heads, -1), 3, axis=2)
            scores = jnp.einsum("bqhk,bshk->bhqs", rotated(q), rotated(k)).astype(jnp.float32)
            seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
            weights = jax.nn.softmax(jnp.where(seen, scores * self.head_size**-0.5, -1e9), axis=-1)
            mixed = jnp.einsum("bhqs,bshk->bqhk", weights.astype(short), v).reshape(x.shape)
            x = x + linear(block.out, mixed).astype(x.dtype)
            forward = linear(block.down, jax.nn.gelu(linear(block.up, block.norm_forward(x))))
            return x + forward.astype(x.dtype), (k, v)

    spec = _spec()
    imitator = config.Imitator(
        width=width,
        num_layers=8 if gpu else NUM_LAYERS,
        num_heads=8 if gpu else NUM_HEADS,
        products="bfloat16" if gpu else "float32",
        rematerialise=rematerialise,
    )
    num_updates = max(1, (1 << 20 if gpu else 1 << 15) // (batch * context))
    training = config.Training(
        batch_size=batch, num_updates=1 << 20, evaluate_every_updates=num_updates, evaluate_windows=1
    )
    network = (Plain if plain else transformer.Transformer)(imitator, spec, context)
    memory = RefillMemory(network, context // 2)
    made = assemble(network, memory, block_steps=context // 2, num_actions=NUM_ACTIONS)
    rng, shape = np.random.default_rng(0), (16, 4 * context)
    nothing = np.zeros(shape, bool)
    history = History(
        obs=rng.integers(0, NUM_SYMBOLS, shape).astype(np.uint8),
        action=rng.integers(0, NUM_ACTIONS, shape).astype(np.uint8),
        reward=rng.integers(0, 2, shape).astype(np.int8),
        terminated=nothing,
        truncated=nothing,
        explored=nothing,
    )
    member_keys = keys.members(keys.root(0), 1)
    members = trainees.Members(
        keys=member_keys,
        fork_steps=jnp.array([4 * context]),
        rates=optimiser.rates_of(training, 1),
        held_out_keys=member_keys,
        place=jnp.array([0]),
    )
    state = train.init_train_state(member_keys, imitator=made, training=training)
    small = jax.tree.map(lambda x: jnp.asarray(x[:1, :context]), history)
    history = jax.tree.map(jnp.asarray, history)

    def turn() -> float:
        nonlocal state
        state, losses, _ = train.train_chunk(
            state,
            members,
            history,
            small,
            imitator=made,
            training=optimiser.without_rates(training),
            context_steps=context,
            num_updates=num_updates,
        )
        return float(losses[0, -1])

    flops = cost.of(imitator, spec, context_steps=context).training_flops
    return Entry("einsum" if plain else "ours", turn, num_updates * batch * context, flops)


def _ours(width, context, batch, *, gpu, rematerialise):
    return _jax_entry(width, context, batch, gpu=gpu, rematerialise=rematerialise, plain=False)


def _einsum(width, context, batch, *, gpu, rematerialise):
    return _jax_entry(width, context, batch, gpu=gpu, rematerialise=rematerialise, plain=True)


# ---- PyTorch


def _torch_sdpa(width: int, context: int, batch: int, *, gpu: bool, rematerialise: bool) -> Entry:
    del rematerialise
    import torch
    import torch_transformer

    from cl_imitate import config, cost

    layers, heads = (8, 8) if gpu else (NUM_LAYERS, NUM_HEADS)
    device = torch.device("cuda" if gpu else "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = torch_transformer.Decoder(
        width, layers, heads, num_symbols=NUM_SYMBOLS, num_actions=NUM_ACTIONS, context=context
    ).to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    num_updates = max(1, (1 << 20 if gpu else 1 << 15) // (batch * context))
    batches = [torch_transformer.random_batch(model, batch, context, seed=i) for i in range(num_updates)]

    def turn() -> float:
        for inputs, action in batches:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=gpu):
                logits = model(*inputs)
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), action.flatten())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        return float(loss.detach())

    spec = _spec()
    imitator = config.Imitator(width=width, num_layers=layers, num_heads=heads)
    flops = cost.of(imitator, spec, context_steps=context).training_flops
    return Entry("torch_sdpa", turn, num_updates * batch * context, flops)


ENTRIES = {"ours": _ours, "einsum": _einsum, "torch_sdpa": _torch_sdpa}

if __name__ == "__main__":
    main()
