"""Attention a block of scores at a time, in memory that grows with L and not L^2.

Only the logarithm of each row's sum is kept for the backward pass, which computes the
scores again (Rabe and Staats 2021, arXiv 2112.05682; Dao et al. 2022, arXiv
2205.14135). One loop over the blocks that the mask leaves, so that what is hidden costs
nothing and the program is as short for a million tokens as for a thousand.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.kernels import scores
from transformer.network.kernels.scores import Score
from transformer.network.masks import Mask, Tokens
from transformer.network.precision import product


def blockwise(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: Tokens,
    keys: Tokens,
    scale: float,
    soft_cap: float | None = None,
    bias: Any = None,
    block: int = 256,
) -> jax.Array:
    """`attention.plain` by blocks of `block` x `block` scores.

    Conditions as for `attention.rows`: whole rows in order, no parameters in `bias`.
    """
    batch, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(batch, length, groups, heads // groups, features)
    score = Score(mask, scale, soft_cap, bias, block)
    y_BGLRK: Any = _blockwise(
        score,
        _padded(q_BLGRK.swapaxes(1, 2), 2, block),
        _padded(k_BMGK.swapaxes(1, 2), 2, block),
        _padded(v_BMGK.swapaxes(1, 2), 2, block),
        Tokens(*(_padded(a, 1, block) for a in queries)),
        Tokens(*(_padded(a, 1, block) for a in keys)),
        (length, k_BMGK.shape[1]),
    )
    return y_BGLRK[:, :, :length].swapaxes(1, 2).reshape(q_BLHK.shape)


def _padded(a: jax.Array, dimension: int, block: int) -> jax.Array:
    widths = [(0, 0)] * a.ndim
    widths[dimension] = 0, -a.shape[dimension] % block
    return jnp.pad(a, widths)


class _Running(NamedTuple):
    """A row's mixture so far: of values, the sum of their shares, the maximum score."""

    y_BGLRK: jax.Array
    total_BGLR: jax.Array
    peak_BGLR: jax.Array


def _pairs(score: Score, size: tuple[int, int]) -> tuple[jax.Array, ...]:
    """Which (block of rows, block of keys) are computed, row by row."""
    block = score.block
    found = score.mask.blocks(*size, query_block=block, key_block=block).computed
    return tuple(jnp.asarray(index, jnp.int32) for index in np.nonzero(found))


def _cut(a: jax.Array, i: jax.Array, block: int, dimension: int = 2) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(a, i * block, block, dimension)


