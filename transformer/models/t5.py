"""The encoder-decoder of span corruption: the source has a sentinel in place of each
span, the target names each sentinel and its span (T5, Raffel et al. 2020, arXiv
1910.10683).

Sentinels are the last `SENTINELS` ids of the vocabulary. Encoder and decoder share the
embedding, as in T5; the unembedding is another parameter. A target token's position is
relative to its sentinel's in the source (GLM, Du et al. 2022, arXiv 2103.10360, section
2.1).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from transformer.models import encoder, encoder_decoder
from transformer.models.decoder import Readout
from transformer.network import masks, positions

SENTINELS = 64
# The distance of two source positions, and so the room for a span's positions.
SPACING = 8


def t5(*, vocab_size: int, depth: int, width: int) -> encoder_decoder.EncoderDecoder:
    """An `encoder_decoder.text_to_text` with positions in the cross-attention.

    vocab_size: with the sentinels. ValueError where the heads do not fill the width.
    """
    return encoder_decoder.text_to_text(
        vocab_size=vocab_size,
        depth=depth,
        width=width,
        rotate_cross=positions.rotary(),
    )


def init_params(net: encoder_decoder.EncoderDecoder, key: jax.Array) -> Any:
    """The parameters, without a decoder embedding."""
    params = encoder_decoder.init_params(net, key)
    own = {n: p for n, p in params["decoder"].items() if n != "embedding_VD"}
    return {**params, "decoder": own}


def _share_embedding(params: Any) -> Any:
    embedding_VD = params["encoder"]["embed"]["embedding_VD"]
    return {**params, "decoder": {**params["decoder"], "embedding_VD": embedding_VD}}


def source_positions(length: int) -> masks.TokenPositions:
    """Positions in source rows of `length` tokens, `SPACING` apart."""
    tokens = masks.single_document(length)
    return tokens._replace(position_BL=SPACING * tokens.position_BL)


def target_positions(
    source_BL: jax.Array, ids_BL: jax.Array, *, sentinel: int
) -> masks.TokenPositions:
    """Positions of decoder inputs: the source position of the last sentinel up to the
    token, plus the distance from it. sentinel: the first sentinel's id."""
    sentinel_V = sentinel + jnp.arange(SENTINELS)
    index_BV = (source_BL[:, :, None] == sentinel_V[None, None]).argmax(1)
    is_sentinel_BL = ids_BL >= sentinel
    tokens = masks.single_document(ids_BL.shape[1])
    last_BL = jnp.where(is_sentinel_BL, ids_BL - sentinel, 0)
    start_BL = jnp.where(is_sentinel_BL, tokens.index_BL, 0)
    last_BL, start_BL = (jax.lax.cummax(a, axis=1) for a in (last_BL, start_BL))
    source_index_BL = jnp.take_along_axis(index_BV, last_BL, axis=1)
    position_BL = SPACING * source_index_BL + tokens.index_BL - start_BL
    return tokens._replace(position_BL=position_BL)


def apply(
    net: encoder_decoder.EncoderDecoder,
    params: Any,
    source_BL: jax.Array,
    ids_BL: jax.Array,
    source_segment_BL: jax.Array | None = None,
    *,
    sentinel: int,
) -> Readout:
    """The pair (features, unembedding) that predicts the next target tokens.

    source_BL: encoder inputs; ids_BL: decoder inputs; source_segment_BL: 1 for an input
    and 0 for padding, where sources are padded; sentinel: the first sentinel's id.
    """
    source = source_positions(source_BL.shape[1])
    if source_segment_BL is not None:
        source = source._replace(segment_BL=source_segment_BL)
    target = target_positions(source_BL, ids_BL, sentinel=sentinel)
    variables = {"params": _share_embedding(params)}
    readout: Any = net.apply(variables, source_BL, source, ids_BL, target)
    return readout


def pooled_features(
    net: encoder_decoder.EncoderDecoder, params: Any, ids_BL: jax.Array
) -> jax.Array:
    """The mean of each row's encoder features, (B, D)."""
    tokens = source_positions(ids_BL.shape[1])

    def mean_features(module: Any) -> jax.Array:
        return encoder.mean_pooling(module.encoder(ids_BL, tokens), tokens)

    features_BD: Any = net.apply(
        {"params": _share_embedding(params)}, method=mean_features
    )
    return features_BD
