"""Attention in blocks of rows that skip masked keys and save the probabilities.

The fastest on a CPU while the probabilities fit in memory; `flash_attention` is for
longer sequences. A block's probabilities stay unnormalized, in the values' dtype, and
1 / their sum is applied to the output: few passes over the matrix.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.network import precision
from transformer.network.kernels import scores
from transformer.network.kernels.scores import RowBlock, Runs, ScoreConfig
from transformer.network.masks import Mask, TokenPositions
from transformer.network.precision import Einsum, to_bfloat16

# Below it the softmax needs no maximum: exp(60) times a million is far from float32's
# largest number, exp(-60) far from its smallest.
MAX_SAFE_SCORE = 60.0


def row_blocked_attention(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    *,
    mask: Mask,
    queries: TokenPositions,
    keys: TokenPositions,
    scale: float,
    soft_cap: float | None = None,
    bias: Any = None,
    block: int = 128,
    einsum: Einsum = precision.einsum_f32,
) -> jax.Array:
    """`attention.dot_product_attention` in blocks of `block` rows; `einsum` computes
    the matrix products.

    The tokens must be whole rows in order (index 0, 1, ...): the mask's geometry
    decides which blocks are skipped before any array exists. `bias` gets no gradient,
    so it must not contain parameters.
    """
    batch, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(batch, length, groups, heads // groups, features)
    config = ScoreConfig(mask, scale, soft_cap, bias, block, einsum)
    y_BLGRK: Any = _row_blocked(config, q_BLGRK, k_BMGK, v_BMGK, queries, keys)
    return y_BLGRK.reshape(batch, length, heads, v_BMGK.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _row_blocked(
    config: ScoreConfig,
    q_BLGRK,
    k_BMGK,
    v_BMGK,
    queries: TokenPositions,
    keys: TokenPositions,
):
    return _forward(config, q_BLGRK, k_BMGK, v_BMGK, queries, keys)[0]


def _forward(
    config: ScoreConfig,
    q_BLGRK,
    k_BMGK,
    v_BMGK,
    queries: TokenPositions,
    keys: TokenPositions,
):
    safe = _scores_are_safe(config, q_BLGRK, k_BMGK)
    blocks, saved = [], []
    for part in scores.row_blocks(config, q_BLGRK.shape[1], k_BMGK.shape[1]):
        q_part_BLGRK = _take(q_BLGRK, (part.rows,))
        if not part.runs:
            shape = *q_part_BLGRK.shape[:-1], v_BMGK.shape[-1]
            blocks.append(jnp.zeros(shape, q_BLGRK.dtype))
            saved.append(None)
            continue
        v_part_BMGK = _take(v_BMGK, part.runs)
        exp_BGLRM = _exp_scores(
            config, part, q_part_BLGRK, _take(k_BMGK, part.runs), queries, keys, safe
        )
        # Sums of the rounded numbers, so that the rows in use sum to 1.
        inverse_BGLR = scores.reciprocal(scores.row_sum(exp_BGLRM))
        mixed_BGLRK = config.einsum("BGLRM,BMGK->BGLRK", exp_BGLRM, v_part_BMGK)
        y_BGLRK = (mixed_BGLRK * inverse_BGLR[..., None]).astype(q_BLGRK.dtype)
        blocks.append(y_BGLRK.swapaxes(1, 2))
        saved.append((exp_BGLRM, inverse_BGLR))
    y_BLGRK = jnp.concatenate(blocks, axis=1)
    return y_BLGRK, (q_BLGRK, k_BMGK, v_BMGK, queries, keys, y_BLGRK, saved)


def _scores_are_safe(config: ScoreConfig, q_BLGRK, k_BMGK) -> jax.Array:
    """Whether no exp(score) can overflow and no row of them can underflow, by
    |q k| <= |q| |k|. False with a bias."""
    if config.bias is not None:
        return jnp.bool_(False)
    longest = [
        scores.row_sum(jnp.square(x.astype(jnp.float32)).astype(x.dtype)).max()
        for x in (q_BLGRK, k_BMGK)
    ]
    return longest[0] * longest[1] * config.scale**2 < MAX_SAFE_SCORE**2


def _exp_scores(
    config: ScoreConfig,
    part: RowBlock,
    q_BLGRK,
    k_BMGK,
    queries: TokenPositions,
    keys: TokenPositions,
    safe: jax.Array,
) -> jax.Array:
    """exp(score) of a block of rows up to a factor per row, in the queries' dtype.

    The factor is exp(-maximum of the row), or 1 where scores are safe, which saves two
    passes over the matrix.
    """
    queries = TokenPositions(*(_take(a, (part.rows,)) for a in queries))
    keys = TokenPositions(*(_take(a, part.runs) for a in keys))
    raw_BGLRM = config.einsum("BLGRK,BMGK->BGLRM", q_BLGRK, k_BMGK)
    shape = raw_BGLRM.shape

    def masked_scores(raw: jax.Array) -> jax.Array:
        scores_BGLRM = scores.scale_cap_bias(config, raw.reshape(shape), queries, keys)
        if part.full:
            return scores_BGLRM
        return scores.apply_mask(config, scores_BGLRM, queries, keys)

    def exp(raw: jax.Array) -> jax.Array:
        return to_bfloat16(jnp.exp(masked_scores(raw)), q_BLGRK.dtype)

    def exp_minus_max(raw: jax.Array) -> jax.Array:
        scores_BGLRM = masked_scores(raw)
        max_BGLRM = scores.finite_max(scores_BGLRM.max(-1, keepdims=True))
        return to_bfloat16(jnp.exp(scores_BGLRM - max_BGLRM), q_BLGRK.dtype)

    def exp_if_safe(raw: jax.Array, safe: jax.Array) -> jax.Array:
        return jax.lax.cond(safe, exp, exp_minus_max, raw)

    # XLA copies the operand of a branch if it has a dimension of one, as R often is.
    raw = raw_BGLRM.reshape(*shape[:2], -1, shape[-1])
    # On accelerators the branch costs more than the two passes.
    return jax.lax.platform_dependent(
        raw, safe, cpu=exp_if_safe, default=lambda raw, _: exp_minus_max(raw)
    )


def _backward(config: ScoreConfig, residuals, grad_BLGRK):
    q_BLGRK, k_BMGK, v_BMGK, _, _, y_BLGRK, saved = residuals
    q_grads = []
    k_grads: list[tuple[Runs, jax.Array]] = []
    v_grads: list[tuple[Runs, jax.Array]] = []
    all_parts = scores.row_blocks(config, q_BLGRK.shape[1], k_BMGK.shape[1])
    for part, block in zip(all_parts, saved, strict=True):
        q_part_BLGRK, y_part_BLGRK, grad_part_BLGRK = (
            _take(a, (part.rows,)) for a in (q_BLGRK, y_BLGRK, grad_BLGRK)
        )
        if block is None:
            q_grads.append(jnp.zeros_like(q_part_BLGRK))
            continue
        exp_BGLRM, inverse_BGLR = block
        k_part_BMGK, v_part_BMGK = (_take(a, part.runs) for a in (k_BMGK, v_BMGK))
        inverse_BLGR = inverse_BGLR.swapaxes(1, 2)
        wide_BLGRK = grad_part_BLGRK.astype(jnp.float32) * inverse_BLGR[..., None]
        dot_BGLR = scores.row_sum(wide_BLGRK * y_part_BLGRK).swapaxes(1, 2)
        d_BLGRK = wide_BLGRK.astype(v_BMGK.dtype)
        v_grad_BGKM = config.einsum("BLGRK,BGLRM->BGKM", d_BLGRK, exp_BGLRM)
        p_grad_BGLRM = config.einsum("BLGRK,BMGK->BGLRM", d_BLGRK, v_part_BMGK)
        s_grad_BGLRM = scores.scale_cap_bias_vjp(
            config,
            exp_BGLRM * (p_grad_BGLRM - dot_BGLR[..., None]),
            q_part_BLGRK.swapaxes(1, 2),
            k_part_BMGK.swapaxes(1, 2),
        )
        s_grad_BGLRM = s_grad_BGLRM.astype(q_BLGRK.dtype)
        q_grad_BGLRK = config.einsum("BGLRM,BMGK->BGLRK", s_grad_BGLRM, k_part_BMGK)
        k_grad_BGKM = config.einsum("BLGRK,BGLRM->BGKM", q_part_BLGRK, s_grad_BGLRM)
        q_grads.append(q_grad_BGLRK.astype(q_BLGRK.dtype).swapaxes(1, 2))
        k_grads.append((part.runs, k_grad_BGKM))
        v_grads.append((part.runs, v_grad_BGKM))
    q_grad_BLGRK = jnp.concatenate(q_grads, axis=1)
    k_grad_BMGK = _sum_columns(k_grads, k_BMGK, config.block)
    v_grad_BMGK = _sum_columns(v_grads, v_BMGK, config.block)
    return q_grad_BLGRK, k_grad_BMGK, v_grad_BMGK, None, None


_row_blocked.defvjp(_forward, _backward)


def _take(a: jax.Array, runs: Runs) -> jax.Array:
    """The slices `runs` of the second dimension, concatenated."""
    pieces = [a[:, start:stop] for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=1)


def _sum_columns(grads: list[tuple[Runs, jax.Array]], like_BMGK: jax.Array, block: int):
    """The gradient of keys or values, summed over the blocks of rows that use them."""
    batch, length, groups, features = like_BMGK.shape
    columns = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        column_BGKM = jnp.zeros((batch, groups, features, stop - start), jnp.float32)
        for runs, grad_BGKM in grads:
            before = 0
            for first, last in runs:
                if first <= start and stop <= last:
                    at = before + start - first
                    column_BGKM += grad_BGKM[..., at : at + stop - start]
                before += last - first
        columns.append(column_BGKM)
    whole_BGKM = jnp.concatenate(columns, axis=-1)
    return whole_BGKM.transpose(0, 3, 1, 2).astype(like_BMGK.dtype)
