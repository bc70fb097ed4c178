"""Attention in blocks of rows that skip what the mask hides.

`rows` keeps each block's unnormalised probabilities for the backward pass: the fastest
where they fit. `blockwise` keeps only the logarithm of each row's sum and computes the
scores again, a block of keys at a time (Dao et al. 2022, arXiv 2205.14135; Rabe and
Staats 2021, arXiv 2112.05682): memory grows with L and not with L^2.

Both have the signature of `attention.plain` and equal it, forward and gradient. Their
tokens must be whole rows in order (index 0, 1, ...), because which blocks are skipped
is decided from the mask's own geometry before any array exists.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.masks import Mask, Tokens
from transformer.network.precision import product


class Score(NamedTuple):
    """How scores are made of q k^T: everything that is known before the arrays."""

    mask: Mask
    scale: float
    soft_cap: float | None
    bias: Any
    block: int


class Part(NamedTuple):
    """One block of rows: its queries, the runs of keys it computes, whether each pair
    among them is allowed."""

    start: int
    stop: int
    runs: tuple[tuple[int, int], ...]
    full: bool


def parts(mask: Mask, queries: int, keys: int, block: int) -> list[Part]:
    """The blocks of rows that cover a (queries, keys) matrix under `mask`."""
    blocks = mask.blocks(queries, keys, query_block=block, key_block=block)
    out = []
    for i, computed in enumerate(blocks.computed):
        padded = np.concatenate([[0], computed.astype(np.int8), [0]])
        edges = np.flatnonzero(np.diff(padded)) * block
        ends = zip(edges[::2], edges[1::2], strict=True)
        runs = tuple((int(a), int(min(b, keys))) for a, b in ends)
        full = bool(blocks.full[i][computed].all())
        out.append(Part(i * block, min((i + 1) * block, queries), runs, full))
    return out


def _taken(a: jax.Array, runs: tuple[tuple[int, int], ...]) -> jax.Array:
    """The keys of `runs`, along the second dimension."""
    pieces = [a[:, start:stop] for start, stop in runs]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=1)


def _tokens(tokens: Tokens, runs: tuple[tuple[int, int], ...]) -> Tokens:
    return Tokens(*(_taken(a, runs) for a in tokens))


def _bent(score: Score, raw: jax.Array, queries: Tokens, keys: Tokens) -> jax.Array:
    """Scores from q k^T: scaled, capped, biased; the mask comes after."""
    scores = raw * score.scale
    if score.soft_cap is not None:
        scores = score.soft_cap * jnp.tanh(scores / score.soft_cap)
    if score.bias is not None:
        bias = score.bias(queries, keys)
        groups, repeats = raw.shape[1], raw.shape[3]
        # (B, H, L, M), or one head for all: split heads as the scores are.
        heads = (1, 1) if bias.shape[1] == 1 else (groups, repeats)
        bias = bias.reshape(bias.shape[0], *heads, *bias.shape[2:])
        scores = scores + bias.swapaxes(2, 3)
    return scores


def _hidden(score: Score, scores: jax.Array, queries: Tokens, keys: Tokens):
    allowed = jnp.asarray(score.mask.allowed(queries, keys))[:, None, :, None]
    return jnp.where(allowed, scores, -jnp.inf)


def _raised(score: Score, part: Part, q, k, queries: Tokens, keys: Tokens):
    """exp(score - peak) of a block of rows, float32, and the peak."""
    scores = _bent(score, product("BLGRK,BMGK->BGLRM", q, k), queries, keys)
    if not part.full:
        scores = _hidden(score, scores, queries, keys)
    peak = scores.max(-1, keepdims=True)
    if not part.full:
        peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
    return jnp.exp(scores - peak)


def _summed(a: jax.Array) -> jax.Array:
    """`a.sum(-1)` as a product, which XLA's CPU kernels do ten times faster than a sum
    over so short a dimension."""
    ones = jnp.ones((a.shape[-1], 8), a.dtype)
    return jax.lax.dot_general(a, ones, (((a.ndim - 1,), (0,)), ((), ())))[..., 0]


def _reciprocal(total: jax.Array) -> jax.Array:
    return jnp.where(total == 0.0, 0.0, 1.0 / jnp.where(total == 0.0, 1.0, total))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rows(score: Score, q, k, v, queries: Tokens, keys: Tokens):
    return _rows_forward(score, q, k, v, queries, keys)[0]


def _rows_forward(score: Score, q, k, v, queries: Tokens, keys: Tokens):
    outputs, saved = [], []
    for part in parts(score.mask, q.shape[1], k.shape[1], score.block):
        rows = ((part.start, part.stop),)
        if not part.runs:
            outputs.append(jnp.zeros_like(_taken(q, rows)))
            saved.append(None)
            continue
        raised = _raised(
            score,
            part,
            _taken(q, rows),
            _taken(k, part.runs),
            _tokens(queries, rows),
            _tokens(keys, part.runs),
        ).astype(v.dtype)
        inverse = _reciprocal(raised.sum(-1, dtype=jnp.float32))
        mixed = product("BGLRM,BMGK->BGLRK", raised, _taken(v, part.runs))
        out = (mixed * inverse[..., None]).astype(q.dtype)
        outputs.append(out.swapaxes(1, 2))
        saved.append((raised, inverse))
    out = jnp.concatenate(outputs, axis=1)
    return out, (q, k, v, queries, keys, out, saved)


def _rows_backward(score: Score, kept, slope):
    q, k, v, queries, keys, out, saved = kept
    q_slopes: list[jax.Array] = []
    k_slopes, v_slopes = _Sums(k), _Sums(v)
    all_parts = parts(score.mask, q.shape[1], k.shape[1], score.block)
    for part, block in zip(all_parts, saved, strict=True):
        rows = ((part.start, part.stop),)
        q_part, o_part, do_part = (_taken(a, rows) for a in (q, out, slope))
        if block is None:
            q_slopes.append(jnp.zeros_like(q_part))
            continue
        raised, inverse = block
        k_part, v_part = _taken(k, part.runs), _taken(v, part.runs)
        wide = do_part.astype(jnp.float32) * inverse.swapaxes(1, 2)[..., None]
        along = _summed(wide * o_part).swapaxes(1, 2)[..., None]
        do_part = wide.astype(v.dtype)
        v_slopes.add(part.runs, product("BLGRK,BGLRM->BGKM", do_part, raised))
        p_slope = product("BLGRK,BMGK->BGLRM", do_part, v_part)
        s_slope = raised * (p_slope - along)
        if score.soft_cap is None:
            s_slope = s_slope * score.scale
        else:
            raw = product("BLGRK,BMGK->BGLRM", q_part, k_part)
            bend = 1 - jnp.square(jnp.tanh(raw * (score.scale / score.soft_cap)))
            s_slope = s_slope * bend * score.scale
        s_slope = s_slope.astype(q.dtype)
        q_slope = product("BGLRM,BMGK->BGLRK", s_slope, k_part)
        q_slopes.append(q_slope.astype(q.dtype).swapaxes(1, 2))
        k_slopes.add(part.runs, product("BLGRK,BGLRM->BGKM", q_part, s_slope))
    q_slope = jnp.concatenate(q_slopes, axis=1)
    return q_slope, k_slopes.whole(score.block), v_slopes.whole(score.block), None, None


class _Sums:
    """The slope of keys or values (B, M, G, K), gathered from runs (B, G, K, M)."""

    def __init__(self, like: jax.Array) -> None:
        self.like, self.pieces = like, []

    def add(self, runs: tuple[tuple[int, int], ...], slope: jax.Array) -> None:
        at = 0
        for start, stop in runs:
            self.pieces.append((start, stop, slope[..., at : at + stop - start]))
            at += stop - start

    def whole(self, block: int) -> jax.Array:
        blocks = []
        length = self.like.shape[1]
        for start in range(0, length, block):
            stop = min(start + block, length)
            inside = [
                piece[..., start - first : stop - first]
                for first, last, piece in self.pieces
                if first <= start and stop <= last
            ]
            none = jnp.zeros((), jnp.float32)
            blocks.append(
                sum(inside[1:], inside[0])
                if inside
                else jnp.broadcast_to(none, self._shape(stop - start))
            )
        whole = jnp.concatenate(blocks, axis=-1)
        return whole.transpose(0, 3, 1, 2).astype(self.like.dtype)

    def _shape(self, length: int) -> tuple[int, ...]:
        rows, _, groups, features = self.like.shape
        return rows, groups, features, length


_rows.defvjp(_rows_forward, _rows_backward)


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
) -> jax.Array:
    """`attention.plain` in blocks of `block` rows, keeping the probabilities.

    `bias` must hold no parameters: it gets no gradient here.
    """
    batch, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(batch, length, groups, heads // groups, features)
    score = Score(mask, scale, soft_cap, bias, block)
    return _rows(score, q_BLGRK, k_BMGK, v_BMGK, queries, keys).reshape(q_BLHK.shape)