def _put(a: jax.Array, part: jax.Array, i: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(a, part, i * block, 2)


def _scores(score: Score, q_BGLRK, k_BGMK, queries, keys, i, j, size):
    """Masked scores of block (i, j), from the whole arrays' blocks."""
    block = score.block
    queries = Tokens(*(_cut(a, i, block, 1) for a in queries))
    keys = Tokens(*(_cut(a, j, block, 1) for a in keys))
    raw_BGLRM = product("BGLRK,BGMK->BGLRM", q_BGLRK, k_BGMK)
    scores_BGLRM = scores.bent(score, raw_BGLRM, queries, keys)
    scores_BGLRM = scores.hidden(score, scores_BGLRM, queries, keys)
    real_M = j * block + jnp.arange(block) < size[1]
    return jnp.where(real_M[None, None, None, None], scores_BGLRM, -jnp.inf)


@partial(jax.custom_vjp, nondiff_argnums=(0, 6))
def _blockwise(score, q_BGLRK, k_BGMK, v_BGMK, queries, keys, size):
    return _forward(score, q_BGLRK, k_BGMK, v_BGMK, queries, keys, size)[0]


def _forward(score, q_BGLRK, k_BGMK, v_BGMK, queries, keys, size):
    block = score.block

    def add(running: _Running, pair):
        i, j = pair
        q_part_BGLRK, k_part_BGMK = _cut(q_BGLRK, i, block), _cut(k_BGMK, j, block)
        scores_BGLRM = _scores(
            score, q_part_BGLRK, k_part_BGMK, queries, keys, i, j, size
        )
        y_BGLRK, total_BGLR, old_BGLR = (_cut(a, i, block) for a in running)
        peak_BGLR = jnp.maximum(old_BGLR, scores_BGLRM.max(-1))
        safe_BGLR = scores.finite(peak_BGLR)
        shrink_BGLR = jnp.exp(old_BGLR - safe_BGLR)
        raised_BGLRM = jnp.exp(scores_BGLRM - safe_BGLR[..., None])
        mixed_BGLRK = product(
            "BGLRM,BGMK->BGLRK",
            raised_BGLRM.astype(v_BGMK.dtype),
            _cut(v_BGMK, j, block),
        )
        new = _Running(
            y_BGLRK * shrink_BGLR[..., None] + mixed_BGLRK,
            total_BGLR * shrink_BGLR + raised_BGLRM.sum(-1),
            peak_BGLR,
        )
        put = (_put(a, part, i, block) for a, part in zip(running, new, strict=True))
        return _Running(*put), None

    flat = q_BGLRK.shape[:-1]
    start = _Running(
        jnp.zeros(q_BGLRK.shape, jnp.float32),
        jnp.zeros(flat, jnp.float32),
        jnp.full(flat, -jnp.inf, jnp.float32),
    )
    running, _ = jax.lax.scan(add, start, _pairs(score, size))
    inverse_BGLR = scores.reciprocal(running.total_BGLR)
    y_BGLRK = (running.y_BGLRK * inverse_BGLR[..., None]).astype(q_BGLRK.dtype)
    # Log of the sum; +inf for a row with nothing, whose every share is then exp(-inf).
    log_total_BGLR = jnp.where(
        running.total_BGLR == 0.0,
        jnp.inf,
        scores.finite(running.peak_BGLR) + jnp.log(running.total_BGLR),
    )
    kept = q_BGLRK, k_BGMK, v_BGMK, queries, keys, y_BGLRK, log_total_BGLR
    return y_BGLRK, kept


def _backward(score, size, kept, slope_BGLRK):
    q_BGLRK, k_BGMK, v_BGMK, queries, keys, y_BGLRK, log_total_BGLR = kept
    block = score.block
    along_BGLR = (slope_BGLRK.astype(jnp.float32) * y_BGLRK).sum(-1)

    def add(slopes, pair):
        i, j = pair
        q_slope_BGLRK, k_slope_BGMK, v_slope_BGMK = slopes
        q_part_BGLRK, d_BGLRK, total_BGLR, level_BGLR = (
            _cut(a, i, block)
            for a in (q_BGLRK, slope_BGLRK, log_total_BGLR, along_BGLR)
        )
        k_part_BGMK, v_part_BGMK = (_cut(a, j, block) for a in (k_BGMK, v_BGMK))
        scores_BGLRM = _scores(
            score, q_part_BGLRK, k_part_BGMK, queries, keys, i, j, size
        )
        share_BGLRM = jnp.exp(scores_BGLRM - total_BGLR[..., None])
        p_slope_BGLRM = product("BGLRK,BGMK->BGLRM", d_BGLRK, v_part_BGMK)
        s_slope_BGLRM = scores.unbent(
            score,
            share_BGLRM * (p_slope_BGLRM - level_BGLR[..., None]),
            q_part_BGLRK,
            k_part_BGMK,
        ).astype(q_BGLRK.dtype)
        narrow_BGLRM = share_BGLRM.astype(v_BGMK.dtype)
        q_add = product("BGLRM,BGMK->BGLRK", s_slope_BGLRM, k_part_BGMK)
        k_add = product("BGLRM,BGLRK->BGMK", s_slope_BGLRM, q_part_BGLRK)
        v_add = product("BGLRM,BGLRK->BGMK", narrow_BGLRM, d_BGLRK)
        return (
            _put(q_slope_BGLRK, _cut(q_slope_BGLRK, i, block) + q_add, i, block),
            _put(k_slope_BGMK, _cut(k_slope_BGMK, j, block) + k_add, j, block),
            _put(v_slope_BGMK, _cut(v_slope_BGMK, j, block) + v_add, j, block),
        ), None

    inputs = q_BGLRK, k_BGMK, v_BGMK
    start = tuple(jnp.zeros(a.shape, jnp.float32) for a in inputs)
    slopes, _ = jax.lax.scan(add, start, _pairs(score, size))
    narrow = (slope.astype(a.dtype) for slope, a in zip(slopes, inputs, strict=True))
    return *narrow, None, None


_blockwise.defvjp(_forward, _backward)
