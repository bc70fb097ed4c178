"""From what a sequence is made of to tokens of D features.

Every embedding is a module called as (inputs, tokens) -> x_BLD: the sequence, and where
its tokens stand. Words come as numbers of symbols, everything else as raw patches:
pixels of an image, a stretch of a film, fields on a piece of the sphere.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, whole
from transformer.network import biases, norms, positions
from transformer.network.masks import Tokens
from transformer.network.precision import contract

Make = Callable[[], nn.Module]
SMALL = nn.initializers.normal(0.02)


class Symbols(nn.Module):
    """Rows of a table: ids (B, L) int32 below `vocabulary`."""

    vocabulary: int
    width: int
    make_position: Make = positions.Absent
    make_norm: Make = norms.Absent
    weight_init: nn.initializers.Initializer = SMALL

    @nn.compact
    def __call__(self, ids_BL: jax.Array, tokens: Tokens) -> jax.Array:
        shape = self.vocabulary, self.width
        embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        x_BLD = constrain(whole(embedding_VD)[ids_BL], "BLD")
        x_BLD = self.make_position()(x_BLD, tokens.position_BL)
        return constrain(self.make_norm()(x_BLD), "BLD")


class Patches(nn.Module):
    """A linear map of raw patches (B, L, P) (ViT, Dosovitskiy et al. 2020, arXiv
    2010.11929, equation 1; Turner's section 4)."""

    features: int
    width: int
    make_position: Make = positions.Absent
    make_norm: Make = norms.Absent
    weight_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, raw_BLP: jax.Array, tokens: Tokens) -> jax.Array:
        shape = self.features, self.width
        w_in_PD = self.param("w_in_PD", self.weight_init, shape)
        b_in_D = biases.learned(self, "b_in_D", (self.width,))
        narrow_BLP = raw_BLP.astype(w_in_PD.dtype)
        x_BLD = contract("BLP,PD->BLD", narrow_BLP, w_in_PD) + b_in_D
        x_BLD = self.make_position()(x_BLD, tokens.position_BL)
        return constrain(self.make_norm()(x_BLD), "BLD")


class ClassToken(nn.Module):
    """Another embedding's tokens behind a learned one of its own, which gathers what
    the whole row says ([CLS] of BERT and ViT). `tokens` counts it: L is one more."""

    width: int
    make_embed: Make

    @nn.compact
    def __call__(self, inputs: jax.Array, tokens: Tokens) -> jax.Array:
        rest = Tokens(*(a[:, 1:] for a in tokens))
        x_BLD = self.make_embed()(inputs, rest)
        class_D = self.param("class_D", SMALL, (self.width,)).astype(x_BLD.dtype)
        shape = x_BLD.shape[0], 1, self.width
        first_BLD = jnp.broadcast_to(class_D[None, None], shape)
        return jnp.concatenate([first_BLD, x_BLD], axis=1)
