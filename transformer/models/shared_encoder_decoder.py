"""An encoder-decoder of one vocabulary with one embedding, of sources and of targets,
and by default of the readout (T5, Raffel et al. 2020, arXiv 1910.10683)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain
from transformer.models.decoder import Readout, tied_unembedding, with_bias
from transformer.network import biases, norms, positions, precision
from transformer.network.block import Conditioning, Make
from transformer.network.kv_cache import Memory
from transformer.network.masks import TokenPositions


class SharedEncoderDecoder(nn.Module):
    """As `encoder_decoder.EncoderDecoder`, of which it has all methods; the stack of
    `make_decoder_stack` is of `block.DecoderBlock`.

    make_position: of both sides; none where the stacks have them (T5). make_logit_bias:
    of the logits, only with a plain table (Marian).
    """

    vocab_size: int
    width: int
    make_encoder_stack: Make
    make_decoder_stack: Make
    make_norm: Make = norms.RMSNorm
    unembed: Callable[[nn.Module, jax.Array], precision.Table] = tied_unembedding
    weight_init: nn.initializers.Initializer = nn.initializers.normal(1.0)
    make_position: Make = positions.NoPositions
    make_logit_bias: biases.MakeBias = biases.no_bias
    embedding_scale: float = 1.0

    def setup(self) -> None:
        shape = self.vocab_size, self.width
        self.embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        self.unembedding_VD = self.unembed(self, self.embedding_VD)
        self.logit_bias_BLV = self.make_logit_bias(self, "b_V", (self.vocab_size,))
        self.position = self.make_position()
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
        x_BLD = self._embedding(ids_BL, target)
        return self._readout(self.decoder_stack(x_BLD, target, conditioning))

    def cache_memory(self, source_BL: jax.Array, source: TokenPositions) -> Any:
        """The source's keys and values in every decoder layer."""
        return self.decoder_stack.cache_memory(self._memory(source_BL, source))

    def decode(
        self, ids_BL: jax.Array, cache: Any, tokens: TokenPositions
    ) -> tuple[Readout, Any]:
        """As `Decoder.decode`, with caches that `block.join_caches` made."""
        x_BLD = self._embedding(ids_BL, tokens)
        x_BLD, cache = self.decoder_stack.decode(x_BLD, cache, tokens)
        return self._readout(x_BLD), cache

    @nn.nowrap
    def empty_cache(self, rows: int, length: int, chunk: int, dtype: Any) -> Any:
        """As `Decoder.empty_cache`: for the target rows."""
        positions.check_length(self.make_position(), length)
        return self.make_decoder_stack().empty_cache(rows, length, chunk, dtype)

    def _readout(self, x_BLD: jax.Array) -> Readout:
        x_BLD, bias_BLV = self.decoder_norm(x_BLD), self.logit_bias_BLV
        if not isinstance(bias_BLV, jax.Array):
            return x_BLD, self.unembedding_VD
        table: Any = self.unembedding_VD
        return with_bias(x_BLD, table, bias_BLV[0, 0])

    def _embedding(self, ids_BL: jax.Array, tokens: TokenPositions) -> jax.Array:
        x_BLD = constrain(precision.embed(self.embedding_VD, ids_BL), "BLD")
        if self.embedding_scale != 1.0:
            x_BLD = x_BLD * jnp.asarray(self.embedding_scale, x_BLD.dtype)
        return constrain(self.position(x_BLD, tokens.position_BL), "BLD")

    def _memory(self, source_BL: jax.Array, source: TokenPositions) -> Memory:
        x_BLD = self.encoder_stack(self._embedding(source_BL, source), source)
        return Memory(self.encoder_norm(x_BLD), source)
