"""Embeddings of a sequence as tokens of D features.

Every embedding is a module called as (inputs, tokens) -> x_BLD with the tokens'
positions. Inputs are token ids (B, L), or raw patches (B, L, P): pixels of an image, a
space-time block of a video, fields on a part of the sphere.

They compose: (tables | patches | convolutions) -> `MaskToken` -> `ClassToken` ->
positions and a norm of all tokens, the class token included (`PositionedEmbedding`) ->
`RegisterTokens`, which have no positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.axes import constrain, replicate
from transformer.network import biases, norms, positions
from transformer.network.block import Make
from transformer.network.masks import TokenPositions
from transformer.network.precision import embed, linear

SMALL = nn.initializers.normal(0.02)
# Of a convolution's kernel.
TAPS = 3


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
        x_BLD = constrain(embed(embedding_VD, ids_BL), "BLD")
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
    make_bias: biases.MakeBias = biases.zero_init_bias

    @nn.compact
    def __call__(self, raw_BLP: jax.Array, tokens: TokenPositions) -> jax.Array:
        shape = self.features, self.width
        w_in_PD = self.param("w_in_PD", self.weight_init, shape)
        b_in_D = self.make_bias(self, "b_in_D", (self.width,))
        narrow_BLP = raw_BLP.astype(w_in_PD.dtype)
        x_BLD = linear("BLP,PD->BLD", narrow_BLP, w_in_PD) + b_in_D
        x_BLD = self.make_position()(x_BLD, tokens.position_BL)
        return constrain(self.make_norm()(x_BLD), "BLD")


class ConvEmbedding(nn.Module):
    """Frames (B, 2 L, P), P = `features`, through two convolutions of three taps with
    an activation behind each; the second one has stride 2, so that L tokens are left
    (Whisper, Radford et al. 2022, arXiv 2212.04356, section 2.2). The ends are padded
    with zeros. ValueError unless there are two frames for each token."""

    features: int
    width: int
    activation: Callable[[jax.Array], jax.Array]
    weight_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, raw_BLP: jax.Array, tokens: TokenPositions) -> jax.Array:
        frames, length = raw_BLP.shape[1], tokens.position_BL.shape[1]
        if frames != 2 * length:
            raise ValueError(
                f"ConvEmbedding: expected {2 * length} frames for {length} tokens, got "
                f"{frames}"
            )
        shape = TAPS, self.features, self.width
        w_in_WPD = self.param("w_in_WPD", self.weight_init, shape)
        b_in_D = biases.zero_init_bias(self, "b_in_D", (self.width,))
        shape = TAPS, self.width, self.width
        w_out_WDO = self.param("w_out_WDO", self.weight_init, shape)
        b_out_O = biases.zero_init_bias(self, "b_out_O", (self.width,))
        narrow_BLP = raw_BLP.astype(w_in_WPD.dtype)
        x_BLD = self.activation(_convolution(narrow_BLP, w_in_WPD, stride=1) + b_in_D)
        x_BLO = self.activation(_convolution(x_BLD, w_out_WDO, stride=2) + b_out_O)
        return constrain(x_BLO, "BLD")


def _convolution(x_BLP: jax.Array, w_WPD: jax.Array, *, stride: int) -> jax.Array:
    """A convolution along L as a linear map of all taps; zeros beyond both ends."""
    length = x_BLP.shape[1] // stride
    padded_BLP = jnp.pad(x_BLP, ((0, 0), (TAPS // 2, TAPS // 2), (0, 0)))
    taps = [padded_BLP[:, tap::stride][:, :length] for tap in range(TAPS)]
    return linear("BLWP,WPD->BLD", jnp.stack(taps, axis=2), w_WPD)


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


class RegisterTokens(nn.Module):
    """`count` learned tokens behind the first token of another embedding, a class token
    (registers, Darcet et al. 2023, arXiv 2309.16588). `tokens` includes them: L is
    `count` more."""

    count: int
    width: int
    make_embed: Make

    @nn.compact
    def __call__(self, inputs: jax.Array, tokens: TokenPositions) -> jax.Array:
        others = TokenPositions(*(a[:, : a.shape[1] - self.count] for a in tokens))
        x_BLD = self.make_embed()(inputs, others)
        register_CD = self.param("register_CD", SMALL, (self.count, self.width))
        shape = x_BLD.shape[0], self.count, self.width
        register_BCD = jnp.broadcast_to(register_CD.astype(x_BLD.dtype)[None], shape)
        parts = x_BLD[:, :1], register_BCD, x_BLD[:, 1:]
        return constrain(jnp.concatenate(parts, axis=1), "BLD")


class TypedTokens(NamedTuple):
    """Token ids (B, L) and the kind of each (B, L) below `kinds`, as inputs of an
    `AdditiveEmbedding`."""

    ids_BL: jax.Array
    kind_BL: jax.Array


class AdditiveEmbedding(nn.Module):
    """The sum of a row for each token's id and one for its kind: BERT's word and token
    type embeddings. Inputs are `TypedTokens`, or ids alone, all of kind 0. kinds: 0 for
    no table of kinds."""

    vocab_size: int
    kinds: int
    width: int
    weight_init: nn.initializers.Initializer = SMALL

    def setup(self) -> None:
        shape = self.vocab_size, self.width
        self.embedding_VD = self.param("embedding_VD", self.weight_init, shape)
        if self.kinds:
            shape = self.kinds, self.width
            self.kind_AD = self.param("kind_AD", self.weight_init, shape)

    def __call__(
        self, inputs: jax.Array | TypedTokens, tokens: TokenPositions
    ) -> jax.Array:
        if not isinstance(inputs, TypedTokens):
            inputs = TypedTokens(inputs, jnp.zeros_like(inputs))
        x_BLD = embed(self.embedding_VD, inputs.ids_BL)
        if self.kinds:
            x_BLD = x_BLD + replicate(self.kind_AD)[inputs.kind_BL]
        return constrain(x_BLD, "BLD")


class MaskedInputs(NamedTuple):
    """Inputs of an embedding, and which of its tokens (B, L) the mask token replaces,
    for a `MaskToken`."""

    inputs: jax.Array
    masked_BL: jax.Array


class MaskToken(nn.Module):
    """A learned token in place of another embedding's where `MaskedInputs` say so
    (masked image modeling, Bao et al. 2021, arXiv 2106.08254; DINOv2). Other inputs
    pass unchanged."""

    width: int
    make_embed: Make

    @nn.compact
    def __call__(
        self, inputs: jax.Array | MaskedInputs, tokens: TokenPositions
    ) -> jax.Array:
        mask_D = self.param("mask_D", nn.initializers.zeros, (self.width,))
        if not isinstance(inputs, MaskedInputs):
            return self.make_embed()(inputs, tokens)
        x_BLD = self.make_embed()(inputs.inputs, tokens)
        masked_BLD = inputs.masked_BL[..., None]
        return jnp.where(masked_BLD, mask_D[None, None].astype(x_BLD.dtype), x_BLD)


class PositionedEmbedding(nn.Module):
    """Another embedding, then positions and a norm of all of its tokens. A class token
    in it has a position of its own: position 0 (BERT, ViT, CLIP)."""

    make_content: Make
    make_position: Make = positions.NoPositions
    make_norm: Make = norms.Identity

    def setup(self) -> None:
        self.content = self.make_content()
        self.position = self.make_position()
        self.norm = self.make_norm()

    def __call__(
        self,
        inputs: jax.Array | TypedTokens | MaskedInputs,
        tokens: TokenPositions,
    ) -> jax.Array:
        x_BLD = self.content(inputs, tokens)
        x_BLD = self.position(x_BLD, tokens.position_BL)
        return constrain(self.norm(x_BLD), "BLD")
