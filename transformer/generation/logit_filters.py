"""Filters of logits, and the choice of the next token.

A filter maps float32 logits (B, V) to logits with -inf for excluded tokens. Filters
compose; the usual order is temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from transformer.checks import at_least

Filter = Callable[[jax.Array], jax.Array]
Choose = Callable[[jax.Array, jax.Array], jax.Array]


def temperature(value: float) -> Filter:
    """Logits over `value`: below 1 sharper, above 1 flatter."""
    if not value > 0:
        raise ValueError(f"temperature: expected more than 0, got {value}; see greedy")
    return lambda logits_BV: logits_BV / value


def top_k(count: int) -> Filter:
    """The `count` most likely tokens (Fan et al. 2018, arXiv 1805.04833)."""
    at_least("top_k", count, 1)

    def keep(logits_BV: jax.Array) -> jax.Array:
        kept = min(count, logits_BV.shape[-1])
        least_B1 = jax.lax.top_k(logits_BV, kept)[0][:, -1:]
        return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)

    return keep


def top_p(mass: float) -> Filter:
    """The fewest most likely tokens of total probability `mass` or more (nucleus
    sampling, Holtzman et al. 2019, arXiv 1904.09751)."""
    _check_fraction("top_p", mass)

    def keep(logits_BV: jax.Array) -> jax.Array:
        order_BV = jnp.argsort(-logits_BV, axis=-1)
        sorted_BV = jnp.take_along_axis(jax.nn.softmax(logits_BV), order_BV, axis=-1)
        before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
        rank_BV = jnp.argsort(order_BV, axis=-1)
        kept_BV = jnp.take_along_axis(before_BV < mass, rank_BV, axis=-1)
        return jnp.where(kept_BV, logits_BV, -jnp.inf)

    return keep


def min_p(ratio: float) -> Filter:
    """Tokens at least `ratio` times as likely as the most likely one (Nguyen et al.
    2024, arXiv 2407.01082)."""
    _check_fraction("min_p", ratio)

    def keep(logits_BV: jax.Array) -> jax.Array:
        p_BV = jax.nn.softmax(logits_BV)
        least_B1 = ratio * p_BV.max(-1, keepdims=True)
        return jnp.where(p_BV >= least_B1, logits_BV, -jnp.inf)

    return keep


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected more than 0 and at most 1, got {value}")


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
