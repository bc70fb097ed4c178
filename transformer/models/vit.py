"""The vision transformer: an encoder of patches of images (Dosovitskiy et al. 2020,
arXiv 2010.11929), of one size of heads and with what has proved itself since."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer.models import decoder, defaults, encoder
from transformer.network import embeddings, masks, positions

MASK = masks.everything()


class Gather(NamedTuple):
    """How what the tokens say becomes one vector.

    own: tokens before the patches. embed(make_embed, width): make_embed with those.
    pool: of the tokens' features. share: of what reaches each token from each (B, L, M)
    (`interpretability/attention_rollout.py`), what reaches that vector from each patch, (B, S).
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
        heads=width // defaults.HEAD_FEATURES,
        head_features=defaults.HEAD_FEATURES,
        depth=depth,
    )


def reader(
    *,
    places: tuple[int, ...],
    features: int,
    depth: int,
    width: int,
    gather: Gather = MEAN,
) -> Callable[[], encoder.Encoder]:
    """An encoder of raw patches (B, L, P) with P `features` on a grid of `places`:
    learned positions and rotary ones of two dimensions, in the blocks of `recipe`.

    ValueError where heads do not fill the width.
    """
    make_embed = partial(
        embeddings.Patches,
        features=features,
        width=width,
        make_position=partial(positions.Learned, length=int(np.prod(places))),
        make_norm=defaults.make_norm,
    )
    make_attention = defaults.attention_of(
        width=width, mask=MASK, rotate=positions.axial(places)
    )
    return partial(
        encoder.Encoder,
        make_embed=gather.embed(make_embed, width),
        make_stack=defaults.layers(
            depth=depth, width=width, make_attention=make_attention
        ),
        make_norm=defaults.make_norm,
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
    """Of what a `reader` of such patches, gathered into one vector, says."""
    return encoder.Classifier(
        classes=classes,
        width=width,
        pool=gather.pool,
        make_encoder=reader(
            places=places, features=features, depth=depth, width=width, gather=gather
        ),
    )
