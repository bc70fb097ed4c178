"""An ensemble from one model: its members differ by a noise input.

The noise is part of the condition of the adaptive norms, one sample for the whole
sequence, so that a member is one consistent field and not a field of independent errors
(as in FGN, Alet et al. 2025, arXiv 2506.10772).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder
from transformer.network import (
    attention,
    block,
    embeddings,
    masks,
    mlp,
    norms,
    positions,
    stack,
)
from transformer.network.block import Conditioning


def sample_members(
    net: Any,
    params: Any,
    raw_BLP: jax.Array,
    condition_BJ: jax.Array,
    key: jax.Array,
    *,
    members: int,
    noise_features: int,
) -> jax.Array:
    """`members` outputs (I, B, L, P) of a `TokenRegressor` of raw patches, under the
    condition condition_BJ and `noise_features` of standard normal noise."""
    rows = condition_BJ.shape[0]
    noise_IBJ = jax.random.normal(key, (members, rows, noise_features))
    shape = members, *condition_BJ.shape
    known_IBJ = jnp.broadcast_to(condition_BJ[None], shape)
    condition_IBJ = jnp.concatenate([known_IBJ, noise_IBJ], axis=-1)
    condition_BLJ = condition_IBJ.reshape(members * rows, 1, -1)
    repeated_BLP = jnp.tile(raw_BLP, (members, 1, 1))
    conditioning = Conditioning(condition_BLJ=condition_BLJ)
    tokens = masks.single_document(raw_BLP.shape[1])
    out_BLP = net.apply({"params": params}, repeated_BLP, tokens, conditioning)
    return out_BLP.reshape(members, rows, *out_BLP.shape[1:])


def forecaster(
    *,
    depth: int,
    width: int,
    grid: tuple[int, int],
    input_features: int,
    output_features: int,
    condition_features: int,
    head_features: int = defaults.HEAD_FEATURES,
) -> encoder.TokenRegressor:
    """A model from patches of a map on a sphere to patches: adaLN-Zero blocks
    under a condition with noise in it, learned positions, and rotary ones that close in
    longitude. Zero at first."""
    heads = width // head_features
    make_attention = partial(
        attention.Attention,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_features=head_features,
        mask=masks.full(),
        rotate=positions.axial(grid, periodic=[1]),
        make_mixer=defaults.row_blocked(512),
    )
    make_mlp = partial(
        mlp.MLP, width=width, hidden_features=2 * width, activation=defaults.gelu
    )
    make_stack = partial(
        stack.UnrolledStack,
        depth=depth,
        make_block=lambda make, layer: make(
            make_attention=make_attention,
            make_mlp=make_mlp,
            make_norm=partial(norms.AdaLNZero, width, condition_features),
            residual=block.adaln_zero,
        ),
    )
    make_embed = partial(
        embeddings.PatchEmbedding,
        features=input_features,
        width=width,
        make_position=partial(positions.Learned, length=math.prod(grid)),
    )
    make_encoder = partial(
        encoder.Encoder, make_embed=make_embed, make_stack=make_stack
    )
    return encoder.TokenRegressor(
        output_features=output_features, width=width, make_encoder=make_encoder
    )


def init_params(
    net: Any, key: jax.Array, *, shape: tuple[int, int], condition_features: int
) -> Any:
    """The parameters for sequences of `shape` (L, P) under a condition of
    `condition_features`, those of the noise included."""
    raw_BLP = jnp.zeros((1, *shape))
    conditioning = Conditioning(condition_BLJ=jnp.zeros((1, 1, condition_features)))
    tokens = masks.single_document(shape[0])
    return net.init(key, raw_BLP, tokens, conditioning)["params"]
