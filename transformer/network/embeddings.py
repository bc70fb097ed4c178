"""Embeddings of a sequence as tokens of D features.

Every embedding is a module called as (inputs, tokens) -> x_BLD with the tokens'
positions. Inputs are token ids (B, L), or raw patches (B, L, P): pixels of an image, a
space-time block of a video, fields on a part of the sphere.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, replicate
from transformer.network import biases, norms, positions
from transformer.network.block import Make
from transformer.network.masks import TokenPositions
from transformer.network.precision import linear

SMALL = nn.initializers.normal(0.02)


class TokenEmbedding(nn.Module):
    """Rows of a table, for token ids (B, L) int32 below `vocab_size`."""

    vocab_size: int
    width: int
    make_position: Make = positions.NoPositions
    make_norm: Make = norms.Identity
    weight_init: nn.initializers.Initializer = SMALL

    @nn.compact
    def __call__(self, ids_BL: jax.Array, tokens: TokenPositions) -> jax.Array:
        shape = self.vocab_size, self.width
        embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        x_BLD = constrain(replicate(embedding_VD)[ids_BL], "BLD")
        x_BLD = self.make_position()(x_BLD, tokens.position_BL)
        return constrain(self.make_norm()(x_BLD), "BLD")


class PatchEmbedding(nn.Module):
    """A linear map of raw patches (B, L, P), P = `features` (ViT, Dosovitskiy et al.
    2020, arXiv 2010.11929, equation 1; Turner's section 4)."""

    features: int
    width: int
    make_position: Make = positions.NoPositions
    make_norm: Make = norms.Identity
    weight_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, raw_BLP: jax.Array, tokens: TokenPositions) -> jax.Array:
        shape = self.features, self.width
        w_in_PD = self.param("w_in_PD", self.weight_init, shape)
        b_in_D = biases.zero_init_bias(self, "b_in_D", (self.width,))
        narrow_BLP = raw_BLP.astype(w_in_PD.dtype)
        x_BLD = linear("BLP,PD->BLD", narrow_BLP, w_in_PD) + b_in_D
        x_BLD = self.make_position()(x_BLD, tokens.position_BL)
        return constrain(self.make_norm()(x_BLD), "BLD")


class ClassToken(nn.Module):
    """A learned class token before another embedding's tokens ([CLS] of BERT and ViT).
    `tokens` includes it: L is one more."""

    width: int
    make_embed: Make

    @nn.compact
    def __call__(self, inputs: jax.Array, tokens: TokenPositions) -> jax.Array:
        others = TokenPositions(*(a[:, 1:] for a in tokens))
        x_BLD = self.make_embed()(inputs, others)
        class_D = self.param("class_D", SMALL, (self.width,)).astype(x_BLD.dtype)
        shape = x_BLD.shape[0], 1, self.width
        class_BLD = jnp.broadcast_to(class_D[None, None], shape)
        return jnp.concatenate([class_BLD, x_BLD], axis=1)
