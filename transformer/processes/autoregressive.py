"""Autoregression: at time n / L the first n tokens of a row are known.

A causal model predicts every token from those before it in one pass, so training covers
all times of a row at once and no input is corrupted. Generation without a cache is the
definition; `generation/decoding.py` computes the same with one, fast (tested equal).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.processes.flow_matching import times, uniform_times
from transformer.processes.process import NoisedExample, Process

Choose = Callable[[jax.Array, jax.Array], jax.Array]


def corrupt(ids_BL: jax.Array, t_B: jax.Array, key: jax.Array) -> NoisedExample:
    """The row itself, uncorrupted: the model's causal mask hides the targets."""
    return NoisedExample(ids_BL, ids_BL, jnp.ones(ids_BL.shape))


def empty_row(key: jax.Array, like: Any) -> jax.Array:
    """Zeros; the causal mask hides each one until a token replaces it."""
    return jnp.zeros(like.shape, like.dtype)


def append_token(
    ids_BL: jax.Array,
    logits_BLV: jax.Array,
    t: Any,
    t_next: Any,
    key: jax.Array,
    *,
    choose: Choose,
) -> jax.Array:
    """Write the next token of each row: choose(its logits, key)."""
    position = jnp.round(t * ids_BL.shape[1]).astype(jnp.int32)
    logits_BV = jax.lax.dynamic_index_in_dim(logits_BLV, position, 1, keepdims=False)
    return ids_BL.at[:, position].set(choose(logits_BV, key).astype(ids_BL.dtype))


def process(*, choose: Choose) -> Process:
    """Generation of ids (B, L) int32 from left to right in L steps. The model's logits
    (B, L, V) at a position predict the token there, from those before it."""
    append = partial(append_token, choose=choose)
    return Process(uniform_times, corrupt, empty_row, append, times)
