"""What attention remembers of tokens it has read: their keys and values."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.network.masks import Tokens


class Memory(NamedTuple):
    """What is attended to: features x_BMD, and where each of their tokens stands."""

    x_BMD: jax.Array
    tokens: Tokens


class Cache(NamedTuple):
    """Keys and values of the tokens so far, and where each stands; slot = index modulo
    the number of slots. Empty slots are segment 0. Heads come before slots, so that a
    head's keys lie together in memory when one query reads them all."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array
    index_BM: jax.Array
    position_BM: jax.Array
    segment_BM: jax.Array

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.index_BM, self.position_BM, self.segment_BM)


def stored(cache: Cache, k_BLGK: jax.Array, v_BLGK: jax.Array, new: Tokens) -> Cache:
    """`cache` with the new tokens' keys and values; padding is not stored."""
    rows, length, groups, _ = k_BLGK.shape
    slots = cache.k_BGMK.shape[2]
    index_BL, position_BL, segment_BL = (
        jnp.broadcast_to(a, (rows, length)) for a in new
    )
    # Out of range for padding: mode="drop" leaves those slots as they were, so padding
    # cannot push an older token out of a rolling cache.
    slot_BL = jnp.where(segment_BL == 0, slots, index_BL % slots)
    row_BL = jnp.broadcast_to(jnp.arange(rows)[:, None], (rows, length))

    def heads(old_BGMK: jax.Array, new_BLGK: jax.Array) -> jax.Array:
        at = row_BL[:, :, None], jnp.arange(groups)[None, None], slot_BL[:, :, None]
        return _put(old_BGMK, at, new_BLGK)

    def places(old_BM: jax.Array, new_BL: jax.Array) -> jax.Array:
        return old_BM.at[row_BL, slot_BL].set(new_BL, mode="drop")

    return Cache(
        heads(cache.k_BGMK, k_BLGK),
        heads(cache.v_BGMK, v_BLGK),
        places(cache.index_BM, index_BL),
        places(cache.position_BM, position_BL),
        places(cache.segment_BM, segment_BL),
    )


def _put(old: jax.Array, at: Any, new: jax.Array) -> jax.Array:
    """`old` with `new` at the places `at`, but for those that are out of range."""
    new = new.astype(old.dtype)
    if old.dtype != jnp.bfloat16:
        return old.at[at].set(new, mode="drop")
    # As integers: XLA on a CPU would widen all of `old` to put one token into it.
    integers = _put(old.view(jnp.uint16), at, new.view(jnp.uint16))
    return integers.view(jnp.bfloat16)


def filled(k_BMGK: jax.Array, v_BMGK: jax.Array, tokens: Tokens) -> Cache:
    """A cache of exactly these keys and values."""
    places = (jnp.broadcast_to(a, k_BMGK.shape[:2]) for a in tokens)
    return Cache(k_BMGK.swapaxes(1, 2), v_BMGK.swapaxes(1, 2), *places)
