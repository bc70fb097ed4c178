"""Splash attention: JAX's Pallas kernel for TPUs, from the same mask value.

It computes one block of scores at a time and skips the blocks that the mask excludes,
forward and backward (`jax.experimental.pallas.ops.tpu.splash_attention`). The geometry
of a mask (causal, windows, patterns) is known when the program is compiled; documents
and padding become its segment numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from operator import and_
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as splash_masks,
)
from jax.sharding import PartitionSpec

from transformer import axes
from transformer.network import masks, precision
from transformer.network.masks import Mask, TokenPositions

# Of a block: the lanes of a TPU's vector registers.
LANES = 128
# Before the number of blocks of a head that a call computes, in its name: the count of
# its products (`training/flops.py`) needs it.
BLOCKS = "computed_blocks_"
# Segment numbers of queries and of keys that are padding: they meet nothing.
NO_QUERY, NO_KEY = -1, -2


def reason_against(mask: Mask, *, bias: Any = None) -> str:
    """Why the kernel cannot compute attention under `mask`; empty where it can."""
    if bias is not None:
        return "a bias of the scores"
    parts = masks.conjuncts(mask)
    if any(_sees_segments(part) for part in parts if part not in _BY_SEGMENTS):
        return f"documents or padding within an alternative, in {mask}"
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    if sizes.get("context", 1) > 1:
        return "positions divided over the mesh axis context"
    return ""


def splash_attention(
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
    block: int = 512,
    interpret: bool = False,
) -> jax.Array:
    """`attention.dot_product_attention` by the kernel, in blocks of at most `block` x
    `block` scores; rows over data and heads over tensor of the mesh that is set.

    The tokens must be whole rows in order (index 0, 1, ...), and each query that is not
    padding must see a key. interpret: without a TPU. ValueError for what
    `reason_against` names.
    """
    reason = reason_against(mask, bias=bias)
    if reason:
        raise ValueError(f"splash_attention: expected a mask of its kind, got {reason}")
    length, heads = q_BLHK.shape[1:3]
    geometry, segments = _divide(mask, q_BLHK.shape[0], queries, keys)
    block = min(block, -(-max(length, k_BMGK.shape[1]) // LANES) * LANES)
    kernel = partial(_attend, geometry, soft_cap, block, interpret)
    q_BHLK = (q_BLHK * scale).astype(q_BLHK.dtype).swapaxes(1, 2)
    arrays = q_BHLK, k_BMGK.swapaxes(1, 2), v_BMGK.swapaxes(1, 2), *segments
    y_BHLK = _over_mesh(kernel, arrays, heads, k_BMGK.shape[2])
    seen_BL = segments[0] != NO_QUERY
    return jnp.where(seen_BL[:, :, None, None], y_BHLK.swapaxes(1, 2), 0)


_BY_SEGMENTS = (masks.segments(), masks.padding())


def _sees_segments(mask: Mask) -> bool:
    return mask.one_segment() != mask


def _divide(
    mask: Mask, rows: int, queries: TokenPositions, keys: TokenPositions
) -> tuple[Mask, tuple[jax.Array, jax.Array]]:
    """The mask of one document, and the segment numbers of queries and keys."""
    parts = masks.conjuncts(mask)
    geometry = [part for part in parts if part not in _BY_SEGMENTS]
    q_BL, k_BM = (
        jnp.broadcast_to(a.segment_BL, (rows, a.segment_BL.shape[1]))
        for a in (queries, keys)
    )
    by_document, by_padding = (part in parts for part in _BY_SEGMENTS)
    if by_document:
        q_BL = jnp.where(q_BL == 0, NO_QUERY, q_BL)
        k_BM = jnp.where(k_BM == 0, NO_KEY, k_BM)
    else:
        q_BL = jnp.ones_like(q_BL)
        k_BM = jnp.where((k_BM == 0) & by_padding, NO_KEY, 1)
    return reduce(and_, geometry, masks.full()), (q_BL, k_BM)


def _over_mesh(
    kernel: Any, arrays: tuple[jax.Array, ...], heads: int, groups: int
) -> jax.Array:
    """`kernel(*arrays)` on each device's rows and heads: a Pallas call is opaque to the
    partitioner, which would gather them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel(*arrays)
    spec = axes.activation_spec(arrays[0].shape, "BHLK")
    rows, by_head = spec[0], spec[1]
    if by_head is not None and axes.activation_spec(arrays[1].shape, "BGMK")[1] is None:
        by_head = None  # Groups that do not divide go to all devices, with their heads.
    divided = PartitionSpec(rows, by_head)
    specs = divided, divided, divided, PartitionSpec(rows), PartitionSpec(rows)
    over = jax.shard_map(kernel, in_specs=specs, out_specs=divided, check_vma=False)
    return over(*arrays)


