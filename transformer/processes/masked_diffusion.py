"""Masked generation: symbols are hidden, and revealed in the order of confidence.

MaskGIT (Chang et al. 2022, arXiv 2202.04200, sections 3.1 and 3.2): at time t the share
cos(pi t / 2) of a row is hidden. Training hides that many places at random and asks for
them, which at a fixed share is BERT's objective; generation draws all hidden symbols at
once and keeps those that the model is surest of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.processes.flow_matching import times, uniform
from transformer.processes.process import Corrupted, Process

Time = Callable[[jax.Array, int], jax.Array]


def share(t: Any) -> jax.Array:
    """How much is hidden at time t: all at 0, nothing at 1."""
    return jnp.cos(jnp.pi / 2 * jnp.asarray(t, jnp.float32))


def hidden(t: Any, length: int) -> jax.Array:
    """How many of `length` places are hidden at time t, rounded up but for rounding."""
    return jnp.ceil(share(t) * length - 1e-4).astype(jnp.int32)


def least(score_BL: jax.Array, count_B: jax.Array) -> jax.Array:
    """bool (B, L): the `count` places of each row with the lowest scores."""
    rank_BL = jnp.argsort(jnp.argsort(score_BL, axis=-1), axis=-1)
    return rank_BL < count_B[:, None]


def corrupt(
    ids_BL: jax.Array, t_B: jax.Array, key: jax.Array, *, symbol: int
) -> Corrupted:
    """`symbol` in as many random places as are hidden at t; those count."""
    chance_BL = jax.random.uniform(key, ids_BL.shape)
    hidden_BL = least(chance_BL, hidden(t_B, ids_BL.shape[1]))
    seen_BL = jnp.where(hidden_BL, symbol, ids_BL)
    return Corrupted(seen_BL, ids_BL, hidden_BL.astype(jnp.float32))


def even(key: jax.Array, rows: int) -> jax.Array:
    """Times at which every share is hidden equally often."""
    return 2 / jnp.pi * jnp.arccos(jax.random.uniform(key, (rows,)))


def balanced(
    ids_BL: jax.Array, t_B: jax.Array, key: jax.Array, *, symbol: int
) -> Corrupted:
    """As `corrupt`, each row's hidden places counting L in all, however few."""
    seen, target, hidden_BL = corrupt(ids_BL, t_B, key, symbol=symbol)
    count_B1 = jnp.maximum(hidden_BL.sum(1, keepdims=True), 1)
    return Corrupted(seen, target, hidden_BL * (ids_BL.shape[1] / count_B1))


def start(key: jax.Array, like: Any, *, symbol: int) -> jax.Array:
    """Everything hidden."""
    return jnp.full(like.shape, symbol, like.dtype)


def reveal(
    ids_BL: jax.Array,
    logits_BLV: jax.Array,
    t: Any,
    later: Any,
    key: jax.Array,
    *,
    symbol: int,
    temperature: float,
    caprice: float,
) -> jax.Array:
    """Draw every hidden symbol; hide again, of those, the least likely ones.

    What was revealed before stays. temperature: of the draw. caprice: how much chance
    there is in which are kept, falling to none at the end (the paper's choice
    temperature).
    """
    draw_key, keep_key = (jax.random.fold_in(key, i) for i in (0, 1))
    logits_BLV = logits_BLV.at[..., symbol].set(-jnp.inf)
    drawn_BL = jax.random.categorical(draw_key, logits_BLV / temperature)
    log_p_BLV = jax.nn.log_softmax(logits_BLV)
    sure_BL = jnp.take_along_axis(log_p_BLV, drawn_BL[..., None], axis=-1)[..., 0]
    chance_BL = jax.random.gumbel(keep_key, ids_BL.shape)
    was_hidden_BL = ids_BL == symbol
    sure_BL = jnp.where(
        was_hidden_BL, sure_BL + caprice * (1 - later) * chance_BL, jnp.inf
    )
    count_B = jnp.broadcast_to(hidden(later, ids_BL.shape[1]), ids_BL.shape[:1])
    filled_BL = jnp.where(was_hidden_BL, drawn_BL.astype(ids_BL.dtype), ids_BL)
    return jnp.where(least(sure_BL, count_B) & was_hidden_BL, symbol, filled_BL)


def fixed(part: float) -> Time:
    """For every row the time at which the share `part` is hidden: BERT's objective."""
    if not 0 < part <= 1:
        raise ValueError(f"hidden: expected a share above 0 and up to 1, got {part}")
    return lambda key, rows: jnp.full(rows, 2 / math.pi * math.acos(part))


def process(
    *,
    symbol: int,
    time: Time = uniform,
    temperature: float = 1.0,
    caprice: float = 4.5,
) -> Process:
    """Masked generation of ids (B, L) int32 in which `symbol` means hidden; the model
    predicts float32 logits (B, L, V) of what stands at each place. time: of training.
    """
    return Process(
        time,
        partial(corrupt, symbol=symbol),
        partial(start, symbol=symbol),
        partial(reveal, symbol=symbol, temperature=temperature, caprice=caprice),
        times,
    )


def bound(*, symbol: int) -> Process:
    """For measuring: the mean cross-entropy at its times bounds, from above, what the
    model needs on average to write a place, the places revealed one at a time in any
    order (Hoogeboom et al. 2021, arXiv 2110.02037, section 3)."""
    like = process(symbol=symbol, time=even)
    return like._replace(corrupt=partial(balanced, symbol=symbol))
