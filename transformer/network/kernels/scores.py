"""Scores and block lists shared by the attention kernels.

Query heads are G groups of R, H = G R. A block's scores are BGLRM, the order in which
the libraries' matrix products write queries times keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network import precision
from transformer.network.masks import Mask, TokenPositions
from transformer.network.precision import Einsum

Runs = tuple[tuple[int, int], ...]


class ScoreConfig(NamedTuple):
    """How scores follow from q k^T: the static arguments of a kernel."""

    mask: Mask
    scale: float
    soft_cap: float | None
    bias: Any
    block: int
    einsum: Einsum = precision.einsum_f32


class RowBlock(NamedTuple):
    """One block of query rows, the runs of keys that it computes, and whether the mask
    allows every pair in them."""

    rows: tuple[int, int]
    runs: Runs
    full: bool


def row_blocks(config: ScoreConfig, queries: int, keys: int) -> list[RowBlock]:
    """The blocks of rows that cover a (queries, keys) score matrix."""
    block = config.block
    blocks = config.mask.blocks(queries, keys, query_block=block, key_block=block)
    out = []
    for i, computed in enumerate(blocks.computed):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], computed, [0]]))) * block
        ends = zip(edges[::2], edges[1::2], strict=True)
        runs = tuple((int(start), int(min(stop, keys))) for start, stop in ends)
        rows = i * block, min((i + 1) * block, queries)
        out.append(RowBlock(rows, runs, bool(blocks.full[i][computed].all())))
    return out


def scale_cap_bias(
    config: ScoreConfig,
    raw_BGLRM: jax.Array,
    queries: TokenPositions,
    keys: TokenPositions,
):
    """Scores from q k^T: scaled, capped, biased; `apply_mask` comes after."""
    scores_BGLRM = raw_BGLRM * config.scale
    if config.soft_cap is not None:
        scores_BGLRM = config.soft_cap * jnp.tanh(scores_BGLRM / config.soft_cap)
    if config.bias is not None:
        bias_BHLM = config.bias(queries, keys)
        rows, heads, length, keys_seen = bias_BHLM.shape
        groups, repeats = raw_BGLRM.shape[1], raw_BGLRM.shape[3]
        split = (groups, repeats) if heads > 1 else (1, 1)
        bias_BGRLM = bias_BHLM.reshape(rows, *split, length, keys_seen)
        scores_BGLRM = scores_BGLRM + bias_BGRLM.swapaxes(2, 3)
    return scores_BGLRM


def scale_cap_bias_vjp(
    config: ScoreConfig, grad_BGLRM: jax.Array, q_BGLRK: jax.Array, k_BGMK: jax.Array
) -> jax.Array:
    """The gradient of q k^T from that of the scores."""
    if config.soft_cap is not None:
        raw_BGLRM = config.einsum("BGLRK,BGMK->BGLRM", q_BGLRK, k_BGMK)
        tanh_BGLRM = jnp.tanh(raw_BGLRM * (config.scale / config.soft_cap))
        grad_BGLRM = grad_BGLRM * (1 - jnp.square(tanh_BGLRM))
    return grad_BGLRM * config.scale


def apply_mask(
    config: ScoreConfig,
    scores_BGLRM: jax.Array,
    queries: TokenPositions,
    keys: TokenPositions,
):
    """The scores, -inf at pairs that the mask excludes."""
    allowed_BLM = jnp.asarray(config.mask.allowed_pairs(queries, keys))
    return jnp.where(allowed_BLM[:, None, :, None], scores_BGLRM, -jnp.inf)


def reciprocal(total: jax.Array) -> jax.Array:
    """1 / total, and 0 where total is 0: a row without an allowed key."""
    return jnp.where(total == 0.0, 0.0, 1.0 / jnp.where(total == 0.0, 1.0, total))


def finite_max(row_max: jax.Array) -> jax.Array:
    """A row's maximum, 0 where all keys are masked: -inf minus -inf would be NaN."""
    return jnp.where(jnp.isfinite(row_max), row_max, 0.0)


def row_sum(a: jax.Array) -> jax.Array:
    """`a.sum(-1)` in float32 as a matrix product: ten times as fast in XLA's CPU
    kernels as a sum over so short a dimension."""
    ones = jnp.ones((a.shape[-1], 8), a.dtype)
    wide = jnp.matmul(a, ones, precision="highest", preferred_element_type=jnp.float32)
    return wide[..., 0]
