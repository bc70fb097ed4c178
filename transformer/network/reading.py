"""The block of a decoder that reads: between its two slots, cross-attention."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from transformer.network.block import NOTHING, Given, Make, Residual, joined, pre_norm
from transformer.network.kv_cache import Cache, Memory
from transformer.network.masks import Tokens
from transformer.network.norms import LayerNorm


class ReadingCache(NamedTuple):
    """What a reading block remembers: of its own row, and of the memory."""

    own: Cache
    memory: Cache


def caches(own: Any, remembered: Any) -> Any:
    """The caches of a stack of blocks that read, out of its `empty_cache` and what it
    remembers of a memory: for each layer, or for all scanned ones at once."""
    if isinstance(own, list):
        return [ReadingCache(*pair) for pair in zip(own, remembered, strict=True)]
    return ReadingCache(own, remembered)


def own(caches: Any) -> Any:
    """What `caches` was made of, without what is remembered of the memory."""
    return [c.own for c in caches] if isinstance(caches, list) else caches.own


class ReadingBlock(nn.Module):
    """x -> x + attention -> x + cross-attention to the memory -> x + MLP (Vaswani et
    al. 2017, figure 1, right). The slot `make_reading` is an `Attention` whose mask
    says which tokens of the memory may be read, such as `masks.padding()`."""

    make_attention: Make
    make_reading: Make
    make_mlp: Make
    make_norm: Make = LayerNorm
    residual: Residual = pre_norm

    def setup(self) -> None:
        self.attention = self.make_attention()
        self.attention_norm = self.make_norm()
        self.reading = self.make_reading()
        self.reading_norm = self.make_norm()
        self.mlp = self.make_mlp()
        self.mlp_norm = self.make_norm()

    def __call__(
        self, x_BLD: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        """(B, L, D) to the same, whole rows that read `given.memory`."""
        memory = _memory(given)

        def attended(h_BLD: jax.Array) -> jax.Array:
            return self.attention(h_BLD, tokens)

        def read(h_BLD: jax.Array) -> jax.Array:
            return self.reading.read(h_BLD, tokens, memory)

        join = partial(joined, self.residual, given=given)
        x_BLD = join(self.attention_norm, x_BLD, attended)
        x_BLD = join(self.reading_norm, x_BLD, read)
        return join(self.mlp_norm, x_BLD, self.mlp)

    def extend(
        self,
        x_BLD: jax.Array,
        cache: ReadingCache,
        tokens: Tokens,
        given: Given = NOTHING,
    ) -> tuple[jax.Array, ReadingCache]:
        """The next tokens of each row, which read what the cache remembers."""
        before, after = self.residual

        def recalled(h_BLD: jax.Array) -> jax.Array:
            return self.reading.recall(h_BLD, tokens, cache.memory)

        join = partial(joined, self.residual, given=given)
        h_BLD = before(self.attention_norm, x_BLD, given)
        y_BLD, own = self.attention.extend(h_BLD, cache.own, tokens)
        x_BLD = after(self.attention_norm, x_BLD, y_BLD, given)
        x_BLD = join(self.reading_norm, x_BLD, recalled)
        return join(self.mlp_norm, x_BLD, self.mlp), cache._replace(own=own)

    def remember(self, memory: Memory) -> Cache:
        """The memory's keys and values."""
        return self.reading.remember(memory)

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Cache:
        """Of the row's own tokens; `caches` adds what `remember` gives."""
        return self.make_attention().empty_cache(*arguments)


def _memory(given: Given) -> Memory:
    if given.memory is None:
        raise ValueError("a reading block: expected given.memory, got none")
    return given.memory
