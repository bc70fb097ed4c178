"""The decoder of an image's pixels in reading order, each predicted from those before
(PixelRNN, van den Oord et al. 2016, arXiv 1601.06759; Image Transformer, Parmar et al.
2018, arXiv 1802.05751)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn

from transformer.models import decoder, defaults
from transformer.network import masks, positions
from transformer.network.kernels import row_attention as fast_attention

MASK = masks.causal()


def decoder_of(
    *, side: int, vocabulary: int, depth: int, width: int
) -> decoder.Decoder:
    """Of `vocabulary` symbols on a square of `side` places: rotary positions of two
    dimensions and learned ones, in the blocks of `recipe`.

    A token stands where the pixel stands that it predicts. ValueError where heads do
    not fill the width.
    """
    make_attention = defaults.attention_of(
        width=width,
        mask=MASK,
        rotate=positions.axial((side, side)),
        attend=partial(fast_attention.rows, block=side * side // 2),
    )
    return decoder.Decoder(
        vocabulary=vocabulary,
        width=width,
        make_stack=defaults.layers(
            depth=depth, width=width, make_attention=make_attention
        ),
        make_position=partial(positions.Learned, length=side * side + 1, deviation=1.0),
        make_norm=defaults.make_norm,
        make_embedding_norm=defaults.make_norm,
        unembed=decoder.untied,
        weight_init=nn.initializers.normal(1.0),
    )


def training_flops(params: Any, *, length: int, depth: int) -> float:
    """Floating-point operations of one row's forward and backward pass."""
    return decoder.training_flops(
        params,
        mask=MASK,
        length=length,
        heads=1,
        head_features=params["unembedding_VD"].shape[1],
        depth=depth,
    )
