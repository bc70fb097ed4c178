"""Decoding speed, relative to the limit of memory bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.generation import decoding, logit_filters


def decode_speed(
    fns: decoding.DecodeFns,
    params: Any,
    *,
    length: int,
    bandwidth: Callable[[], float],
    repeats: int = 5,
) -> dict[str, float]:
    """Speed of greedy decoding of one row with a cache of `length` tokens.

    bandwidth: measures memory bandwidth in bytes per second. Returns tokens_per_second
    (median and quartiles), and the median as a fraction of the bandwidth limit:
    bandwidth over the bytes of weights and cache, all of which every token reads once.
    Above 1 where they fit the processor's caches.
    """
    tokens = max(1, length // (2 * (repeats + 1)))
    weights = decoding.cast_weights(fns, params)
    new_tokens = length - length // 2
    prefill = jax.jit(partial(decoding.prefill, fns, new_tokens=new_tokens))
    ids_BL = np.ones((1, length // 2), np.int32)
    state = prefill(weights, ids_BL, np.asarray([length // 2]), jax.random.key(0))
    weights, state = decoding.float32_on_cpu(weights, state)
    fns, weights, state = decoding.unroll_layers_on_cpu(fns, weights, state)
    decode = jax.jit(
        partial(decoding.decode, fns, choose=logit_filters.greedy), donate_argnums=1
    )
    state = jax.block_until_ready(decode(weights, state, tokens=tokens))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        state = jax.block_until_ready(decode(weights, state, tokens=tokens))
        seconds.append((time.perf_counter() - start) / tokens)
    size = sum(a.nbytes for a in jax.tree.leaves((weights, state.cache)))
    low, median, high = np.percentile(seconds, (25, 50, 75))
    return {
        "tokens_per_second": 1.0 / median,
        "tokens_per_second/lower_quartile": 1.0 / high,
        "tokens_per_second/upper_quartile": 1.0 / low,
        "fraction_of_bandwidth_limit": size / median / bandwidth(),
    }
