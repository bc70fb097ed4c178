"""The encoder-decoder: one sequence read, another written (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import recipe
from transformer.models.decoder import Decoder, Readout, training_flops, untied
from transformer.models.encoder import Encoder
from transformer.network import embeddings, masks, positions
from transformer.network.block import Block, Given
from transformer.network.cache import Memory
from transformer.network.masks import Tokens
from transformer.network.reading import ReadingBlock
from transformer.network.stack import Unrolled

Make = Callable[[], nn.Module]
CAUSAL = masks.causal() & masks.segments()


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


def of_words(
    *,
    depth: int,
    width: int,
    vocabulary: int,
    head_features: int = 64,
    rotate_reading: positions.Rotate = positions.unrotated,
) -> EncoderDecoder:
    """From words to words of one vocabulary, `depth` blocks of `recipe` in either half.

    Rotary positions within each text, untied readout. Segments see themselves only, so
    rows may be packed. rotate_reading: positions between the two texts; none where the
    places of one are nothing to the other. ValueError where heads do not fill the
    width.
    """
    normal: Any = nn.initializers.normal(1.0)
    attend = partial(recipe.attention_of, width=width, head_features=head_features)
    rotate = positions.rotary()
    make_reading = attend(mask=masks.segments(), rotate=rotate_reading)
    alike = {
        "make_mlp": recipe.mlp_of(width=width),
        "make_norm": recipe.make_norm,
    }

    def reads(block: Any, layer: int) -> Any:
        seen = attend(mask=masks.segments(), rotate=rotate)
        return block(make_attention=seen, **alike)

    def writes(block: Any, layer: int) -> Any:
        own = attend(mask=CAUSAL, rotate=rotate)
        return block(make_attention=own, make_reading=make_reading, **alike)

    layers = partial(Unrolled, depth=depth)
    sizes = {"vocabulary": vocabulary, "width": width}
    make_embed = partial(
        embeddings.Symbols, **sizes, make_norm=recipe.make_norm, weight_init=normal
    )
    return EncoderDecoder(
        make_encoder=partial(
            Encoder,
            make_embed=make_embed,
            make_stack=partial(layers, make_block=reads, block=Block),
            make_norm=recipe.make_norm,
        ),
        make_decoder=partial(
            Decoder,
            **sizes,
            make_stack=partial(layers, make_block=writes, block=ReadingBlock),
            make_norm=recipe.make_norm,
            make_embedding_norm=recipe.make_norm,
            unembed=untied,
            weight_init=normal,
        ),
    )


def initial(model: nn.Module, key: jax.Array) -> Any:
    """The parameters of a model of words."""
    ids = jnp.zeros((1, 1), jnp.int32)
    return model.init(key, ids, masks.row(1), ids, masks.row(1))["params"]


def words_flops(params: Any, *, length: int, width: int, depth: int) -> float:
    """Floating-point operations of `of_words`, forward and backward, for a row of
    `length` words read and as many written; as `decoder.training_flops`."""
    shape = {"length": length, "heads": 1, "head_features": width, "depth": depth}
    written = training_flops(params, mask=masks.causal(), **shape)
    return written + 2 * 12.0 * depth * width * length**2
