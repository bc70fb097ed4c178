"""A model of patches of a map on a sphere that shifts and scales an ensemble.

The ensemble is a forecast and residuals around it. One output a cell moves all members,
another widens or narrows them around the forecast; both are 0 at first, so an untrained
model leaves the ensemble as it is. Members stay consistent fields, and their number
costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

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


class Ensemble(NamedTuple):
    """Members (I, B, L, P) and their mean distance (B, L, P), E |x - x'|."""

    members_IBLP: jax.Array
    distance_BLP: jax.Array


def forecast(net: Any, params: Any, batch: Mapping[str, jax.Array]) -> Ensemble:
    """The ensemble of a batch after the shift and the scaling by a `forecaster`.

    batch: raw_BLP and condition_BJ, the net's inputs; base_BLP, deviation_BLP, a
    forecast and the unit of the shift; residual_BILP and their mean distance_BLP.
    """
    conditioning = Conditioning(condition_BLJ=batch["condition_BJ"][:, None])
    raw_BLP = batch["raw_BLP"]
    tokens = masks.single_document(raw_BLP.shape[1])
    out_BLP = net.apply({"params": params}, raw_BLP, tokens, conditioning)
    shift_BLP, log_scale_BLP = jnp.split(out_BLP, 2, axis=-1)
    scale_BLP = jnp.exp(log_scale_BLP)
    mean_BLP = batch["base_BLP"] + batch["deviation_BLP"] * shift_BLP
    residual_IBLP = jnp.swapaxes(batch["residual_BILP"], 0, 1)
    members_IBLP = mean_BLP[None] + scale_BLP[None] * residual_IBLP
    return Ensemble(members_IBLP, scale_BLP * batch["distance_BLP"])


def forecaster(
    *,
    depth: int,
    width: int,
    grid: tuple[int, int],
    input_features: int,
    patch_features: int,
    condition_features: int,
    head_features: int = defaults.HEAD_FEATURES,
) -> encoder.TokenRegressor:
    """A model from patches of a map on a sphere to the shift and the logarithm of the
    scale of each of the `patch_features`: adaLN-Zero blocks under a condition, learned
    positions, and rotary ones that close in longitude. Zero at first. ValueError where
    heads of `head_features` do not fill the width."""
    heads = defaults.num_heads(width, head_features)
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
        output_features=2 * patch_features, width=width, make_encoder=make_encoder
    )


def init_params(
    net: Any, key: jax.Array, *, shape: tuple[int, int], condition_features: int
) -> Any:
    """The parameters for sequences of `shape` (L, P) under a condition of
    `condition_features`."""
    raw_BLP = jnp.zeros((1, *shape))
    conditioning = Conditioning(condition_BLJ=jnp.zeros((1, 1, condition_features)))
    tokens = masks.single_document(shape[0])
    return net.init(key, raw_BLP, tokens, conditioning)["params"]
