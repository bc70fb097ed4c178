"""Causal linear attention: time and memory that grow with L, and a state in place of a
cache (Katharopoulos et al. 2020, arXiv 2006.16236, equations 8 to 12).

The softmax's exp(q k) becomes phi(q) phi(k) with phi(x) = elu(x) + 1, so that sums over
the past are a matrix that grows with no length. Another function than `plain`, which is
no approximation of it: a model is trained with one or the other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from transformer.network import masks
from transformer.network.masks import Mask, Tokens
from transformer.network.precision import product

CAUSAL = masks.causal()


def features(x_BLHK: jax.Array) -> jax.Array:
    """phi: positive, float32."""
    return jax.nn.elu(x_BLHK.astype(jnp.float32)) + 1.0


def quadratic(q_BLHK: jax.Array, k_BMHK: jax.Array, v_BMHK: jax.Array) -> jax.Array:
    """The definition, with the whole L x L matrix: for tests."""
    length = q_BLHK.shape[1]
    shares_BHLM = product("BLHK,BMHK->BHLM", features(q_BLHK), features(k_BMHK))
    shares_BHLM = jnp.where(jnp.tri(length, dtype=bool)[None, None], shares_BHLM, 0.0)
    shares_BHLM = shares_BHLM / shares_BHLM.sum(-1, keepdims=True)
    return jnp.einsum("BHLM,BMHK->BLHK", shares_BHLM, v_BMHK)


def attend(
    q_BLHK: jax.Array,
    k_BLHK: jax.Array,
    v_BLHK: jax.Array,
    *,
    mask: Mask,
    queries: Tokens,
    keys: Tokens,
    scale: float,
    soft_cap: float | None = None,
    bias: Any = None,
    chunk: int = 64,
) -> jax.Array:
    """For the slot of `Attention`, (B, L, H, K): within `chunk` tokens by their matrix,
    beyond by the running state (section 3.3.1 and Hua et al. 2022, arXiv 2202.10447,
    section 3.2).

    ValueError unless the mask is `masks.causal()` alone, over one row's own tokens with
    as many key as query heads, and there is neither soft cap nor bias.
    """
    if mask != CAUSAL or soft_cap is not None or bias is not None:
        raise ValueError(
            f"linear attention: expected the mask causal() without soft cap and bias, "
            f"got {mask!r}, {soft_cap}, {bias}"
        )
    if q_BLHK.shape != k_BLHK.shape:
        raise ValueError(
            f"linear attention: expected keys of the queries' shape {q_BLHK.shape}, "
            f"got {k_BLHK.shape}"
        )
    rows, length, heads, width = q_BLHK.shape
    chunks = -(-length // chunk)
    inputs = features(q_BLHK), features(k_BLHK), v_BLHK.astype(jnp.float32)
    # Chunks in front, for the loop; zeros behind the end are added to nothing.
    edges = ((0, 0), (0, chunks * chunk - length), (0, 0), (0, 0))
    parts = [
        jnp.moveaxis(jnp.pad(a, edges).reshape(rows, chunks, chunk, heads, width), 1, 0)
        for a in inputs
    ]
    earlier_CM = jnp.tri(chunk, dtype=bool)

    def step(state: Any, part: Any) -> Any:
        sum_BHKP, total_BHK = state
        q_BCHK, k_BMHK, v_BMHP = part
        shares_BHCM = jnp.einsum("BCHK,BMHK->BHCM", q_BCHK, k_BMHK)
        shares_BHCM = jnp.where(earlier_CM[None, None], shares_BHCM, 0.0)
        mixed_BCHP = jnp.einsum("BHCM,BMHP->BCHP", shares_BHCM, v_BMHP)
        mixed_BCHP += jnp.einsum("BCHK,BHKP->BCHP", q_BCHK, sum_BHKP)
        weight_BCH = shares_BHCM.sum(-1).swapaxes(1, 2)
        weight_BCH += jnp.einsum("BCHK,BHK->BCH", q_BCHK, total_BHK)
        sum_BHKP = sum_BHKP + jnp.einsum("BMHK,BMHP->BHKP", k_BMHK, v_BMHP)
        y_BCHP = mixed_BCHP / jnp.maximum(weight_BCH, 1e-6)[..., None]
        return (sum_BHKP, total_BHK + k_BMHK.sum(1)), y_BCHP

    empty = (
        jnp.zeros((rows, heads, width, width)),
        jnp.zeros((rows, heads, width)),
    )
    made = jax.lax.scan(jax.checkpoint(step), empty, tuple(parts))[1]
    y_BLHP = jnp.moveaxis(made, 0, 1).reshape(rows, chunks * chunk, heads, width)
    return y_BLHP[:, :length].astype(q_BLHK.dtype)
