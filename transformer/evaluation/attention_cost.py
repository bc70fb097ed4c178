"""Measured time and memory of attention by sequence length."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network import masks


class Cost(NamedTuple):
    """Seconds of a forward and backward pass, and bytes of its temporary arrays."""

    seconds: float
    bytes: int


def cost(
    attend: Callable[..., jax.Array],
    mask: masks.Mask,
    length: int,
    *,
    heads: int = 4,
    features: int = 32,
    repeats: int = 3,
) -> Cost:
    """The cost of the kernel `attend` for one row of `length` tokens, float32; the
    fastest of `repeats` measurements."""
    shape = 1, length, heads, features
    inputs = [jax.random.normal(jax.random.key(i), shape) for i in range(3)]
    tokens = masks.single_document(length)
    how = {"mask": mask, "queries": tokens, "keys": tokens, "scale": features**-0.5}

    def total(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array) -> jax.Array:
        return jnp.square(attend(q_BLHK, k_BMHK, v_BMHK, **how)).sum()

    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*inputs).compile()
    jax.block_until_ready(compiled(*inputs))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        seconds.append(time.perf_counter() - start)
    memory: Any = compiled.memory_analysis()
    return Cost(min(seconds), int(memory.temp_size_in_bytes))


def scaling_exponent(lengths: Sequence[int], values: Sequence[float]) -> float:
    """The power p for which values fit c * length^p best, by least squares of
    logarithms."""
    return float(np.polyfit(np.log(lengths), np.log(values), 1)[0])