def _attend(
    geometry: Mask,
    soft_cap: float | None,
    block: int,
    interpret: bool,
    q_BHLK: jax.Array,
    k_BGMK: jax.Array,
    v_BGMK: jax.Array,
    q_segment_BL: jax.Array,
    k_segment_BM: jax.Array,
) -> jax.Array:
    """Attention of the rows and heads of one device."""
    length = q_BHLK.shape[2]
    q_BHLK, k_BGMK, v_BGMK = (_pad(a, 2, block, 0) for a in (q_BHLK, k_BGMK, v_BGMK))
    q_segment_BL = _pad(q_segment_BL, 1, block, NO_QUERY)
    k_segment_BM = _pad(k_segment_BM, 1, block, NO_KEY)
    shape = q_BHLK.shape[2], k_BGMK.shape[2]
    each = splash_masks.MultiHeadMask([_splash_mask(geometry, shape)] * q_BHLK.shape[1])
    kernel = splash.make_splash_mha(
        each,
        block_sizes=_blocks(block),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        residual_checkpoint_name=precision.ATTENTION,
        interpret=interpret,
    )
    segments = splash.SegmentIds(q_segment_BL, k_segment_BM)  # pyright: ignore
    computed = geometry.blocks(*shape, query_block=block, key_block=block).computed
    with jax.named_scope(f"{BLOCKS}{np.count_nonzero(computed)}"):
        y_BHLK: Any = jax.vmap(lambda q, k, v, ids: kernel(q, k, v, segment_ids=ids))(
            q_BHLK, k_BGMK, v_BGMK, segments
        )
    return y_BHLK[:, :, :length]


def _pad(a: jax.Array, dimension: int, block: int, value: int) -> jax.Array:
    widths = [(0, 0)] * a.ndim
    widths[dimension] = 0, -a.shape[dimension] % block
    return jnp.pad(a, widths, constant_values=value)


def _blocks(block: int) -> splash.BlockSizes:
    names = "block_q block_kv block_q_dkv block_kv_dkv block_q_dq block_kv_dq"
    sizes: Any = dict.fromkeys(names.split(), block)
    return splash.BlockSizes(**sizes)


def _splash_mask(geometry: Mask, shape: tuple[int, int]) -> splash_masks.Mask:
    """The mask in the kernel's own classes where it can compute it, else block by
    block from the rule."""
    parts = {part.rule: part for part in masks.conjuncts(geometry)}
    causal, window = parts.get(masks.causal().rule), parts.get(masks.window(0).rule)
    known = len(parts) - (causal is not None) - (window is not None)
    if geometry == masks.full():
        return splash_masks.FullMask(shape)
    if known == 0 and window is None:
        return splash_masks.CausalMask(shape)
    if known == 0 and window is not None:
        before, after = window.arguments
        return splash_masks.LocalMask(shape, (before, 0 if causal else after), 0)
    return _RuleMask(geometry, shape)


@dataclass(frozen=True)
class _RuleMask(splash_masks.Mask):
    mask: Mask
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    def __getitem__(self, idx: Any) -> np.ndarray:
        rows, columns = (
            range(*part.indices(n)) for part, n in zip(idx, self.size, strict=True)
        )
        return self.mask.pairs(rows, columns)
