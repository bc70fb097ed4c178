"""The vision transformer: an encoder of patches of images (Dosovitskiy et al. 2020,
arXiv 2010.11929), of one size of heads and with what has proved itself since."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from transformer.models import decoder, encoder
from transformer.network import (
    attention,
    embeddings,
    masks,
    mlp,
    norms,
    positions,
    stack,
)
from transformer.network.fast import activations as fast_activations
from transformer.network.fast import attention as fast_attention
from transformer.network.fast import norms as fast_norms

HEAD_FEATURES = 32
MASK = masks.everything()


class Gather(NamedTuple):
    """How what the tokens say becomes one vector.

    own: tokens before the patches. embed(make_embed, width): make_embed with those.
    pool: of the tokens' features. share: of what reaches each token from each (B, L, M)
    (`attribution/rollout.py`), what reaches that vector from each patch, (B, S).
    """

    own: int
    embed: Callable[[Any, int], Any]
    pool: encoder.Pool
    share: Callable[[jax.Array], jax.Array]


MEAN = Gather(
    own=0,
    embed=lambda make_embed, width: make_embed,
    pool=encoder.mean,
    share=lambda shares_BLM: shares_BLM.mean(1),
)
CLASS_TOKEN = Gather(
    own=1,
    embed=lambda make_embed, width: partial(
        embeddings.ClassToken, width=width, make_embed=make_embed
    ),
    pool=encoder.first,
    share=lambda shares_BLM: shares_BLM[:, 0, 1:],
)


def tokens(places: tuple[int, ...], gather: Gather) -> masks.Tokens:
    """Where the tokens of one row stand: those before the patches, which stand nowhere,
    at the place of the first patch; then the patches in reading order."""
    patches = np.arange(np.prod(places))
    place_L = np.concatenate([np.zeros(gather.own), patches]).astype(np.int32)
    index_L = np.arange(len(place_L), dtype=np.int32)
    return masks.Tokens(index_L[None], place_L[None], np.ones_like(index_L)[None])


def training_flops(params: Any, *, tokens: masks.Tokens, depth: int) -> float:
    """Floating-point operations of one row's forward and backward pass, as
    `decoder.training_flops` counts them; the readout too as if at every token."""
    width = params["unembedding_VD"].shape[1]
    return decoder.training_flops(
        params,
        mask=MASK,
        length=tokens.index_BL.size,
        heads=width // HEAD_FEATURES,
        head_features=HEAD_FEATURES,
        depth=depth,
    )


def classifier(
    *,
    places: tuple[int, ...],
    features: int,
    classes: int,
    depth: int,
    width: int,
    gather: Gather = MEAN,
) -> encoder.Classifier:
    """Of raw patches (B, L, P) with P `features` on a grid of `places`: learned
    positions and rotary ones of two dimensions, QK-norm, RMS norms, ReLU^2, heads of 32
    features. Maps into the stream start at zero: each layer is the identity at first.
    """
    if width % HEAD_FEATURES:
        raise ValueError(f"width: expected a multiple of {HEAD_FEATURES}, got {width}")
    scaled: Any = partial(nn.initializers.variance_scaling, 1.0, "fan_in", "normal")
    zero = nn.initializers.zeros
    make_norm = partial(norms.RMSNorm, compute=fast_norms.rms_norm)
    make_embed = partial(
        embeddings.Patches,
        features=features,
        width=width,
        make_position=partial(positions.Learned, length=int(np.prod(places))),
        make_norm=make_norm,
    )
    make_attention = partial(
        attention.Attention,
        width=width,
        heads=width // HEAD_FEATURES,
        groups=width // HEAD_FEATURES,
        head_features=HEAD_FEATURES,
        mask=MASK,
        rotate=positions.axial(places),
        attend=partial(fast_attention.rows, block=128),
        head_norm=partial(norms.HeadRMSNorm, compute=fast_norms.rms_norm),
        weight_init=scaled(in_axis=0, out_axis=(1, 2)),
        output_init=zero,
    )
    make_mlp = partial(
        mlp.MLP,
        width=width,
        hidden=4 * width,
        activation=fast_activations.relu_squared,
        weight_init=scaled(),
        output_init=zero,
    )
    make_stack = partial(
        stack.Unrolled,
        depth=depth,
        make_block=lambda block, layer: block(
            make_attention=make_attention, make_mlp=make_mlp, make_norm=make_norm
        ),
    )
    return encoder.Classifier(
        classes=classes,
        width=width,
        pool=gather.pool,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=gather.embed(make_embed, width),
            make_stack=make_stack,
            make_norm=make_norm,
        ),
    )
