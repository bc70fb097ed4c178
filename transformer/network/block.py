"""The residual block, with its two slots: attention mixes tokens, the MLP transforms
each (Turner's figure 3: the transformer block)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from transformer.axes import constrain
from transformer.network.attention import Cache
from transformer.network.masks import Tokens
from transformer.network.norms import LayerNorm

Make = Callable[[], nn.Module]


class Residual(NamedTuple):
    """How a sublayer y(x) joins the stream: before(norm, x) is its input,
    after(norm, x, y) the stream behind it."""

    before: Callable[[Any, jax.Array], jax.Array]
    after: Callable[[Any, jax.Array, jax.Array], jax.Array]


# Normalise what the sublayer reads; the stream itself stays a plain sum (GPT-2).
pre_norm = Residual(
    before=lambda norm, x_BLD: norm(x_BLD),
    after=lambda norm, x_BLD, y_BLD: x_BLD + y_BLD,
)

# Normalise the sum (Vaswani et al. 2017).
post_norm = Residual(
    before=lambda norm, x_BLD: x_BLD,
    after=lambda norm, x_BLD, y_BLD: norm(x_BLD + y_BLD),
)


class Block(nn.Module):
    """x -> x + attention -> x + MLP, normalised as `residual` says.

    The slots are functions that make modules, so that a stack can make one a layer.
    """

    make_attention: Make
    make_mlp: Make
    make_norm: Make = LayerNorm
    residual: Residual = pre_norm

    def setup(self) -> None:
        self.attention = self.make_attention()
        self.attention_norm = self.make_norm()
        self.mlp = self.make_mlp()
        self.mlp_norm = self.make_norm()

    def __call__(self, x_BLD: jax.Array, tokens: Tokens) -> jax.Array:
        """(B, L, D) to the same, whole rows."""
        before, after = self.residual
        y_BLD = self.attention(before(self.attention_norm, x_BLD), tokens)
        x_BLD = constrain(after(self.attention_norm, x_BLD, y_BLD), "BLD")
        return self._transformed(x_BLD)

    def extend(
        self, x_BLD: jax.Array, cache: Cache, tokens: Tokens
    ) -> tuple[jax.Array, Cache]:
        """The next tokens of each row, and the cache with them in it."""
        before, after = self.residual
        h_BLD = before(self.attention_norm, x_BLD)
        y_BLD, cache = self.attention.extend(h_BLD, cache, tokens)
        return self._transformed(after(self.attention_norm, x_BLD, y_BLD)), cache

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Cache:
        return self.make_attention().empty_cache(*arguments)

    def _transformed(self, x_BLD: jax.Array) -> jax.Array:
        before, after = self.residual
        y_BLD = self.mlp(before(self.mlp_norm, x_BLD))
        return constrain(after(self.mlp_norm, x_BLD, y_BLD), "BLD")
