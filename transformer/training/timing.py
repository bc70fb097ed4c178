"""Medians of repeated measurements, and the rate of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class TimingQuartiles(NamedTuple):
    """Quartiles of repeated measurements of a time, in seconds."""

    low: float
    median: float
    high: float

    def rate(self, amount: float) -> str:
        """`amount` per second: the median and, in brackets, the quartiles."""
        low, median, high = (short(amount / s) for s in reversed(self))
        return f"{median}/s  [{low} to {high}]"


def short(value: float) -> str:
    """Three digits and a decimal prefix, such as 98.3 G."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} "


def measure_seconds(work: Callable[[], Any], *, repeats: int = 7) -> TimingQuartiles:
    """Seconds of a call of `work` until its result is ready, after a warm-up call."""
    jax.block_until_ready(work())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - start)
    return TimingQuartiles(*np.percentile(seconds, (25, 50, 75)))


def matmul_peak(dtype: Any, *, size: int = 0) -> float:
    """FLOP/s of the fastest square matmul, accumulated in float32, on one device."""
    size = size or (8192 if jax.default_backend() == "gpu" else 2048)
    # By NumPy: a program that draws them would be compiled.
    draw = np.random.default_rng(0).standard_normal
    a, b = (jnp.asarray(draw((size, size), np.float32), dtype) for _ in range(2))
    multiply = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    seconds = measure_seconds(lambda: multiply(a, b), repeats=9)
    return 2.0 * size**3 / seconds.low
