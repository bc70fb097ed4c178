"""A transformer of films: each tubelet from those of its own and earlier frames, seen
in space and in time by turns (ViViT's factorised self-attention, Arnab et al. 2021,
arXiv 2103.15691, section 3.3, causal in time)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import decoder, defaults, encoder
from transformer.network import (
    embeddings,
    factorized_attention,
    masks,
    positions,
    stack,
)

CAUSAL = masks.causal()


def predictor(
    *, frames: int, places: Sequence[int], features: int, depth: int, width: int
) -> encoder.Tagger:
    """From raw tubelets (B, T S, P) of `frames` frames of S = rows x columns to P
    features of each: a token sees its own frame and those before it.

    Blocks of `recipe`, the even ones within frames (rotary positions of two
    dimensions), the odd ones along time (of one); learned positions beside them, for
    what is at rest, such as walls.
    """
    attend = partial(defaults.attention_of, width=width)
    space = attend(mask=masks.everything(), rotate=positions.axial(places))
    time = attend(mask=CAUSAL, rotate=positions.rotary())
    turns = (
        partial(
            factorized_attention.Folded,
            space,
            factorized_attention.within_frames(frames),
            frames,
        ),
        partial(
            factorized_attention.Folded,
            time,
            factorized_attention.along_time(frames),
            frames,
        ),
    )

    def make_block(block: Any, layer: int) -> nn.Module:
        return block(
            make_attention=turns[layer % len(turns)],
            make_mlp=defaults.mlp_of(width=width),
            make_norm=defaults.make_norm,
        )

    make_embed = partial(
        embeddings.Patches,
        features=features,
        width=width,
        make_position=partial(
            positions.Learned, length=frames * math.prod(places), deviation=0.1
        ),
        make_norm=defaults.make_norm,
    )
    return encoder.Tagger(
        features=features,
        width=width,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=make_embed,
            make_stack=partial(stack.Unrolled, depth=depth, make_block=make_block),
            make_norm=defaults.make_norm,
        ),
    )


def initial(net: encoder.Tagger, key: jax.Array, *, length: int) -> Any:
    """The parameters for rows of `length` tubelets."""
    raw_BLP = jnp.zeros((1, length, net.features))
    return net.init(key, raw_BLP, masks.row(length))["params"]


def training_flops(params: Any, *, frames: int, places: Sequence[int], depth: int):
    """Floating-point operations of one film's forward and backward pass."""
    size = math.prod(places)
    width = params["w_out_DP"].shape[0]
    count = partial(decoder.training_flops, heads=1, head_features=width)
    products = count(params, mask=CAUSAL, length=frames * size, depth=0)
    within = count({}, mask=masks.everything(), length=size, depth=(depth + 1) // 2)
    along = count({}, mask=CAUSAL, length=frames, depth=depth // 2)
    return products + frames * within + size * along
