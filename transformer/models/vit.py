"""The vision transformer: an encoder of image patches (Dosovitskiy et al. 2020, arXiv
2010.11929), with the default block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transformer.models import defaults, encoder
from transformer.network import embeddings, masks, positions


class Pooling(NamedTuple):
    """How the features of all tokens become one vector.

    extra_tokens: how many precede the patches. embed(make_embed, width): the
    embedding with those. pool: of the features. patch_relevance: from the relevance
    (B, L, M) of input tokens M to output tokens L
    (`interpretability/attention_rollout.py`), that of each patch to the vector, (B, S).
    """

    extra_tokens: int
    embed: Callable[[Any, int], Any]
    pool: encoder.Pool
    patch_relevance: Callable[[jax.Array], jax.Array]


MEAN = Pooling(
    extra_tokens=0,
    embed=lambda make_embed, width: make_embed,
    pool=encoder.mean_pooling,
    patch_relevance=lambda relevance_BLM: relevance_BLM.mean(1),
)
CLASS_TOKEN = Pooling(
    extra_tokens=1,
    embed=lambda make_embed, width: partial(
        embeddings.ClassToken, width=width, make_embed=make_embed
    ),
    pool=encoder.first_token,
    patch_relevance=lambda relevance_BLM: relevance_BLM[:, 0, 1:],
)
POOLINGS = {"mean": MEAN, "class": CLASS_TOKEN}


def token_positions(grid: tuple[int, ...], pooling: Pooling) -> masks.TokenPositions:
    """Positions of one row's tokens: those before the patches at position 0, then the
    patches in raster order."""
    patches = np.arange(np.prod(grid))
    position_L = np.concatenate([np.zeros(pooling.extra_tokens), patches])
    position_L = position_L.astype(np.int32)
    index_L = np.arange(len(position_L), dtype=np.int32)
    return masks.TokenPositions(
        index_L[None], position_L[None], np.ones_like(index_L)[None]
    )


def patch_encoder(
    *,
    grid: tuple[int, ...],
    patch_features: int,
    depth: int,
    width: int,
    pooling: Pooling = MEAN,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> Callable[[], encoder.Encoder]:
    """An encoder of raw patches (B, L, P), P `patch_features`, on a `grid`, with
    learned positions and two-dimensional rotary ones.

    make_attention(width=...), make_mlp(width=...): slots of the blocks, the defaults if
    None. ValueError where the default heads do not fill the width.
    """
    make_embed = partial(
        embeddings.PatchEmbedding,
        features=patch_features,
        width=width,
        make_position=partial(positions.Learned, length=int(np.prod(grid))),
        make_norm=defaults.make_norm,
    )
    make_attention = make_attention or defaults.attention(
        width=width, mask=masks.full(), rotate=positions.axial(grid)
    )
    return partial(
        encoder.Encoder,
        make_embed=pooling.embed(make_embed, width),
        make_stack=defaults.stack(
            depth=depth, width=width, make_attention=make_attention, make_mlp=make_mlp
        ),
        make_norm=defaults.make_norm,
    )


def classifier(
    *,
    grid: tuple[int, ...],
    patch_features: int,
    classes: int,
    depth: int,
    width: int,
    pooling: Pooling = MEAN,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> encoder.Classifier:
    """A classifier of images: a `patch_encoder`, pooled, and a linear map to `classes`.
    Arguments as there."""
    return encoder.Classifier(
        classes=classes,
        width=width,
        pool=pooling.pool,
        make_encoder=patch_encoder(
            grid=grid,
            patch_features=patch_features,
            depth=depth,
            width=width,
            pooling=pooling,
            make_attention=make_attention,
            make_mlp=make_mlp,
        ),
    )


def pooling_of(net: encoder.Classifier) -> Pooling:
    """The one of `POOLINGS` that a `classifier` was built with."""
    return next(p for p in POOLINGS.values() if p.pool == net.pool)


def apply(
    net: encoder.Classifier, params: Any, raw_BLP: jax.Array, **options: Any
) -> Any:
    """`net.apply` with the positions of raw patches (B, L, P); options: of
    `flax.linen.Module.apply`, such as `method` and `mutable`."""
    tokens = token_positions(raw_BLP.shape[1:2], pooling_of(net))
    return net.apply({"params": params}, raw_BLP, tokens, **options)


def init_params(net: encoder.Classifier, key: jax.Array, *, like: Any) -> Any:
    """The parameters for rows of raw patches of the shape and dtype of `like`."""
    tokens = token_positions(like.shape[1:2], pooling_of(net))
    return net.init(key, jnp.zeros(like.shape, like.dtype), tokens)["params"]
