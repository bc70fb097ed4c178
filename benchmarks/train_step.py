"""One training step, ours beside PyTorch's, alternating in one run.

    python -m benchmarks.train_step [--shape=baby] [--dtype=bfloat16] [--rounds=7]

Each contender is one process for the whole run and steps only in its turn, so that
noise of the machine is shared by all. All start from the same weights and train on the
same batch: their losses are compared step by step. The table has the median seconds of
a step and the ratios ours / theirs, with XLA's products and with oneDNN's
(`network/kernels/onednn.py`): median and quartiles over the rounds. `--one-core` pins
each process to one core and measures CPU seconds, for machines with other load. torch
is no dependency of the project: `pip install torch==2.13.0`. tcmalloc is found by the
name of its library (Debian: libtcmalloc-minimal4).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import shapes
from benchmarks.contender import Contender, answer, tcmalloc

OURS = "ours"
ONEDNN = "ours + oneDNN"
CONTENDERS = (
    OURS,
    ONEDNN,
    "ours, plain paths",
    "torch eager",
    "torch compile",
    "torch compile + tcmalloc",
)
# Relative, of the first four losses; bfloat16 rounds differently in each, and AdamW's
# first steps amplify every small difference of a gradient to its sign.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3}


def stepper(name: str, shape: shapes.Shape, dtype: str) -> Callable[..., float]:
    """The step function of contender `name`."""
    weights = shapes.weights(shape)
    if name.startswith(OURS):
        from transformer import cpu_tuning

        print(cpu_tuning.tune(), file=sys.stderr)
        from benchmarks import jax_gpt
        from transformer.network import precision
        from transformer.network.kernels import onednn

        einsum = (
            onednn.einsum_if_available() if name == ONEDNN else precision.einsum_f32
        )
        fast = name in (OURS, ONEDNN)
        return jax_gpt.trainer(shape, weights, dtype=dtype, fast=fast, einsum=einsum)
    from benchmarks import torch_gpt

    compile = "compile" in name
    return torch_gpt.trainer(shape, weights, dtype=dtype, compile=compile)


def work(name: str, shape: shapes.Shape, dtype: str, *, one_core: bool) -> None:
    """For each line of standard input, a number of steps: make them, print the seconds
    and the loss of each."""
    clock = time.perf_counter
    if one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        clock = time.process_time
    step = stepper(name, shape, dtype)
    batch = shapes.batch(shape)
    for line in sys.stdin:
        seconds, losses = [], []
        for _ in range(int(line)):
            start = clock()
            losses.append(step(*batch))
            seconds.append(clock() - start)
        answer(seconds=seconds, results=losses)


def flags_of(arguments: argparse.Namespace) -> list[str]:
    """The flags of a contender's process."""
    flags = [f"--shape={arguments.shape}", f"--dtype={arguments.dtype}"]
    return [*flags, *(["--one-core"] if arguments.one_core else [])]


def race(contenders: list[Contender], *, rounds: int, steps: int) -> dict[str, Any]:
    """Each contender's fastest step of every round, (rounds,) by name."""
    for contender in contenders:
        contender.steps(3)
    best: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for turn in range(rounds):
        # Reversed every other time: none always runs after the same neighbor.
        for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
            best[contender.name].append(min(contender.steps(steps)))
    return {name: np.asarray(seconds) for name, seconds in best.items()}


def check(contenders: list[Contender], tolerance: float) -> None:
    """Raise ValueError unless the losses of the first steps equal ours."""
    first = np.asarray(contenders[0].results[:4])
    for contender in contenders[1:]:
        difference = np.abs(np.asarray(contender.results[:4]) / first - 1).max()
        if not difference <= tolerance:
            raise ValueError(
                f"{contender.name}: expected losses {first} within {tolerance}, got "
                f"{contender.results[:4]}"
            )


def report(best: dict[str, np.ndarray], shape: shapes.Shape) -> None:
    """Print the table: median and quartiles of the ratios of ours to each."""
    ours = [name for name in (OURS, ONEDNN) if name in best]
    heads = "".join(f"  {f'{name} / it':22}" for name in ours)
    print(f"{'':26} {'s/step':>8} {'GFLOP/s':>8}{heads}")
    for name, seconds in best.items():
        rate = shape.flops / np.median(seconds) / 1e9
        line = f"{name:26} {np.median(seconds):8.3f} {rate:8.0f}"
        for our in ours:
            low, middle, high = np.percentile(best[our] / seconds, [25, 50, 75])
            line += f"  {f'{middle:.2f} ({low:.2f} - {high:.2f})':22}"
        print(line.rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=shapes.SHAPES, default="baby")
    parser.add_argument("--dtype", choices=TOLERANCE, default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="of each, in a round")
    parser.add_argument("--only", default="", help="contenders, separated by commas")
    parser.add_argument("--one-core", action="store_true", help="see above")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = shapes.SHAPES[arguments.shape]
    if arguments.worker:
        one_core = arguments.one_core
        return work(arguments.worker, shape, arguments.dtype, one_core=one_core)
    names = [n for n in arguments.only.split(",") if n] or list(CONTENDERS)
    if tcmalloc() is None:
        names = [n for n in names if "tcmalloc" not in n]
    names = [OURS, *(n for n in names if n != OURS)]
    contenders = [Contender("train_step", name, flags_of(arguments)) for name in names]
    try:
        best = race(contenders, rounds=arguments.rounds, steps=arguments.steps)
    finally:
        for contender in contenders:
            contender.close()
    check(contenders, TOLERANCE[arguments.dtype])
    print(f"{arguments.shape}, {arguments.dtype}: {shape}")
    report(best, shape)


if __name__ == "__main__":
    main()
