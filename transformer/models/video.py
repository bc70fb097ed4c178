"""Video prediction: each tubelet from those of its own and earlier frames, by attention
in space and in time in alternation (ViViT's factorized self-attention, Arnab et al.
2021, arXiv 2103.15691, section 3.3, causal in time)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder
from transformer.network import (
    embeddings,
    factorized_attention,
    masks,
    positions,
    precision,
    stack,
)


def video_predictor(
    *,
    frames: int,
    grid: tuple[int, ...],
    patch_features: int,
    depth: int,
    width: int,
    make_space_attention: defaults.MakeOfWidth | None = None,
    make_time_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> encoder.TokenRegressor:
    """Raw tubelets (B, T S, P) of `frames` frames T on a `grid` of S = rows x columns
    to P `patch_features` of each; a token sees its own frame and those before it.

    Even blocks attend within frames (two-dimensional rotary positions), odd ones along
    time (one-dimensional). Learned positions represent what is fixed in the picture,
    such as walls. The slots are called with the keyword `width`; the defaults if None.
    """
    make_space_attention = make_space_attention or defaults.attention(
        width=width, mask=masks.full(), rotate=positions.axial(grid)
    )
    make_time_attention = make_time_attention or defaults.attention(
        width=width, mask=masks.causal(), rotate=positions.rotary()
    )
    make_mlp = make_mlp or defaults.mlp(width=width)
    attentions = [
        partial(
            factorized_attention.FactorizedAttention,
            partial(make_attention, width=width),
            fold,
            frames,
        )
        for make_attention, fold in (
            (make_space_attention, factorized_attention.within_frames(frames)),
            (make_time_attention, factorized_attention.along_time(frames)),
        )
    ]

    def make_block(block: Any, layer: int) -> nn.Module:
        return block(
            make_attention=attentions[layer % len(attentions)],
            make_mlp=partial(make_mlp, width=width),
            make_norm=defaults.make_norm,
        )

    make_position = partial(
        positions.Learned, length=frames * math.prod(grid), stddev=0.1
    )
    make_embed = partial(
        embeddings.PatchEmbedding,
        features=patch_features,
        width=width,
        make_position=make_position,
        make_norm=defaults.make_norm,
    )
    return encoder.TokenRegressor(
        output_features=patch_features,
        width=width,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=make_embed,
            make_stack=partial(stack.UnrolledStack, depth=depth, make_block=make_block),
            make_norm=defaults.make_norm,
        ),
    )


def init_params(net: encoder.TokenRegressor, key: jax.Array, *, length: int) -> Any:
    """The parameters for rows of `length` tubelets."""
    raw_BLP = jnp.zeros((1, length, net.output_features))
    return net.init(key, raw_BLP, masks.single_document(length))["params"]


def apply(
    net: encoder.TokenRegressor, params: Any, raw_BLP: jax.Array, *, compute_dtype: Any
) -> jax.Array:
    """Predictions (B, L, P) for the next frame's tubelets."""
    weights = precision.cast_weights(params, compute_dtype)
    tokens = masks.single_document(raw_BLP.shape[1])
    prediction_BLP: Any = net.apply({"params": weights}, raw_BLP, tokens)
    return prediction_BLP
