"""Steps acted a second by E streams in lockstep: our memories, full recompute, and PyTorch's cache, interleaved.

    python scripts/bench_decode.py --quick          # about a minute on one core
    python scripts/bench_decode.py --envs 64 --contexts 256 1024

Needs `pip install '.[bench]'` (PyTorch). One JSON line a row on stdout. Four layers of width 64, four heads; every
step's token is made from the action before it, so that no implementation can run ahead. Memories are full from the
first step that is timed.

  ours         memory "refill": the window is read again every half context, and that reading is timed too;
               memory "ring": each layer keeps its last steps
  recompute    a full forward pass over the window for every step
  torch_kv     a cache written in place and scaled_dot_product_attention, no reading again

On a GPU, rows hold the share of the measured memory bandwidth that reading the cache comes to.
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

WIDTH, NUM_LAYERS, NUM_HEADS, NUM_SYMBOLS, NUM_ACTIONS = 64, 4, 4, 16, 5


def main() -> None:
    arguments = _arguments()
    if not arguments.gpu:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
        os.environ["JAX_PLATFORMS"] = "cpu"
    rows = []
    for context in arguments.contexts:
        for num_envs in arguments.envs:
            entries = [make(num_envs, context) for make in (_refill, _ring, _recompute, _torch_kv)]
            _time(entries, arguments.seconds)
            new = [_row(entry, num_envs, context, arguments) for entry in entries]
            for row in new:
                print(json.dumps(row), flush=True)
            _print_ratios(new)
            rows += new


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shorter timings, context 256 only")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--envs", type=int, nargs="+", default=[64])
    parser.add_argument("--contexts", type=int, nargs="+")
    parser.add_argument("--seconds", type=float, default=0.0, help="of timing a row (default 15; quick: 5)")
    arguments = parser.parse_args()
    arguments.contexts = arguments.contexts or ([256] if arguments.quick else [256, 1024])
    arguments.seconds = arguments.seconds or (5.0 if arguments.quick else 15.0)
    return arguments


@dataclasses.dataclass
class Entry:
    """Something that acts; a turn is `num_steps` steps of all streams."""

    impl: str
    memory: str
    turn: Callable[[], None]
    num_steps: int
    seconds: list[float] = dataclasses.field(default_factory=list)


def _time(entries: list[Entry], seconds: float) -> None:
    for entry in entries:
        entry.turn()
        entry.turn()  # a memory of two half contexts is full now
    deadline = time.perf_counter() + seconds * len(entries)
    while time.perf_counter() < deadline or len(entries[0].seconds) < 5:
        for entry in entries:
            start = time.perf_counter()
            entry.turn()
            entry.seconds.append(time.perf_counter() - start)


def _row(entry: Entry, num_envs: int, context: int, arguments: argparse.Namespace) -> dict:
    import jax
    import numpy as np

    rate = entry.num_steps * num_envs / float(np.median(entry.seconds))
    cache_bytes = (
        2 * 4 * NUM_LAYERS * WIDTH * context
    )  # float32 keys and values that one step of one stream reads
    row = {
        "bench": "decode",
        "impl": entry.impl,
        "memory": entry.memory,
        "envs": num_envs,
        "context": context,
        "env_steps_per_s": round(rate, 1),
        "cache_bytes_per_s": rate * cache_bytes,
        "cores": None if arguments.gpu else arguments.cores,
        "device": jax.local_devices()[0].device_kind,
    }
    if arguments.gpu:
        row["bandwidth_share"] = rate * cache_bytes / _bandwidth()
    return row


def _print_ratios(rows: list[dict]) -> None:
    rates = {(row["impl"], row["memory"]): row["env_steps_per_s"] for row in rows}
    for memory in ("refill", "ring"):
        parts = [
            f"{impl} {rates['ours', memory] / rates[impl, '']:.2f}" for impl in ("recompute", "torch_kv")
        ]
        print(f"context {rows[0]['context']}, ours ({memory}) / {', / '.join(parts)}", file=sys.stderr)


@functools.cache
def _bandwidth() -> float:
    """Bytes a second, read and written, of copies that add one: ten in a row, the best of five."""
    import jax
    import jax.numpy as jnp

    x, times = jnp.zeros(1 << 28, jnp.float32), 10
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    best = math.inf
    for _ in range(6):
        jax.block_until_ready(x)
        start = time.perf_counter()
        for _ in range(times):
            x = add(x)
        jax.block_until_ready(x)
        best = min(best, (time.perf_counter() - start) / times)
    return 2 * x.nbytes / best


# ---- ours, and full recompute


def _spec():
    from cl_imitate.types import Spec, SymbolObservation

    return Spec(
        observation=SymbolObservation(NUM_SYMBOLS),
        num_actions=NUM_ACTIONS,
        reward_dtype="int8",
        can_truncate=True,
        episode_steps=None,
    )


def _imitator(context: int, **options):
    import jax

    from cl_imitate import config
    from cl_imitate.imitators.make import make_imitator

    imitator = config.Imitator(width=WIDTH, num_layers=NUM_LAYERS, num_heads=NUM_HEADS, **options)
    made = make_imitator(imitator, _spec(), context_steps=context)
    return made, jax.jit(made.init)(jax.random.key(0))


def _next_tokens(action, step):
    """Tokens [E] in which the last actions are what is seen."""
    import jax.numpy as jnp

    from cl_imitate.imitators.embedding import empty_tokens

    tokens = empty_tokens(action.shape, _spec())
    return tokens.replace(
        obs=((action + step) % NUM_SYMBOLS).astype(jnp.uint8),
        prev_action=action,
        prev_reward=(action == 0).astype(jnp.float32),
    )


def _cached(num_envs: int, context: int, memory: str, **options) -> Entry:
    import jax
    import jax.numpy as jnp

    made, params = _imitator(context, **options)

    @functools.partial(jax.jit, donate_argnums=0)
    def block(carry):
        memory, action, step = carry

        def one(carry, _):
            memory, action, step = carry
            logits, memory = made.act(params, memory, _next_tokens(action, step))
            return (memory, jnp.argmax(logits, axis=-1).astype(jnp.int32), step + 1), None

        return jax.lax.scan(one, (made.begin_block(params, memory), action, step), None, made.block_steps)[0]

    carry = (made.init_memory(num_envs), jnp.zeros(num_envs, jnp.int32), jnp.int32(0))
    carry = jax.tree.map(jnp.copy, carry)  # equal zeros may share a buffer, and each is donated

    def turn():
        nonlocal carry
        carry = jax.block_until_ready(block(carry))

    return Entry("ours", memory, turn, made.block_steps)


def _refill(num_envs: int, context: int) -> Entry:
    return _cached(num_envs, context, "refill")


def _ring(num_envs: int, context: int) -> Entry:
    return _cached(num_envs, context, "ring", attention_steps=context)


def _recompute(num_envs: int, context: int) -> Entry:
    import jax
    import jax.numpy as jnp

    from cl_imitate.imitators.embedding import empty_tokens

    made, params = _imitator(context)

    @jax.jit
    def one(window, action, step):
        new = _next_tokens(action, step)
        window = jax.tree.map(lambda old, x: jnp.concatenate([old[:, 1:], x[:, None]], axis=1), window, new)
        logits = made.logits(params, window, None)[:, -1]
        return window, jnp.argmax(logits, axis=-1).astype(jnp.int32), step + 1

    carry = (empty_tokens((num_envs, context), _spec()), jnp.zeros(num_envs, jnp.int32), jnp.int32(0))

    def turn():
        nonlocal carry
        carry = jax.block_until_ready(one(*carry))

    return Entry("recompute", "", turn, 1)


# ---- PyTorch


def _torch_kv(num_envs: int, context: int) -> Entry:
    import torch
    import torch_transformer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    model = torch_transformer.Decoder(
        WIDTH, NUM_LAYERS, NUM_HEADS, num_symbols=NUM_SYMBOLS, num_actions=NUM_ACTIONS, context=context
    ).to(device)
    shape = (num_envs, NUM_HEADS, context, WIDTH // NUM_HEADS)
    keys = [torch.zeros(shape, device=device) for _ in range(NUM_LAYERS)]
    values = [torch.zeros(shape, device=device) for _ in range(NUM_LAYERS)]
    action, step = torch.zeros(num_envs, dtype=torch.long, device=device), 0
    age = torch.zeros_like(action)
    nothing = torch.zeros(num_envs, device=device)

    @torch.inference_mode()
    def turn():
        nonlocal action, step
        for _ in range(context // 2):
            scalars = torch.stack([(action == 0).float(), nothing, nothing], dim=-1)
            logits = model.step(
                (action + step) % NUM_SYMBOLS,
                action,
                age,
                scalars,
                keys,
                values,
                step % context,
                min(step + 1, context),
            )
            action, step = logits.argmax(dim=-1), step + 1
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Entry("torch_kv", "", turn, context // 2)


if __name__ == "__main__":
    main()
