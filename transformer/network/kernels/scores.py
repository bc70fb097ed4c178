"""What the fast attentions share: scores of a block, and which blocks there are.

Heads are seen as G groups of R queries, H = G R, and a block's scores lie as BGLRM, the
order in which the product of queries and keys comes out of the machine's kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network import precision
from transformer.network.masks import Mask, Tokens
from transformer.network.precision import Product

Runs = tuple[tuple[int, int], ...]


class Score(NamedTuple):
    """How scores are made of q k^T: everything that is known before the arrays."""

    mask: Mask
    scale: float
    soft_cap: float | None
    bias: Any
    block: int
    product: Product = precision.product


class Part(NamedTuple):
    """One block of rows, the runs of keys that it computes, and whether the mask allows
    every pair of them."""

    rows: tuple[int, int]
    runs: Runs
    full: bool


def parts(score: Score, queries: int, keys: int) -> list[Part]:
    """The blocks of rows that cover a (queries, keys) matrix of scores."""
    block = score.block
    blocks = score.mask.blocks(queries, keys, query_block=block, key_block=block)
    out = []
    for i, computed in enumerate(blocks.computed):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], computed, [0]]))) * block
        ends = zip(edges[::2], edges[1::2], strict=True)
        runs = tuple((int(start), int(min(stop, keys))) for start, stop in ends)
        rows = i * block, min((i + 1) * block, queries)
        out.append(Part(rows, runs, bool(blocks.full[i][computed].all())))
    return out


def bent(score: Score, raw_BGLRM: jax.Array, queries: Tokens, keys: Tokens):
    """Scores from q k^T: scaled, capped, biased; the mask comes after."""
    scores_BGLRM = raw_BGLRM * score.scale
    if score.soft_cap is not None:
        scores_BGLRM = score.soft_cap * jnp.tanh(scores_BGLRM / score.soft_cap)
    if score.bias is not None:
        bias_BHLM = score.bias(queries, keys)
        rows, heads, length, seen = bias_BHLM.shape
        groups, repeats = raw_BGLRM.shape[1], raw_BGLRM.shape[3]
        split = (groups, repeats) if heads > 1 else (1, 1)
        bias_BGRLM = bias_BHLM.reshape(rows, *split, length, seen)
        scores_BGLRM = scores_BGLRM + bias_BGRLM.swapaxes(2, 3)
    return scores_BGLRM


def unbent(
    score: Score, slope_BGLRM: jax.Array, q_BGLRK: jax.Array, k_BGMK: jax.Array
) -> jax.Array:
    """The slope of q k^T from that of the scores."""
    if score.soft_cap is not None:
        raw_BGLRM = score.product("BGLRK,BGMK->BGLRM", q_BGLRK, k_BGMK)
        bend_BGLRM = jnp.tanh(raw_BGLRM * (score.scale / score.soft_cap))
        slope_BGLRM = slope_BGLRM * (1 - jnp.square(bend_BGLRM))
    return slope_BGLRM * score.scale


def hidden(score: Score, scores_BGLRM: jax.Array, queries: Tokens, keys: Tokens):
    """The scores, -inf where the mask does not allow the pair."""
    allowed_BLM = jnp.asarray(score.mask.allowed(queries, keys))
    return jnp.where(allowed_BLM[:, None, :, None], scores_BGLRM, -jnp.inf)


def reciprocal(total: jax.Array) -> jax.Array:
    """1 / total, and 0 where total is 0: a row that may attend to nothing is 0."""
    return jnp.where(total == 0.0, 0.0, 1.0 / jnp.where(total == 0.0, 1.0, total))


def finite(peak: jax.Array) -> jax.Array:
    """A row's maximum, 0 where everything is hidden: -inf less -inf would be NaN."""
    return jnp.where(jnp.isfinite(peak), peak, 0.0)


def summed(a: jax.Array) -> jax.Array:
    """`a.sum(-1)` in float32, as a product: XLA's CPU kernels do that ten times faster
    than a sum over so short a dimension."""
    ones = jnp.ones((a.shape[-1], 8), a.dtype)
    wide = jnp.matmul(a, ones, precision="highest", preferred_element_type=jnp.float32)
    return wide[..., 0]
