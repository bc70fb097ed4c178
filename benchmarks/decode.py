"""Greedy decoding of one sequence with a key/value cache, ours beside PyTorch's.

    python -m benchmarks.decode [--shape=small] [--dtype=bfloat16] [--rounds=7]

As in `train_step`: one process each, alternating bursts, the same weights. In float32
both must decode the same tokens. The memory-bandwidth limit: a token must read every
weight and the cache once; the bandwidth is that of a sum over a large array.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import shapes
from benchmarks.contender import Contender, answer, bandwidth

CONTENDERS = ("ours", "torch", "torch compile")
Burst = Callable[[int], list[int]]


def torch_burst(shape: shapes.Shape, dtype: str, *, compile: bool) -> Burst:
    """A function of n that returns the next n tokens."""
    import torch

    from benchmarks import torch_gpt

    model = torch_gpt.load_model(shape, shapes.weights(shape)).eval()
    model = model.to(getattr(torch, dtype))
    size = 1, shape.heads, shape.length, shape.width // shape.heads
    cache = [
        tuple(torch.zeros(size, dtype=getattr(torch, dtype)) for _ in "kv")
        for _ in range(shape.depth)
    ]
    step = torch.compile(model.step, dynamic=True) if compile else model.step
    last, at = torch.ones(1, 1, dtype=torch.long), 0

    @torch.inference_mode()
    def burst(tokens: int) -> list[int]:
        nonlocal last, at
        ids = []
        for _ in range(tokens):
            last, at = step(last, cache, at).argmax(-1), at + 1
            ids.append(int(last))
        return ids

    return burst


def our_burst(shape: shapes.Shape, dtype: str) -> Burst:
    """A function of n that returns the next n tokens."""
    from transformer import cpu_tuning

    cpu_tuning.tune()
    import jax
    import jax.numpy as jnp

    from benchmarks import jax_gpt
    from transformer.generation import decoding, logit_filters

    fns = decoding.decode_fns(jax_gpt.model(shape), jnp.dtype(dtype))
    params = jax_gpt.params(shape, shapes.weights(shape))
    narrow = jax.jit(fns.cast_weights)(params)
    # Cache slots as in `text_model`: 256 tokens, doubled when they are full.
    least = cache_length = min(256, shape.length)

    @jax.jit
    def prefill(weights: Any) -> tuple[Any, decoding.DecodeState]:
        prompt = jnp.ones((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
        start = partial(decoding.prefill, fns, new_tokens=least - 1)
        return decoding.float32_on_cpu(
            weights, start(weights, *prompt, jax.random.key(0))
        )

    grow = jax.jit(partial(decoding.grow_cache, fns), static_argnames="cache_length")
    advance = jax.jit(
        partial(decoding.decode, fns, choose=logit_filters.greedy),
        donate_argnums=1,
    )
    weights, state = prefill(narrow)

    def burst(tokens: int) -> list[int]:
        nonlocal state, cache_length
        before = int(state.length_B[0])
        while cache_length < min(before + tokens, shape.length):
            cache_length = min(2 * cache_length, shape.length)
            state = grow(state, cache_length=cache_length)
        state = advance(weights, state, tokens=tokens)
        return np.asarray(state.ids_BL)[0, before : before + tokens].tolist()

    # Compilation is not timed: the whole length once, then from the start.
    while cache_length < shape.length:
        burst(cache_length)
    (weights, state), cache_length = prefill(narrow), least
    return burst


def work(name: str, shape: shapes.Shape, dtype: str) -> None:
    """For each line of standard input, a number of tokens: decode that many, print the
    mean seconds of one and the tokens."""
    if name == "ours":
        burst = our_burst(shape, dtype)
    else:
        burst = torch_burst(shape, dtype, compile="compile" in name)
    for line in sys.stdin:
        tokens = int(line)
        start = time.perf_counter()
        ids = burst(tokens)
        seconds = [(time.perf_counter() - start) / tokens]
        answer(seconds=seconds, results=ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=shapes.SHAPES, default="small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="contenders, separated by commas")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = shapes.SHAPES[arguments.shape]
    if arguments.worker:
        return work(arguments.worker, shape, arguments.dtype)
    names = [n for n in arguments.only.split(",") if n] or list(CONTENDERS)
    names = ["ours", *(n for n in names if n != "ours")]
    tokens = shape.length // (arguments.rounds + 3)
    flags = [f"--shape={arguments.shape}", f"--dtype={arguments.dtype}"]
    contenders = [Contender("decode", name, flags) for name in names]
    try:
        for contender in contenders:
            contender.steps(tokens)
        best: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(arguments.rounds):
            for contender in contenders:
                best[contender.name] += contender.steps(tokens)
    finally:
        for contender in contenders:
            contender.close()
    report(contenders, {n: np.asarray(s) for n, s in best.items()}, shape, arguments)


def report(
    contenders: list[Contender],
    best: dict[str, np.ndarray],
    shape: shapes.Shape,
    arguments: argparse.Namespace,
) -> None:
    """Print the table. Raises ValueError when float32 tokens differ."""
    size = 4 if arguments.dtype == "float32" else 2
    weights = 12 * shape.depth * shape.width**2 + shape.vocab_size * shape.width
    cache = 2 * shape.depth * shape.length * shape.width
    limit = bandwidth() / (size * (weights + cache / 2))
    print(f"{arguments.shape}, {arguments.dtype}: limit {limit:.0f} tokens/s")
    for contender in contenders:
        rate = 1 / best[contender.name]
        low, middle, high = np.percentile(1 / (best["ours"] * rate), [25, 50, 75])
        same = contender.results == contenders[0].results
        print(
            f"{contender.name:16} {np.median(rate):8.1f} tokens/s, "
            f"{np.median(rate) / limit:5.0%} of the limit; ours / it {middle:.2f} "
            f"({low:.2f} - {high:.2f}){'' if same else ', other tokens'}"
        )
        if not same and arguments.dtype == "float32":
            raise ValueError(f"{contender.name}: expected our tokens, got others")


if __name__ == "__main__":
    main()
