"""Filters of logits, and the choice of the next token.

A filter maps float32 logits (B, V) to logits with -inf for excluded tokens. Filters
compose; the usual order is temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from transformer.checks import at_least

Filter = Callable[[jax.Array], jax.Array]
Choose = Callable[[jax.Array, jax.Array], jax.Array]


# Relative room for the rounding of float32, where a filter's limit is met exactly.
ROUNDING = 1e-5
# Beyond these the quotients of float32 are one-hot and uniform, or NaN.
COLDEST, HOTTEST = 1e-30, 1e30


def temperature(value: float) -> Filter:
    """Logits over `value`: below 1 sharper, above 1 flatter, and near 0 the most likely
    token. The logits' maximum becomes 0, so that none overflows."""
    if not 0 < value < math.inf:
        raise ValueError(
            f"temperature: expected a finite number more than 0, got {value}; see "
            "greedy"
        )

    def scale(logits_BV: jax.Array) -> jax.Array:
        max_B1 = logits_BV.max(-1, keepdims=True)
        max_B1 = jnp.where(jnp.isfinite(max_B1), max_B1, 0.0)
        return (logits_BV - max_B1) / min(max(value, COLDEST), HOTTEST)

    return scale


def top_k(count: int) -> Filter:
    """The `count` most likely tokens, of equally likely ones the first (Fan et al.
    2018, arXiv 1805.04833)."""
    at_least("top_k", count, 1)

    def keep(logits_BV: jax.Array) -> jax.Array:
        kept = min(count, logits_BV.shape[-1])
        least_B1 = jax.lax.top_k(logits_BV, kept)[0][:, -1:]
        above_BV, tied_BV = logits_BV > least_B1, logits_BV == least_B1
        room_B1 = kept - above_BV.sum(-1, keepdims=True)
        first_BV = jnp.cumsum(tied_BV, axis=-1) <= room_B1
        return jnp.where(above_BV | (tied_BV & first_BV), logits_BV, -jnp.inf)

    return keep


def top_p(mass: float) -> Filter:
    """The fewest most likely tokens of total probability `mass` or more, of equally
    likely ones the first (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751);
    all for mass 1."""
    if not 0 < mass <= 1:
        raise ValueError(f"top_p: expected more than 0 and at most 1, got {mass}")

    def keep(logits_BV: jax.Array) -> jax.Array:
        order_BV = jnp.argsort(-logits_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(jax.nn.softmax(logits_BV), order_BV, axis=-1)
        # From the least likely on: small sums are exact where those near 1 are not.
        rest_BV = jax.lax.cumsum(sorted_BV, axis=1, reverse=True)
        kept_BV = rest_BV > (1 - mass) * (1 + ROUNDING)
        kept_BV = kept_BV.at[:, 0].set(True)
        rank_BV = jnp.argsort(order_BV, axis=-1)
        kept_BV = jnp.take_along_axis(kept_BV, rank_BV, axis=-1)
        return jnp.where(kept_BV, logits_BV, -jnp.inf)

    return _identity if mass == 1 else keep


def min_p(ratio: float) -> Filter:
    """Tokens at least `ratio` times as likely as the most likely one (Nguyen et al.
    2024, arXiv 2407.01082): 1 keeps its equals, 0 all."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"min_p: expected 0 to 1, got {ratio}")

    def keep(logits_BV: jax.Array) -> jax.Array:
        # The ratio of two probabilities is the exponential of a difference of logits.
        behind_BV = logits_BV - logits_BV.max(-1, keepdims=True)
        kept_BV = behind_BV >= math.log(ratio) * (1 + ROUNDING)
        return jnp.where(kept_BV, logits_BV, -jnp.inf)

    return _identity if ratio == 0 else keep


def among_first(count: int, choose: Choose) -> Choose:
    """`choose` among the first `count` tokens: files of pretrained models have more
    rows than their tokenizer has tokens."""

    def choose_known(logits_BV: jax.Array, key: jax.Array) -> jax.Array:
        if logits_BV.shape[-1] <= count:
            return choose(logits_BV, key)
        return choose(logits_BV.at[:, count:].set(-jnp.inf), key)

    return choose_known


def exclude(tokens: Sequence[int]) -> Filter:
    """All tokens but these."""
    excluded_C = jnp.asarray(tokens, jnp.int32)

    def keep(logits_BV: jax.Array) -> jax.Array:
        return logits_BV.at[:, excluded_C].set(-jnp.inf)

    return keep


def _identity(logits_BV: jax.Array) -> jax.Array:
    return logits_BV


def greedy(logits_BV: jax.Array, key: jax.Array) -> jax.Array:
    """The most likely token of each row, the first of equals, int32 (B,)."""
    # Two plain reductions: on a CPU an argmax, which carries pairs, takes 8 times as
    # long (0.25 ms of 50304 logits, 2 % of a token of a 124 M parameter model).
    index_V = jnp.arange(logits_BV.shape[-1], dtype=jnp.int32)
    best_B1 = logits_BV.max(axis=-1, keepdims=True)
    return jnp.where(logits_BV == best_B1, index_V, index_V[-1]).min(axis=-1)


def categorical(*filters: Filter) -> Choose:
    """A sample of each row from the softmax of the filtered logits, int32 (B,).

    Each row has a key of its own, so that its sample depends neither on the other rows
    nor on the device that holds it.
    """

    def choose(logits_BV: jax.Array, key: jax.Array) -> jax.Array:
        for keep in filters:
            logits_BV = keep(logits_BV)
        keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(
            jnp.arange(logits_BV.shape[0])
        )
        return jax.vmap(jax.random.categorical)(keys_B, logits_BV).astype(jnp.int32)

    return choose
