"""Attention in blocks of rows that skip what the mask hides, keeping probabilities.

The fastest on a CPU where the probabilities fit in memory; `blockwise` is for longer
sequences. A block's probabilities stay unnormalised, as narrow as the values, and 1 /
their sum is folded into the output: the matrix is passed over as seldom as it can be.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.network import precision
from transformer.network.kernels import scores
from transformer.network.kernels.scores import Part, Runs, Score
from transformer.network.masks import Mask, Tokens
from transformer.network.precision import Product, narrowed

# Of a score that needs no maximum taken away: exp(60) times a million is far from
# float32's largest number, exp(-60) far from its smallest.
LARGEST_SCORE = 60.0


def rows(
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
    block: int = 128,
    product: Product = precision.product,
) -> jax.Array:
    """`attention.plain` in blocks of `block` rows, multiplied by `product`.

    The tokens must be whole rows in order (index 0, 1, ...): which blocks are skipped
    is decided from the mask's geometry before any array exists. `bias` gets no
    gradient, so it must hold no parameters.
    """
    batch, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(batch, length, groups, heads // groups, features)
    score = Score(mask, scale, soft_cap, bias, block, product)
    y_BLGRK: Any = _rows(score, q_BLGRK, k_BMGK, v_BMGK, queries, keys)
    return y_BLGRK.reshape(q_BLHK.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(score: Score, q_BLGRK, k_BMGK, v_BMGK, queries: Tokens, keys: Tokens):
    return _forward(score, q_BLGRK, k_BMGK, v_BMGK, queries, keys)[0]


def _forward(score: Score, q_BLGRK, k_BMGK, v_BMGK, queries: Tokens, keys: Tokens):
    tame = _tame(score, q_BLGRK, k_BMGK)
    blocks, saved = [], []
    for part in scores.parts(score, q_BLGRK.shape[1], k_BMGK.shape[1]):
        q_part_BLGRK = _taken(q_BLGRK, (part.rows,))
        if not part.runs:
            blocks.append(jnp.zeros_like(q_part_BLGRK))
            saved.append(None)
            continue
        v_part_BMGK = _taken(v_BMGK, part.runs)
        raised_BGLRM = _raised(
            score, part, q_part_BLGRK, _taken(k_BMGK, part.runs), queries, keys, tame
        )
        # Of the narrowed numbers, so that the rows sum to 1 as they are used.
        inverse_BGLR = scores.reciprocal(scores.summed(raised_BGLRM))
        mixed_BGLRK = score.product("BGLRM,BMGK->BGLRK", raised_BGLRM, v_part_BMGK)
        y_BGLRK = (mixed_BGLRK * inverse_BGLR[..., None]).astype(q_BLGRK.dtype)
        blocks.append(y_BGLRK.swapaxes(1, 2))
        saved.append((raised_BGLRM, inverse_BGLR))
    y_BLGRK = jnp.concatenate(blocks, axis=1)
    return y_BLGRK, (q_BLGRK, k_BMGK, v_BMGK, queries, keys, y_BLGRK, saved)


def _tame(score: Score, q_BLGRK, k_BMGK) -> jax.Array:
    """Whether no score is so large that exps of them would overflow, or so low that a
    whole row of them would vanish: |q k| <= |q| |k|. A bias is not looked into."""
    if score.bias is not None:
        return jnp.bool_(False)
    longest = [
        scores.summed(jnp.square(x.astype(jnp.float32)).astype(x.dtype)).max()
        for x in (q_BLGRK, k_BMGK)
    ]
    return longest[0] * longest[1] * score.scale**2 < LARGEST_SCORE**2


def _raised(
    score: Score,
    part: Part,
    q_BLGRK,
    k_BMGK,
    queries: Tokens,
    keys: Tokens,
    tame: jax.Array,
) -> jax.Array:
    """exp(score) of a block of rows, up to a factor of each row's own, in their dtype.

    The factor is exp(-the row's maximum), and 1 where scores are tame, which spares
    two passes over the matrix.
    """
    queries = Tokens(*(_taken(a, (part.rows,)) for a in queries))
    keys = Tokens(*(_taken(a, part.runs) for a in keys))
    raw_BGLRM = score.product("BLGRK,BMGK->BGLRM", q_BLGRK, k_BMGK)
    shape = raw_BGLRM.shape

    def seen(raw: jax.Array) -> jax.Array:
        scores_BGLRM = scores.bent(score, raw.reshape(shape), queries, keys)
        if part.full:
            return scores_BGLRM
        return scores.hidden(score, scores_BGLRM, queries, keys)

    def as_they_are(raw: jax.Array) -> jax.Array:
        return narrowed(jnp.exp(seen(raw)), q_BLGRK.dtype)

    def below_the_maximum(raw: jax.Array) -> jax.Array:
        scores_BGLRM = seen(raw)
        peak_BGLRM = scores.finite(scores_BGLRM.max(-1, keepdims=True))
        return narrowed(jnp.exp(scores_BGLRM - peak_BGLRM), q_BLGRK.dtype)

    def the_cheaper(raw: jax.Array, tame: jax.Array) -> jax.Array:
        return jax.lax.cond(tame, as_they_are, below_the_maximum, raw)

    # A dimension of one, as R often is, would make XLA copy what it hands to a branch.
    raw = raw_BGLRM.reshape(*shape[:2], -1, shape[-1])
    # Accelerators pay more for a choice than for the two passes.
    return jax.lax.platform_dependent(
        raw, tame, cpu=the_cheaper, default=lambda raw, _: below_the_maximum(raw)
    )


def _backward(score: Score, kept, slope_BLGRK):
    q_BLGRK, k_BMGK, v_BMGK, _, _, y_BLGRK, saved = kept
    q_slopes = []
    k_slopes: list[tuple[Runs, jax.Array]] = []
    v_slopes: list[tuple[Runs, jax.Array]] = []
    all_parts = scores.parts(score, q_BLGRK.shape[1], k_BMGK.shape[1])
    for part, block in zip(all_parts, saved, strict=True):
        q_part_BLGRK, y_part_BLGRK, slope_part_BLGRK = (
            _taken(a, (part.rows,)) for a in (q_BLGRK, y_BLGRK, slope_BLGRK)
        )
        if block is None:
            q_slopes.append(jnp.zeros_like(q_part_BLGRK))
            continue
        raised_BGLRM, inverse_BGLR = block
        k_part_BMGK, v_part_BMGK = (_taken(a, part.runs) for a in (k_BMGK, v_BMGK))
        inverse_BLGR = inverse_BGLR.swapaxes(1, 2)
        wide_BLGRK = slope_part_BLGRK.astype(jnp.float32) * inverse_BLGR[..., None]
        along_BGLR = scores.summed(wide_BLGRK * y_part_BLGRK).swapaxes(1, 2)
        d_BLGRK = wide_BLGRK.astype(v_BMGK.dtype)
        v_slope_BGKM = score.product("BLGRK,BGLRM->BGKM", d_BLGRK, raised_BGLRM)
        p_slope_BGLRM = score.product("BLGRK,BMGK->BGLRM", d_BLGRK, v_part_BMGK)
        s_slope_BGLRM = scores.unbent(
            score,
            raised_BGLRM * (p_slope_BGLRM - along_BGLR[..., None]),
            q_part_BLGRK.swapaxes(1, 2),
            k_part_BMGK.swapaxes(1, 2),
        )
        s_slope_BGLRM = s_slope_BGLRM.astype(q_BLGRK.dtype)
        q_slope_BGLRK = score.product("BGLRM,BMGK->BGLRK", s_slope_BGLRM, k_part_BMGK)
        k_slope_BGKM = score.product("BLGRK,BGLRM->BGKM", q_part_BLGRK, s_slope_BGLRM)
        q_slopes.append(q_slope_BGLRK.astype(q_BLGRK.dtype).swapaxes(1, 2))
        k_slopes.append((part.runs, k_slope_BGKM))
        v_slopes.append((part.runs, v_slope_BGKM))
    q_slope_BLGRK = jnp.concatenate(q_slopes, axis=1)
    k_slope_BMGK = _gathered(k_slopes, k_BMGK, score.block)
    v_slope_BMGK = _gathered(v_slopes, v_BMGK, score.block)
    return q_slope_BLGRK, k_slope_BMGK, v_slope_BMGK, None, None


_rows.defvjp(_forward, _backward)


def _taken(a: jax.Array, runs: Runs) -> jax.Array:
    """The places of `runs`, along the second dimension."""
    pieces = [a[:, start:stop] for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=1)


def _gathered(slopes: list[tuple[Runs, jax.Array]], like_BMGK: jax.Array, block: int):
    """The slope of keys or values, summed over the blocks of rows that saw them."""
    batch, length, groups, features = like_BMGK.shape
    columns = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        column_BGKM = jnp.zeros((batch, groups, features, stop - start), jnp.float32)
        for runs, slope_BGKM in slopes:
            before = 0
            for first, last in runs:
                if first <= start and stop <= last:
                    at = before + start - first
                    column_BGKM += slope_BGKM[..., at : at + stop - start]
                before += last - first
        columns.append(column_BGKM)
    whole_BGKM = jnp.concatenate(columns, axis=-1)
    return whole_BGKM.transpose(0, 3, 1, 2).astype(like_BMGK.dtype)
