"""The encoder-decoder: one sequence read, another written (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from transformer.models.decoder import Readout
from transformer.network.block import Given
from transformer.network.cache import Memory
from transformer.network.masks import Tokens

Make = Callable[[], nn.Module]


class EncoderDecoder(nn.Module):
    """The slot `make_encoder` reads words, patches or anything else that an `Encoder`
    embeds; `make_decoder` is a `Decoder` whose stack is of `reading.ReadingBlock`."""

    make_encoder: Make
    make_decoder: Make

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        self.decoder = self.make_decoder()

    def __call__(
        self, inputs: jax.Array, read: Tokens, ids_BL: jax.Array, written: Tokens
    ) -> Readout:
        """The pair (features, unembedding) of the written row's next tokens.

        inputs, read: the sequence that is read, and where its tokens stand; ids,
        written: the other one, likewise.
        """
        memory = Memory(self.encoder(inputs, read), read)
        return self.decoder(ids_BL, written, Given(memory=memory))

    def remember(self, inputs: jax.Array, read: Tokens) -> Any:
        """What the decoder's layers remember of the sequence that is read, once for
        all that will be written: `reading.caches` joins it to `empty_cache`."""
        return self.decoder.remember(Memory(self.encoder(inputs, read), read))

    @nn.nowrap
    def empty_cache(self, *sizes: Any) -> Any:
        """As `Decoder.empty_cache`: of the written rows."""
        return self.make_decoder().empty_cache(*sizes)

    def extend(self, ids_BL: jax.Array, cache: Any, tokens: Tokens) -> Any:
        """As `Decoder.extend`, with caches that remember what is read."""
        return self.decoder.extend(ids_BL, cache, tokens)
