"""Autoregression: at time n / L the first n symbols of a row are known.

A causal model predicts every symbol from those before it in one pass, so training sees
all times of a row at once and nothing need be hidden. Generation without a cache is the
definition; `generation/decoding.py` is the same thing, fast (tests/test_processes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.processes.flow_matching import times, uniform
from transformer.processes.process import Corrupted, Process

Choose = Callable[[jax.Array, jax.Array], jax.Array]


def corrupt(ids_BL: jax.Array, t_B: jax.Array, key: jax.Array) -> Corrupted:
    """The row itself: the model's causal mask hides what is to be predicted."""
    return Corrupted(ids_BL, ids_BL, jnp.ones(ids_BL.shape))


def start(key: jax.Array, like: Any) -> jax.Array:
    """Zeros, none of which is looked at before it is written."""
    return jnp.zeros(like.shape, like.dtype)


def write(
    ids_BL: jax.Array,
    logits_BLV: jax.Array,
    t: Any,
    later: Any,
    key: jax.Array,
    *,
    choose: Choose,
) -> jax.Array:
    """The next symbol of each row, chosen from its logits."""
    place = jnp.round(t * ids_BL.shape[1]).astype(jnp.int32)
    logits_BV = jax.lax.dynamic_index_in_dim(logits_BLV, place, 1, keepdims=False)
    return ids_BL.at[:, place].set(choose(logits_BV, key).astype(ids_BL.dtype))


def process(*, choose: Choose) -> Process:
    """Writing ids (B, L) int32 from left to right in L steps; the model's logits (B, L,
    V) at a place predict the symbol there, from those before it."""
    return Process(uniform, corrupt, start, partial(write, choose=choose), times)
