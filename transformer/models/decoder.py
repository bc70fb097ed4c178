"""The decoder language model: embed -> blocks -> norm -> readout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, dimensions, leaf_name, whole
from transformer.network import norms, positions
from transformer.network.block import NOTHING, Given
from transformer.network.kv_cache import Memory
from transformer.network.masks import Mask, Tokens, row
from transformer.network.precision import product

Make = Callable[[], nn.Module]
Readout = tuple[jax.Array, jax.Array]


def tied(module: nn.Module, embedding_VD: jax.Array) -> jax.Array:
    """The unembedding is the embedding (Press and Wolf 2016, arXiv 1608.05859)."""
    return embedding_VD


def untied(module: nn.Module, embedding_VD: jax.Array) -> jax.Array:
    """The unembedding is a parameter of its own, zero at first: every token equally
    likely, loss log V exactly."""
    return module.param("unembedding_VD", nn.initializers.zeros, embedding_VD.shape)


def logits(readout: Readout) -> jax.Array:
    """float32 (B, L, V) from the pair that a model returns."""
    x_BLD, w_VD = readout
    return constrain(product("BLD,VD->BLV", x_BLD, w_VD), "BLV")


class Decoder(nn.Module):
    """Next-token model over V symbols, of any stack with `__call__` and `extend`.

    It returns the pair (features x_BLD, unembedding w_VD) and not their product, so
    that a loss over a large vocabulary need not hold it whole; `logits` multiplies.
    """

    vocabulary: int
    width: int
    make_stack: Make
    make_position: Make = positions.Absent
    make_norm: Make = norms.LayerNorm
    make_embedding_norm: Make = norms.Absent
    unembed: Callable[[nn.Module, jax.Array], jax.Array] = tied
    weight_init: nn.initializers.Initializer = nn.initializers.normal(0.02)

    def setup(self) -> None:
        shape = self.vocabulary, self.width
        self.embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        self.unembedding_VD = self.unembed(self, self.embedding_VD)
        self.position = self.make_position()
        self.embedding_norm = self.make_embedding_norm()
        self.stack = self.make_stack()
        self.final_norm = self.make_norm()

    def __call__(
        self, ids_BL: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> Readout:
        """Features of whole rows: ids (B, L) int32, where their tokens stand, and what
        the blocks may look at beside them."""
        x_BLD = self.stack(self._embedded(ids_BL, tokens), tokens, given)
        return self.final_norm(x_BLD), self.unembedding_VD

    def extend(
        self, ids_BL: jax.Array, cache: Any, tokens: Tokens
    ) -> tuple[Readout, Any]:
        """Features of the next tokens of each row, and the cache with them in it."""
        x_BLD, cache = self.stack.extend(self._embedded(ids_BL, tokens), cache, tokens)
        return (self.final_norm(x_BLD), self.unembedding_VD), cache

    @nn.nowrap
    def empty_cache(self, rows: int, length: int, chunk: int, dtype: Any) -> Any:
        """Caches of every layer for `rows` rows of up to `length` tokens, extended by
        at most `chunk` at a time. Needs no parameters."""
        return self.make_stack().empty_cache(rows, length, chunk, dtype)

    def remember(self, memory: Memory) -> Any:
        """What the layers of a stack that reads remember of the memory."""
        return self.stack.remember(memory)

    def _embedded(self, ids_BL: jax.Array, tokens: Tokens) -> jax.Array:
        x_BLD = constrain(whole(self.embedding_VD)[ids_BL], "BLD")
        x_BLD = self.embedding_norm(self.position(x_BLD, tokens.position_BL))
        return constrain(x_BLD, "BLD")


def initial(model: nn.Module, key: jax.Array) -> Any:
    """The parameters of a language model, a nested dictionary of float32 arrays."""
    return model.init(key, jnp.zeros((1, 1), jnp.int32), row(1))["params"]


def training_flops(
    params: Any, *, mask: Mask, length: int, heads: int, head_features: int, depth: int
) -> float:
    """Floating-point operations of one row's forward and backward pass.

    Six a weight and token for the products (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1; the embedding counts once, as the readout), twelve a head feature and
    allowed query-key pair for the attention matrix and its mixture.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = [(leaf_name(path), leaf) for path, leaf in leaves]
    untied_readout = any(name == "unembedding_VD" for name, _ in named)
    weights = sum(
        leaf.size
        for name, leaf in named
        if name.startswith(("w_", "unembedding_"))
        or (name == "embedding_VD" and not untied_readout)
        if len(dimensions(name)) > 1
    )
    pairs = mask.count(length)
    return 6.0 * weights * length + 12.0 * depth * heads * head_features * pairs
