"""Causal linear attention: time and memory linear in L (Katharopoulos et al. 2020,
arXiv 2006.16236, equations 8 to 12).

phi(q) phi(k) with phi(x) = elu(x) + 1 replaces the softmax's exp(q k), so that the sums
over earlier tokens are a state of fixed size. It is another function than softmax
attention, not an approximation: a model is trained with one or the other.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.network import masks
from transformer.network.masks import Mask, TokenPositions
from transformer.network.precision import einsum_f32

CAUSAL = masks.causal()
PACKED = masks.causal() & masks.segments()


def feature_map(x_BLHK: jax.Array) -> jax.Array:
    """phi: positive, float32."""
    return jax.nn.elu(x_BLHK.astype(jnp.float32)) + 1.0


def quadratic_linear_attention(
    q_BLHK: jax.Array,
    k_BMHK: jax.Array,
    v_BMHU: jax.Array,
    *,
    mask: Mask,
    queries: TokenPositions,
    keys: TokenPositions,
) -> jax.Array:
    """The definition with the whole L x M matrix, (B, L, H, U): for cached keys, in any
    order, and for tests."""
    weights_BHLM = einsum_f32(
        "BLHK,BMHK->BHLM", feature_map(q_BLHK), feature_map(k_BMHK)
    )
    allowed_BHLM = jnp.asarray(mask.allowed_pairs(queries, keys))[:, None]
    weights_BHLM = jnp.where(allowed_BHLM, weights_BHLM, 0.0)
    total_BHLM = jnp.maximum(weights_BHLM.sum(-1, keepdims=True), 1e-6)
    y_BLHU = einsum_f32("BHLM,BMHU->BLHU", weights_BHLM / total_BHLM, v_BMHU)
    return y_BLHU.astype(q_BLHK.dtype)


def linear_attention(
    q_BLHK: jax.Array,
    k_BLHK: jax.Array,
    v_BLHU: jax.Array,
    *,
    mask: Mask,
    queries: TokenPositions,
    keys: TokenPositions,
    scale: float,
    chunk: int = 64,
) -> jax.Array:
    """Whole rows in order, (B, L, H, U): the matrix within `chunk` tokens, the running
    state beyond (section 3.3.1 and Hua et al. 2022, arXiv 2202.10447, section 3.2).
    `scale` has no effect on it. The state of a packed row begins anew at a document.

    ValueError unless the mask is `masks.causal()`, alone or with `masks.segments()`,
    and there are as many key heads as query heads.
    """
    if mask not in (CAUSAL, PACKED):
        raise ValueError(
            f"linear attention: expected the mask causal() or causal() & segments(), "
            f"got {mask!r}"
        )
    if q_BLHK.shape != k_BLHK.shape:
        raise ValueError(
            f"linear attention: expected keys of the queries' shape {q_BLHK.shape}, "
            f"got {k_BLHK.shape}"
        )
    rows, length, heads, width = q_BLHK.shape
    chunks = -(-length // chunk)

    def split(a: jax.Array) -> jax.Array:
        # Chunks first, for the scan; zeros after the end add nothing.
        edges = ((0, 0), (0, chunks * chunk - length), *[(0, 0)] * (a.ndim - 2))
        shape = rows, chunks, chunk, *a.shape[2:]
        return jnp.moveaxis(jnp.pad(a, edges).reshape(shape), 1, 0)

    inputs = feature_map(q_BLHK), feature_map(k_BLHK), v_BLHU.astype(jnp.float32)
    segment_BL = jnp.ones((), int) if mask == CAUSAL else queries.segment_BL
    inputs += (jnp.broadcast_to(segment_BL, (rows, length)),)
    earlier_CM = jnp.tri(chunk, dtype=bool)

    def step(state: Any, part: Any) -> Any:
        # Of the document that the chunk before ended in, and its segment.
        sum_BHKU, total_BHK, segment_B = state
        q_BCHK, k_BMHK, v_BMHU, segment_BC = part
        same_BCM = segment_BC[:, :, None] == segment_BC[:, None]
        allowed_BCM = earlier_CM[None] & same_BCM & (segment_BC != 0)[:, None]
        goes_on_BC = (segment_BC == segment_B[:, None]) & (segment_BC != 0)
        weights_BHCM = jnp.einsum("BCHK,BMHK->BHCM", q_BCHK, k_BMHK)
        weights_BHCM = jnp.where(allowed_BCM[:, None], weights_BHCM, 0.0)
        q_BCHK = jnp.where(goes_on_BC[:, :, None, None], q_BCHK, 0.0)
        mixed_BCHU = jnp.einsum("BHCM,BMHU->BCHU", weights_BHCM, v_BMHU)
        mixed_BCHU += jnp.einsum("BCHK,BHKU->BCHU", q_BCHK, sum_BHKU)
        norm_BCH = weights_BHCM.sum(-1).swapaxes(1, 2)
        norm_BCH += jnp.einsum("BCHK,BHK->BCH", q_BCHK, total_BHK)
        last_B = segment_BC[:, -1]
        stays_B = (last_B == segment_B).astype(jnp.float32)
        k_BMHK = jnp.where((segment_BC == last_B[:, None])[..., None, None], k_BMHK, 0)
        sum_BHKU = stays_B[:, None, None, None] * sum_BHKU
        sum_BHKU += jnp.einsum("BMHK,BMHU->BHKU", k_BMHK, v_BMHU)
        total_BHK = stays_B[:, None, None] * total_BHK + k_BMHK.sum(1)
        y_BCHU = mixed_BCHU / jnp.maximum(norm_BCH, 1e-6)[..., None]
        return (sum_BHKU, total_BHK, last_B), y_BCHU

    features = v_BLHU.shape[-1]
    empty = (
        jnp.zeros((rows, heads, width, features)),
        jnp.zeros((rows, heads, width)),
        inputs[-1][:, 0],
    )
    parts = tuple(split(a) for a in inputs)
    chunks_y = jax.lax.scan(jax.checkpoint(step), empty, parts)[1]
    y_BLHU = jnp.moveaxis(chunks_y, 0, 1).reshape(rows, -1, heads, features)
    return y_BLHU[:, :length].astype(q_BLHK.dtype)


class LinearAttention(nn.Module):
    """`linear_attention` as a mixer. Whole rows by chunks; cached keys by the
    definition, which is the same function. It sows no attention weights."""

    chunk: int = 64

    @nn.compact
    def __call__(
        self,
        q_BLHK: jax.Array,
        k_BMHK: jax.Array,
        v_BMHU: jax.Array,
        *,
        mask: Mask,
        queries: TokenPositions,
        keys: TokenPositions,
        scale: float,
        in_order: bool,
    ) -> jax.Array:
        where: dict[str, Any] = {"mask": mask, "queries": queries, "keys": keys}
        if in_order:
            where |= {"scale": scale, "chunk": self.chunk}
            return linear_attention(q_BLHK, k_BMHK, v_BMHU, **where)
        return quadratic_linear_attention(q_BLHK, k_BMHK, v_BMHU, **where)
