"""Residual blocks: attention mixes tokens, the MLP transforms each token (Turner's
figure 3, the transformer block)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from transformer.axes import constrain
from transformer.network.kv_cache import KVCache, Memory
from transformer.network.masks import TokenPositions
from transformer.network.norms import LayerNorm

Make = Callable[[], nn.Module]


class Conditioning(NamedTuple):
    """Inputs of a block besides its own tokens; most blocks use none.

    memory: another sequence, for cross-attention. condition_BLJ: input of the adaptive
    norms, such as the embedding of a diffusion time; L = 1 broadcasts over all tokens.
    """

    memory: Memory | None = None
    condition_BLJ: jax.Array | None = None


UNCONDITIONED = Conditioning()


class ResidualOrder(NamedTuple):
    """How a sublayer y(x) joins the residual stream: pre(norm, x, conditioning) is the
    sublayer's input, post(norm, x, y, conditioning) the new stream."""

    pre: Callable[[Any, jax.Array, Conditioning], jax.Array]
    post: Callable[[Any, jax.Array, jax.Array, Conditioning], jax.Array]


# Normalize the sublayer's input; the stream itself is a plain sum (GPT-2).
pre_norm = ResidualOrder(
    pre=lambda norm, x_BLD, conditioning: norm(x_BLD),
    post=lambda norm, x_BLD, y_BLD, conditioning: x_BLD + y_BLD,
)

# Normalize the sum (Vaswani et al. 2017).
post_norm = ResidualOrder(
    pre=lambda norm, x_BLD, conditioning: x_BLD,
    post=lambda norm, x_BLD, y_BLD, conditioning: norm(x_BLD + y_BLD),
)

# pre_norm whose gain, bias and output gate are functions of the condition: adaLN-Zero
# (Peebles and Xie 2022, arXiv 2212.09748, section 3.2). Needs `norms.AdaLNZero`.
adaln_zero = ResidualOrder(
    pre=lambda norm, x_BLD, conditioning: norm(x_BLD, conditioning.condition_BLJ),
    post=lambda norm, x_BLD, y_BLD, conditioning: (
        x_BLD + norm.gate(conditioning.condition_BLJ) * y_BLD
    ),
)


# Normalize the sublayer's input and output (Gemma 2, arXiv 2408.00118), or scale its
# output (LayerScale). Needs `norms.SandwichNorm` or `norms.ScaledNorm`.
sandwich_norm = ResidualOrder(
    pre=lambda norm, x_BLD, conditioning: norm(x_BLD),
    post=lambda norm, x_BLD, y_BLD, conditioning: x_BLD + norm.after(y_BLD),
)

# Normalize the sublayer's output (OLMo 2, arXiv 2501.00656).
output_norm = ResidualOrder(
    pre=lambda norm, x_BLD, conditioning: x_BLD,
    post=lambda norm, x_BLD, y_BLD, conditioning: x_BLD + norm(y_BLD),
)


def residual_sublayer(
    residual: ResidualOrder,
    norm: Any,
    x_BLD: jax.Array,
    sublayer: Callable[[jax.Array], jax.Array],
    *,
    conditioning: Conditioning,
) -> jax.Array:
    """The residual stream after `sublayer`, (B, L, D)."""
    y_BLD = sublayer(residual.pre(norm, x_BLD, conditioning))
    return constrain(residual.post(norm, x_BLD, y_BLD, conditioning), "BLD")


