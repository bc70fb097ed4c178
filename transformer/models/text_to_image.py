"""A diffusion transformer that is told what to draw in words, and reads them in every
block (cross-attention: Rombach et al. 2021, arXiv 2112.10752, section 3.3; the text's
mean beside the time: Nichol et al. 2021, GLIDE, arXiv 2112.10741, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import dit, encoder
from transformer.network import (
    block,
    embeddings,
    masks,
    norms,
    positions,
    reading,
    stack,
)
from transformer.network.kv_cache import Memory

Make = Callable[[], nn.Module]


class Told(nn.Module):
    """Time and a text, (ids_BL, segment_BL) with segment 0 for padding: its tokens'
    features D to be read, and their mean, with the time, as J = D to follow."""

    make_encoder: Make

    @nn.compact
    def __call__(
        self, t_B: jax.Array, text: tuple[jax.Array, jax.Array]
    ) -> block.Given:
        ids_BL, segment_BL = text
        tokens = masks.packed(segment_BL, jnp.arange(ids_BL.shape[1])[None])
        x_BLD = self.make_encoder()(ids_BL, tokens)
        mean_BLJ = encoder.mean(x_BLD, tokens)[:, None]
        told_BLJ = dit.timed(mean_BLJ, t_B)
        return block.Given(memory=Memory(x_BLD, tokens), condition_BLJ=told_BLJ)


def transformer(
    *,
    places: tuple[int, ...],
    features: int,
    vocabulary: int,
    depth: int,
    names_depth: int,
    width: int,
) -> dit.Denoiser:
    """Of raw patches (B, L, P), P `features`, on a grid of `places`, told texts.

    `depth` adaptive blocks read what `names_depth` blocks make of the text. ValueError
    where heads do not fill the width.
    """
    attend, make_mlp = dit.open_maps(width)
    make_attention = attend(mask=masks.everything(), rotate=positions.axial(places))
    make_reading = attend(mask=masks.padding())

    def draws(block_: Any, layer: int) -> Any:
        return block_(
            make_attention=make_attention,
            make_reading=make_reading,
            make_mlp=make_mlp,
            make_norm=partial(norms.GatedAdaptiveNorm, width, width),
            residual=block.adaptive,
        )

    reads = encoder.of_words(depth=names_depth, width=width, vocabulary=vocabulary)
    return dit.Denoiser(
        features=features,
        width=width,
        make_condition=partial(Told, reads),
        make_embed=partial(embeddings.Patches, features=features, width=width),
        make_stack=partial(
            stack.Unrolled, depth=depth, make_block=draws, block=reading.ReadingBlock
        ),
    )


def initial(net: nn.Module, key: jax.Array, *, like: Any) -> Any:
    """The parameters for rows of the shape and dtype of `like`."""
    x = jnp.zeros(like.shape, like.dtype)
    one_BL = jnp.ones((like.shape[0], 1), jnp.int32)
    t_B, tokens = jnp.zeros(like.shape[0]), masks.row(like.shape[1])
    return net.init(key, x, t_B, (one_BL, one_BL), tokens)["params"]
