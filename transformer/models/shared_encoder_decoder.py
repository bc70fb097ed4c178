"""An encoder-decoder of one vocabulary with one embedding, of sources and of targets,
and by default of the readout (T5, Raffel et al. 2020, arXiv 1910.10683)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from transformer.axes import constrain, replicate
from transformer.models.decoder import Readout, tied_unembedding
from transformer.network import norms, precision
from transformer.network.block import Conditioning, Make
from transformer.network.kv_cache import Memory
from transformer.network.masks import TokenPositions


class SharedEncoderDecoder(nn.Module):
    """As `encoder_decoder.EncoderDecoder`, of which it has all methods; the stack of
    `make_decoder_stack` is of `block.DecoderBlock`. The stacks have the positions."""

    vocab_size: int
    width: int
    make_encoder_stack: Make
    make_decoder_stack: Make
    make_norm: Make = norms.RMSNorm
    unembed: Callable[[nn.Module, jax.Array], precision.Table] = tied_unembedding
    weight_init: nn.initializers.Initializer = nn.initializers.normal(1.0)

    def setup(self) -> None:
        shape = self.vocab_size, self.width
        self.embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        self.unembedding_VD = self.unembed(self, self.embedding_VD)
        self.encoder_stack = self.make_encoder_stack()
        self.encoder_norm = self.make_norm()
        self.decoder_stack = self.make_decoder_stack()
        self.decoder_norm = self.make_norm()

    def __call__(
        self,
        source_BL: jax.Array,
        source: TokenPositions,
        ids_BL: jax.Array,
        target: TokenPositions,
    ) -> Readout:
        """The readout that predicts the target's next tokens from ids and positions of
        both."""
        conditioning = Conditioning(memory=self._memory(source_BL, source))
        x_BLD = self.decoder_stack(self._embedding(ids_BL), target, conditioning)
        return self.decoder_norm(x_BLD), self.unembedding_VD

    def cache_memory(self, source_BL: jax.Array, source: TokenPositions) -> Any:
        """The source's keys and values in every decoder layer."""
        return self.decoder_stack.cache_memory(self._memory(source_BL, source))

    def decode(
        self, ids_BL: jax.Array, cache: Any, tokens: TokenPositions
    ) -> tuple[Readout, Any]:
        """As `Decoder.decode`, with caches that `block.join_caches` made."""
        embedding = self._embedding(ids_BL)
        x_BLD, cache = self.decoder_stack.decode(embedding, cache, tokens)
        return (self.decoder_norm(x_BLD), self.unembedding_VD), cache

    @nn.nowrap
    def empty_cache(self, *sizes: Any) -> Any:
        """As `Decoder.empty_cache`: for the target rows."""
        return self.make_decoder_stack().empty_cache(*sizes)

    def _embedding(self, ids_BL: jax.Array) -> jax.Array:
        return constrain(replicate(self.embedding_VD)[ids_BL], "BLD")

    def _memory(self, source_BL: jax.Array, source: TokenPositions) -> Memory:
        x_BLD = self.encoder_stack(self._embedding(source_BL), source)
        return Memory(self.encoder_norm(x_BLD), source)
