"""How fast a model decodes, against the memory that each token must be read from."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from transformer.generation import decoding, logit_filters


def decoded(
    language: decoding.Language,
    params: Any,
    *,
    length: int,
    bandwidth: Callable[[], float],
    repeats: int = 5,
) -> dict[str, float]:
    """Greedy decoding of one row with a cache of `length` tokens.

    bandwidth: measures the bytes a second that memory gives. Returns tokens/s (median
    and quartiles), and the median's share of the limit: bandwidth over the bytes of
    weights and cache, all of which every token reads once. Above 1 when they stay in
    the processor's caches.
    """
    tokens = max(1, length // (2 * (repeats + 1)))
    weights = jax.jit(language.weights)(params)
    start = jax.jit(
        partial(decoding.started, language, new_tokens=length - length // 2)
    )
    advance = jax.jit(
        partial(decoding.advanced, language, choose=logit_filters.greedy),
        donate_argnums=1,
    )
    ids_BL = np.ones((1, length // 2), np.int32)
    state = start(weights, ids_BL, np.asarray([length // 2]), jax.random.key(0))
    weights, state = jax.jit(decoding.eased)(weights, state)
    state = jax.block_until_ready(advance(weights, state, tokens=tokens))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        state = jax.block_until_ready(advance(weights, state, tokens=tokens))
        seconds.append((time.perf_counter() - began) / tokens)
    read = sum(a.nbytes for a in jax.tree.leaves((weights, state.cache)))
    low, second, high = np.percentile(seconds, (25, 50, 75))
    return {
        "tokens/s": 1.0 / second,
        "tokens/s, lower quartile": 1.0 / high,
        "tokens/s, upper quartile": 1.0 / low,
        "share of the memory-bandwidth limit": read / second / bandwidth(),
    }
