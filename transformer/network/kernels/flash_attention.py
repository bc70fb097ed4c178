"""Flash attention: one block of scores at a time, in memory linear in L.

The backward pass saves the logarithm of each row's sum and recomputes the scores (Rabe
and Staats 2021, arXiv 2112.05682; Dao et al. 2022, arXiv 2205.14135). One loop over the
blocks that the mask does not exclude: masked blocks cost nothing, and the program is as
short for a million tokens as for a thousand.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from transformer.network import precision
from transformer.network.kernels import scores
from transformer.network.kernels.scores import ScoreConfig
from transformer.network.masks import Mask, TokenPositions
from transformer.network.precision import einsum_f32


def flash_attention(
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
    block: int = 256,
) -> jax.Array:
    """`attention.dot_product_attention` in blocks of `block` x `block` scores.

    Conditions as for `row_blocked_attention`: whole rows in order, no parameters in
    `bias`.
    """
    batch, length, heads, features = q_BLHK.shape
    groups = k_BMGK.shape[2]
    q_BLGRK = q_BLHK.reshape(batch, length, groups, heads // groups, features)
    config = ScoreConfig(mask, scale, soft_cap, bias, block)
    y_BGLRK: Any = _flash_attention(
        config,
        _pad(q_BLGRK.swapaxes(1, 2), 2, block),
        _pad(k_BMGK.swapaxes(1, 2), 2, block),
        _pad(v_BMGK.swapaxes(1, 2), 2, block),
        TokenPositions(*(_pad(a, 1, block) for a in queries)),
        TokenPositions(*(_pad(a, 1, block) for a in keys)),
        (length, k_BMGK.shape[1]),
    )
    y_BLGRK = y_BGLRK[:, :, :length].swapaxes(1, 2)
    return y_BLGRK.reshape(batch, length, heads, v_BMGK.shape[-1])


def _pad(a: jax.Array, dimension: int, block: int) -> jax.Array:
    widths = [(0, 0)] * a.ndim
    widths[dimension] = 0, -a.shape[dimension] % block
    return jnp.pad(a, widths)


class _Running(NamedTuple):
    """Running sums of a row: of weighted values and of weights, relative to the running
    maximum score."""

    y_BGLRK: jax.Array
    total_BGLR: jax.Array
    max_BGLR: jax.Array


def _block_pairs(config: ScoreConfig, size: tuple[int, int]) -> tuple[jax.Array, ...]:
    """The (block of rows, block of keys) pairs to compute, row by row."""
    block = config.block
    computed = config.mask.blocks(*size, query_block=block, key_block=block).computed
    return tuple(jnp.asarray(index, jnp.int32) for index in np.nonzero(computed))


def _block_of(a: jax.Array, i: jax.Array, block: int, dimension: int = 2) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(a, i * block, block, dimension)


def _set_block(a: jax.Array, part: jax.Array, i: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(a, part, i * block, 2)


def _scores(config: ScoreConfig, q_BGLRK, k_BGMK, queries, keys, i, j, size):
    """Masked scores of block (i, j)."""
    block = config.block
    queries = TokenPositions(*(_block_of(a, i, block, 1) for a in queries))
    keys = TokenPositions(*(_block_of(a, j, block, 1) for a in keys))
    raw_BGLRM = einsum_f32("BGLRK,BGMK->BGLRM", q_BGLRK, k_BGMK)
    scores_BGLRM = scores.scale_cap_bias(config, raw_BGLRM, queries, keys)
    scores_BGLRM = scores.apply_mask(config, scores_BGLRM, queries, keys)
    real_M = j * block + jnp.arange(block) < size[1]
    return jnp.where(real_M[None, None, None, None], scores_BGLRM, -jnp.inf)


@partial(jax.custom_vjp, nondiff_argnums=(0, 6))
def _flash_attention(config, q_BGLRK, k_BGMK, v_BGMK, queries, keys, size):
    return _forward(config, q_BGLRK, k_BGMK, v_BGMK, queries, keys, size)[0]


def _forward(config, q_BGLRK, k_BGMK, v_BGMK, queries, keys, size):
    block = config.block

    def add(running: _Running, pair):
        i, j = pair
        q_part_BGLRK, k_part_BGMK = (
            _block_of(q_BGLRK, i, block),
            _block_of(k_BGMK, j, block),
        )
        scores_BGLRM = _scores(
            config, q_part_BGLRK, k_part_BGMK, queries, keys, i, j, size
        )
        y_BGLRK, total_BGLR, old_BGLR = (_block_of(a, i, block) for a in running)
        max_BGLR = jnp.maximum(old_BGLR, scores_BGLRM.max(-1))
        shift_BGLR = scores.finite_max(max_BGLR)
        rescale_BGLR = jnp.exp(old_BGLR - shift_BGLR)
        exp_BGLRM = jnp.exp(scores_BGLRM - shift_BGLR[..., None])
        mixed_BGLRK = einsum_f32(
            "BGLRM,BGMK->BGLRK",
            exp_BGLRM.astype(v_BGMK.dtype),
            _block_of(v_BGMK, j, block),
        )
        new = _Running(
            y_BGLRK * rescale_BGLR[..., None] + mixed_BGLRK,
            total_BGLR * rescale_BGLR + exp_BGLRM.sum(-1),
            max_BGLR,
        )
        put = (
            _set_block(a, part, i, block) for a, part in zip(running, new, strict=True)
        )
        return _Running(*put), None

    flat = q_BGLRK.shape[:-1]
    start = _Running(
        jnp.zeros((*flat, v_BGMK.shape[-1]), jnp.float32),
        jnp.zeros(flat, jnp.float32),
        jnp.full(flat, -jnp.inf, jnp.float32),
    )
    running, _ = jax.lax.scan(add, start, _block_pairs(config, size))
    inverse_BGLR = scores.reciprocal(running.total_BGLR)
    y_BGLRK = (running.y_BGLRK * inverse_BGLR[..., None]).astype(q_BGLRK.dtype)
    # Log of the sum; +inf for a row without allowed keys, whose weights are exp(-inf).
    log_total_BGLR = jnp.where(
        running.total_BGLR == 0.0,
        jnp.inf,
        scores.finite_max(running.max_BGLR) + jnp.log(running.total_BGLR),
    )
    y_BGLRK, log_total_BGLR = (
        checkpoint_name(a, precision.ATTENTION) for a in (y_BGLRK, log_total_BGLR)
    )
    residuals = q_BGLRK, k_BGMK, v_BGMK, queries, keys, y_BGLRK, log_total_BGLR
    return y_BGLRK, residuals


def _backward(config, size, residuals, grad_BGLRK):
    q_BGLRK, k_BGMK, v_BGMK, queries, keys, y_BGLRK, log_total_BGLR = residuals
    block = config.block
    dot_BGLR = (grad_BGLRK.astype(jnp.float32) * y_BGLRK).sum(-1)

    def add(grads, pair):
        i, j = pair
        q_grad_BGLRK, k_grad_BGMK, v_grad_BGMK = grads
        q_part_BGLRK, d_BGLRK, total_BGLR, dot_part_BGLR = (
            _block_of(a, i, block)
            for a in (q_BGLRK, grad_BGLRK, log_total_BGLR, dot_BGLR)
        )
        k_part_BGMK, v_part_BGMK = (_block_of(a, j, block) for a in (k_BGMK, v_BGMK))
        scores_BGLRM = _scores(
            config, q_part_BGLRK, k_part_BGMK, queries, keys, i, j, size
        )
        weights_BGLRM = jnp.exp(scores_BGLRM - total_BGLR[..., None])
        p_grad_BGLRM = einsum_f32("BGLRK,BGMK->BGLRM", d_BGLRK, v_part_BGMK)
        s_grad_BGLRM = scores.scale_cap_bias_vjp(
            config,
            weights_BGLRM * (p_grad_BGLRM - dot_part_BGLR[..., None]),
            q_part_BGLRK,
            k_part_BGMK,
        ).astype(q_BGLRK.dtype)
        narrow_BGLRM = weights_BGLRM.astype(v_BGMK.dtype)
        q_add = einsum_f32("BGLRM,BGMK->BGLRK", s_grad_BGLRM, k_part_BGMK)
        k_add = einsum_f32("BGLRM,BGLRK->BGMK", s_grad_BGLRM, q_part_BGLRK)
        v_add = einsum_f32("BGLRM,BGLRK->BGMK", narrow_BGLRM, d_BGLRK)
        return (
            _set_block(
                q_grad_BGLRK, _block_of(q_grad_BGLRK, i, block) + q_add, i, block
            ),
            _set_block(k_grad_BGMK, _block_of(k_grad_BGMK, j, block) + k_add, j, block),
            _set_block(v_grad_BGMK, _block_of(v_grad_BGMK, j, block) + v_add, j, block),
        ), None

    inputs = q_BGLRK, k_BGMK, v_BGMK
    start = tuple(jnp.zeros(a.shape, jnp.float32) for a in inputs)
    grads, _ = jax.lax.scan(add, start, _block_pairs(config, size))
    narrow = (grad.astype(a.dtype) for grad, a in zip(grads, inputs, strict=True))
    return *narrow, None, None


_flash_attention.defvjp(_forward, _backward)
