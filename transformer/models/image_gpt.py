"""The decoder of an image's pixels in raster order, each predicted from those before
(PixelRNN, van den Oord et al. 2016, arXiv 1601.06759; Image Transformer, Parmar et al.
2018, arXiv 1802.05751)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.models import decoder, defaults
from transformer.network import masks, positions, precision


def image_gpt(
    *,
    side: int,
    vocab_size: int,
    depth: int,
    width: int,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> decoder.Decoder:
    """A decoder of the pixels of a square image of `side` pixels, with two-dimensional
    rotary positions and learned ones. A token's position is that of the pixel that it
    predicts.

    make_attention(width=...), make_mlp(width=...): slots of the blocks, the defaults if
    None. ValueError where the default heads do not fill the width.
    """
    make_attention = make_attention or defaults.attention(
        width=width,
        mask=masks.causal(),
        rotate=positions.axial((side, side)),
        make_mixer=defaults.row_blocked(side * side // 2),
    )
    return decoder.language_model(
        depth=depth,
        vocab_size=vocab_size,
        width=width,
        make_attention=make_attention,
        make_mlp=make_mlp,
        make_position=partial(positions.Learned, length=side * side + 1, stddev=1.0),
    )


def predict(
    net: decoder.Decoder,
    params: Any,
    label_B: jax.Array,
    ids_BL: jax.Array,
    t_B: jax.Array,
    *,
    pixel_tokens: int,
    compute_dtype: Any = jnp.float32,
) -> jax.Array:
    """Logits (B, L, V) of each pixel from the class and the pixels before it; the token
    of a class is pixel_tokens + label. The time t_B of a process plays no part."""
    weights = precision.cast_weights(params, compute_dtype)
    first_B1 = pixel_tokens + label_B[:, None]
    inputs_BL = jnp.concatenate([first_B1, ids_BL[:, :-1]], axis=1)
    tokens = masks.single_document(ids_BL.shape[1])
    readout: Any = net.apply({"params": weights}, inputs_BL, tokens)
    return decoder.logits(readout)
