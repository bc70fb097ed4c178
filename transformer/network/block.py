"""The residual block, with its two slots: attention mixes tokens, the MLP transforms
each (Turner's figure 3: the transformer block)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from transformer.axes import constrain
from transformer.network.kv_cache import Cache, Memory
from transformer.network.masks import Tokens
from transformer.network.norms import LayerNorm

Make = Callable[[], nn.Module]


class Given(NamedTuple):
    """What a block may look at beside its own tokens; most look at nothing.

    memory: another sequence, for cross-attention. condition_BLJ: what adaptive norms
    follow, such as the time of a diffusion; L is 1 where it is one for all tokens.
    """

    memory: Memory | None = None
    condition_BLJ: jax.Array | None = None


NOTHING = Given()


class Residual(NamedTuple):
    """How a sublayer y(x) joins the stream: before(norm, x, given) is its input,
    after(norm, x, y, given) the stream behind it."""

    before: Callable[[Any, jax.Array, Given], jax.Array]
    after: Callable[[Any, jax.Array, jax.Array, Given], jax.Array]


# Normalise what the sublayer reads; the stream itself stays a plain sum (GPT-2).
pre_norm = Residual(
    before=lambda norm, x_BLD, given: norm(x_BLD),
    after=lambda norm, x_BLD, y_BLD, given: x_BLD + y_BLD,
)

# Normalise the sum (Vaswani et al. 2017).
post_norm = Residual(
    before=lambda norm, x_BLD, given: x_BLD,
    after=lambda norm, x_BLD, y_BLD, given: norm(x_BLD + y_BLD),
)

# As pre_norm, with gain, bias and a gate on the sublayer's result that follow the
# condition: adaLN-Zero (Peebles and Xie 2022, arXiv 2212.09748, section 3.2). The norm
# is a `norms.GatedAdaptiveNorm`.
adaptive = Residual(
    before=lambda norm, x_BLD, given: norm(x_BLD, given.condition_BLJ),
    after=lambda norm, x_BLD, y_BLD, given: (
        x_BLD + norm.gate(given.condition_BLJ) * y_BLD
    ),
)


def joined(
    residual: Residual,
    norm: Any,
    x_BLD: jax.Array,
    sublayer: Callable[[jax.Array], jax.Array],
    *,
    given: Given,
) -> jax.Array:
    """The stream behind `sublayer`."""
    y_BLD = sublayer(residual.before(norm, x_BLD, given))
    return constrain(residual.after(norm, x_BLD, y_BLD, given), "BLD")


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

    def __call__(
        self, x_BLD: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        """(B, L, D) to the same, whole rows."""

        def attended(h_BLD: jax.Array) -> jax.Array:
            return self.attention(h_BLD, tokens)

        join = partial(joined, self.residual, given=given)
        x_BLD = join(self.attention_norm, x_BLD, attended)
        return join(self.mlp_norm, x_BLD, self.mlp)

    def extend(
        self, x_BLD: jax.Array, cache: Cache, tokens: Tokens, given: Given = NOTHING
    ) -> tuple[jax.Array, Cache]:
        """The next tokens of each row, and the cache with them in it."""
        before, after = self.residual
        h_BLD = before(self.attention_norm, x_BLD, given)
        y_BLD, cache = self.attention.extend(h_BLD, cache, tokens)
        x_BLD = after(self.attention_norm, x_BLD, y_BLD, given)
        return joined(self.residual, self.mlp_norm, x_BLD, self.mlp, given=given), cache

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Cache:
        return self.make_attention().empty_cache(*arguments)
