"""The cache of keys and values of earlier tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.network.masks import TokenPositions, indices


class Memory(NamedTuple):
    """The sequence that cross-attention attends to: features x_BMD and positions."""

    x_BMD: jax.Array
    tokens: TokenPositions


class KVCache(NamedTuple):
    """Keys and values of earlier tokens with their positions; slot = index modulo the
    number of slots. Empty slots have segment 0. Heads come before slots, so that the
    keys of a head are contiguous in memory."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array
    index_BM: jax.Array
    position_BM: jax.Array
    segment_BM: jax.Array

    @property
    def tokens(self) -> TokenPositions:
        return TokenPositions(self.index_BM, self.position_BM, self.segment_BM)


def update_cache(
    cache: KVCache, k_BLGK: jax.Array, v_BLGK: jax.Array, new: TokenPositions
) -> KVCache:
    """`cache` with the new tokens' keys and values written; padding is not written."""
    rows, length, groups, _ = k_BLGK.shape
    slots = cache.k_BGMK.shape[2]
    # Padding has a slot out of range, which mode="drop" ignores: padding cannot push an
    # older token out of a rolling cache.
    slot_BL = jnp.where(new.segment_BL == 0, slots, new.index_BL % slots)
    slot_BL, index_BL, position_BL, segment_BL = (
        jnp.broadcast_to(a, (rows, length)) for a in (slot_BL, *new)
    )
    row_BL = jnp.broadcast_to(indices(rows)[:, None], (rows, length))

    def write_heads(old_BGMK: jax.Array, new_BLGK: jax.Array) -> jax.Array:
        at = row_BL[:, :, None], jnp.arange(groups)[None, None], slot_BL[:, :, None]
        return _write(old_BGMK, at, new_BLGK)

    def write_positions(old_BM: jax.Array, new_BL: jax.Array) -> jax.Array:
        return old_BM.at[row_BL, slot_BL].set(new_BL, mode="drop")

    return KVCache(
        write_heads(cache.k_BGMK, k_BLGK),
        write_heads(cache.v_BGMK, v_BLGK),
        write_positions(cache.index_BM, index_BL),
        write_positions(cache.position_BM, position_BL),
        write_positions(cache.segment_BM, segment_BL),
    )


def _write(old: jax.Array, at: Any, new: jax.Array) -> jax.Array:
    """`old` with `new` at the indices `at`; indices out of range are ignored."""
    new = new.astype(old.dtype)
    if old.dtype != jnp.bfloat16:
        return old.at[at].set(new, mode="drop")
    # As integers: XLA on a CPU would convert all of `old` to float32 to write one
    # token.
    integers = _write(old.view(jnp.uint16), at, new.view(jnp.uint16))
    return integers.view(jnp.bfloat16)


def cache_of(k_BMGK: jax.Array, v_BMGK: jax.Array, tokens: TokenPositions) -> KVCache:
    """A cache of exactly these keys and values, full."""
    positions = (jnp.broadcast_to(a, k_BMGK.shape[:2]) for a in tokens)
    return KVCache(k_BMGK.swapaxes(1, 2), v_BMGK.swapaxes(1, 2), *positions)
