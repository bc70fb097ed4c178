"""The encoder: a whole sequence of any kind, each token seeing the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults
from transformer.network import biases, embeddings, masks, norms, positions
from transformer.network.block import NOTHING, Given
from transformer.network.masks import Tokens
from transformer.network.precision import contract, product

Make = Callable[[], nn.Module]


class Encoder(nn.Module):
    """embed -> blocks -> norm. The slot `make_embed` says what a sequence is made of
    (`network/embeddings.py`); the mask, in the stack's blocks, who sees whom."""

    make_embed: Make
    make_stack: Make
    make_norm: Make = norms.LayerNorm

    def setup(self) -> None:
        self.embed = self.make_embed()
        self.stack = self.make_stack()
        self.final_norm = self.make_norm()

    def __call__(
        self, inputs: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        """Features (B, L, D) of the sequence."""
        x_BLD = self.stack(self.embed(inputs, tokens), tokens, given)
        return self.final_norm(x_BLD)


def first(x_BLD: jax.Array, tokens: Tokens) -> jax.Array:
    """The first token's features (B, D), as where it is a class token."""
    return x_BLD[:, 0]


def mean(x_BLD: jax.Array, tokens: Tokens) -> jax.Array:
    """The mean (B, D) of the features of all tokens that are not padding."""
    real_BL = jnp.broadcast_to(tokens.segment_BL != 0, x_BLD.shape[:2])
    total_BD = product("BLD,BL->BD", x_BLD, real_BL.astype(x_BLD.dtype))
    count_B = jnp.maximum(real_BL.sum(-1), 1).astype(jnp.float32)
    return (total_BD / count_B[:, None]).astype(x_BLD.dtype)


def of_words(
    *, depth: int, width: int, vocabulary: int, head_features: int = 32
) -> Callable[[], Encoder]:
    """Of texts, each token seeing all of its segment, so that rows may be packed:
    rotary positions, in the blocks of `recipe`. ValueError where heads do not fill the
    width."""
    make_attention = defaults.attention_of(
        width=width,
        head_features=head_features,
        mask=masks.segments(),
        rotate=positions.rotary(),
    )
    return partial(
        Encoder,
        make_embed=partial(
            embeddings.Symbols,
            vocabulary=vocabulary,
            width=width,
            make_norm=defaults.make_norm,
            weight_init=nn.initializers.normal(1.0),
        ),
        make_stack=defaults.layers(
            depth=depth, width=width, make_attention=make_attention
        ),
        make_norm=defaults.make_norm,
    )


Pool = Callable[[jax.Array, Tokens], jax.Array]


class Classifier(nn.Module):
    """An encoder, its features gathered into one vector, and a linear readout to V
    classes, zero at first: float32 logits (B, V). With patches it is the ViT
    (Dosovitskiy et al. 2020, arXiv 2010.11929)."""

    classes: int
    width: int
    make_encoder: Make
    pool: Pool = mean

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        shape = self.classes, self.width
        self.unembedding_VD = self.param("unembedding_VD", nn.initializers.zeros, shape)
        self.b_V = biases.learned(self, "b_V", (self.classes,))

    def __call__(
        self, inputs: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        x_BD = self.features(inputs, tokens, given)
        logits_BV = product("BD,VD->BV", x_BD, self.unembedding_VD)
        return logits_BV + self.b_V[0]

    def features(
        self, inputs: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        """The vector (B, D) that the classes are read from."""
        return self.pool(self.encoder(inputs, tokens, given), tokens)


class Tagger(nn.Module):
    """An encoder and a linear readout of P features from each token, float32 (B, L, P),
    zero at first. Patches in, patches out: velocities, forecasts, frames."""

    features: int
    width: int
    make_encoder: Make

    @nn.compact
    def __call__(
        self, inputs: jax.Array, tokens: Tokens, given: Given = NOTHING
    ) -> jax.Array:
        x_BLD = self.make_encoder()(inputs, tokens, given)
        shape = self.width, self.features
        w_out_DP = self.param("w_out_DP", nn.initializers.zeros, shape)
        b_out_P = biases.learned(self, "b_out_P", (self.features,))
        return (contract("BLD,DP->BLP", x_BLD, w_out_DP) + b_out_P).astype(jnp.float32)