class Block(nn.Module):
    """x -> x + attention -> x + MLP, normalized in the order `residual`.

    The slots are functions without arguments that make modules: a stack makes one per
    layer. make_attention_norm: where it differs from the MLP's, as in the first layer
    of ModernBERT, which has none.
    """

    make_attention: Make
    make_mlp: Make
    make_norm: Make = LayerNorm
    residual: ResidualOrder = pre_norm
    make_attention_norm: Make | None = None

    def setup(self) -> None:
        self.attention = self.make_attention()
        self.attention_norm = (self.make_attention_norm or self.make_norm)()
        self.mlp = self.make_mlp()
        self.mlp_norm = self.make_norm()

    def __call__(
        self,
        x_BLD: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """(B, L, D) to (B, L, D), for whole rows."""

        def attention(h_BLD: jax.Array) -> jax.Array:
            return self.attention(h_BLD, tokens)

        add = partial(residual_sublayer, self.residual, conditioning=conditioning)
        x_BLD = add(self.attention_norm, x_BLD, attention)
        return add(self.mlp_norm, x_BLD, self.mlp)

    def decode(
        self,
        x_BLD: jax.Array,
        cache: Any,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> tuple[jax.Array, Any]:
        """The next tokens of each row; returns their features and the new cache."""
        pre, post = self.residual
        h_BLD = pre(self.attention_norm, x_BLD, conditioning)
        y_BLD, cache = self.attention.decode(h_BLD, cache, tokens)
        x_BLD = post(self.attention_norm, x_BLD, y_BLD, conditioning)
        add = partial(residual_sublayer, self.residual, conditioning=conditioning)
        return add(self.mlp_norm, x_BLD, self.mlp), cache

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Any:
        """As `Attention.empty_cache`."""
        return self.make_attention().empty_cache(*arguments)


class ParallelBlock(Block):
    """x -> x + attention(norm(x)) + MLP(norm(x)), side by side (GPT-J; GPT-NeoX, Black
    et al. 2022, arXiv 2204.06745, section 2.1). `residual` is not used."""

    def __call__(
        self,
        x_BLD: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """(B, L, D) to (B, L, D), for whole rows."""
        y_BLD = self.attention(self.attention_norm(x_BLD), tokens)
        return constrain(x_BLD + y_BLD + self.mlp(self.mlp_norm(x_BLD)), "BLD")

    def decode(
        self,
        x_BLD: jax.Array,
        cache: Any,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> tuple[jax.Array, Any]:
        """As `Block.decode`."""
        h_BLD = self.attention_norm(x_BLD)
        y_BLD, cache = self.attention.decode(h_BLD, cache, tokens)
        x_BLD = x_BLD + y_BLD + self.mlp(self.mlp_norm(x_BLD))
        return constrain(x_BLD, "BLD"), cache


class DecoderCache(NamedTuple):
    """Caches of a decoder block: of the row's earlier tokens, and of the memory."""

    self_attention: KVCache
    cross_attention: KVCache


def join_caches(self_attention: Any, memory: Any) -> Any:
    """A `DecoderCache` per layer, or per block that is scanned, from a stack's
    `empty_cache` and its `cache_memory`."""
    if isinstance(self_attention, list):
        pairs = zip(self_attention, memory, strict=True)
        return [join_caches(*pair) for pair in pairs]
    return DecoderCache(self_attention, memory)


def self_caches(caches: Any) -> Any:
    """The self-attention part of `join_caches`' result."""
    if isinstance(caches, list):
        return [self_caches(cache) for cache in caches]
    return caches.self_attention


class DecoderBlock(nn.Module):
    """x -> x + attention -> x + cross-attention to the memory -> x + MLP (Vaswani et
    al. 2017, figure 1, right). The mask of `make_cross_attention` selects the memory's
    tokens, such as `masks.padding()`."""

    make_attention: Make
    make_cross_attention: Make
    make_mlp: Make
    make_norm: Make = LayerNorm
    residual: ResidualOrder = pre_norm

    def setup(self) -> None:
        self.attention = self.make_attention()
        self.attention_norm = self.make_norm()
        self.cross_attention = self.make_cross_attention()
        self.cross_attention_norm = self.make_norm()
        self.mlp = self.make_mlp()
        self.mlp_norm = self.make_norm()

    def __call__(
        self,
        x_BLD: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """(B, L, D) to (B, L, D), for whole rows; queries `conditioning.memory`."""
        memory = conditioning.memory
        if memory is None:
            raise ValueError("DecoderBlock: expected conditioning.memory, got None")

        def attention(h_BLD: jax.Array) -> jax.Array:
            return self.attention(h_BLD, tokens)

        def cross_attention(h_BLD: jax.Array) -> jax.Array:
            return self.cross_attention.cross_attend(h_BLD, tokens, memory)

        add = partial(residual_sublayer, self.residual, conditioning=conditioning)
        x_BLD = add(self.attention_norm, x_BLD, attention)
        x_BLD = add(self.cross_attention_norm, x_BLD, cross_attention)
        return add(self.mlp_norm, x_BLD, self.mlp)

    def decode(
        self,
        x_BLD: jax.Array,
        cache: DecoderCache,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> tuple[jax.Array, DecoderCache]:
        """As `Block.decode`; cross-attention uses `cache.cross_attention`."""
        pre, post = self.residual

        def cross_attention(h_BLD: jax.Array) -> jax.Array:
            return self.cross_attention.attend_cached(
                h_BLD, tokens, cache.cross_attention
            )

        add = partial(residual_sublayer, self.residual, conditioning=conditioning)
        h_BLD = pre(self.attention_norm, x_BLD, conditioning)
        y_BLD, self_attention = self.attention.decode(
            h_BLD, cache.self_attention, tokens
        )
        x_BLD = post(self.attention_norm, x_BLD, y_BLD, conditioning)
        x_BLD = add(self.cross_attention_norm, x_BLD, cross_attention)
        return add(self.mlp_norm, x_BLD, self.mlp), cache._replace(
            self_attention=self_attention
        )

    def cache_memory(self, memory: Memory) -> KVCache:
        """Keys and values of the memory, computed once for all decoding steps."""
        return self.cross_attention.cache_memory(memory)

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> KVCache:
        """The self-attention cache; `join_caches` adds the result of `cache_memory`."""
        return self.make_attention().empty_cache(*arguments)
