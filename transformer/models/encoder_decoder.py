"""The encoder-decoder: one sequence read, another written (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder, vit
from transformer.models.decoder import Decoder, Readout, training_flops, untied
from transformer.network import masks, positions
from transformer.network.block import Given
from transformer.network.kv_cache import Memory
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


def _writing(
    *,
    depth: int,
    width: int,
    vocabulary: int,
    head_features: int,
    rotate_reading: positions.Rotate = positions.unrotated,
) -> Callable[[], Decoder]:
    """The half that writes: rotary positions within the text, and between it and what
    is read, of the same segment, those asked for; untied readout."""
    attend = partial(defaults.attention_of, width=width, head_features=head_features)
    make_attention = attend(mask=CAUSAL, rotate=positions.rotary())
    make_reading = attend(mask=masks.segments(), rotate=rotate_reading)

    def writes(block: Any, layer: int) -> Any:
        return block(
            make_attention=make_attention,
            make_reading=make_reading,
            make_mlp=defaults.mlp_of(width=width),
            make_norm=defaults.make_norm,
        )

    return partial(
        Decoder,
        vocabulary=vocabulary,
        width=width,
        make_stack=partial(
            Unrolled, depth=depth, make_block=writes, block=ReadingBlock
        ),
        make_norm=defaults.make_norm,
        make_embedding_norm=defaults.make_norm,
        unembed=untied,
        weight_init=nn.initializers.normal(1.0),
    )


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
    sizes: Any = {
        "depth": depth,
        "width": width,
        "vocabulary": vocabulary,
        "head_features": head_features,
    }
    return EncoderDecoder(
        make_encoder=encoder.of_words(**sizes),
        make_decoder=_writing(**sizes, rotate_reading=rotate_reading),
    )


def of_patches(
    *,
    places: tuple[int, ...],
    features: int,
    depth: int,
    written_depth: int,
    width: int,
    vocabulary: int,
) -> EncoderDecoder:
    """From raw patches (B, L, P), P `features`, on a grid of `places` to words: the
    patches as a `vit` reads them, in `depth` blocks; `written_depth` blocks write.

    ValueError where heads do not fill the width.
    """
    return EncoderDecoder(
        make_encoder=vit.reader(
            places=places, features=features, depth=depth, width=width
        ),
        make_decoder=_writing(
            depth=written_depth,
            width=width,
            vocabulary=vocabulary,
            head_features=defaults.HEAD_FEATURES,
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
