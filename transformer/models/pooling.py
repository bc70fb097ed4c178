"""Pooling with parameters: one vector of a row's features, for encoders that have it
(BERT's pooler, the projections of CLIP, SigLIP's attention pooling)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import encoder
from transformer.network import attention, biases, masks, norms
from transformer.network.block import UNCONDITIONED, Conditioning, Make
from transformer.network.kv_cache import Memory
from transformer.network.masks import TokenPositions
from transformer.network.mlp import Activation
from transformer.network.precision import linear


def last_token(x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
    """The features (B, D) of the last token that is not padding."""
    real_BL = jnp.broadcast_to(tokens.segment_BL != 0, x_BLD.shape[:2])
    last_B = x_BLD.shape[1] - 1 - jnp.argmax(jnp.flip(real_BL, 1), axis=1)
    return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0]


def end_of_row(x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
    """The features (B, D) at the end of each row, padding or not."""
    return x_BLD[:, -1]


def first_and_mean(
    x_BLD: jax.Array, tokens: TokenPositions, *, registers: int = 0
) -> jax.Array:
    """The features of the first token beside the mean of all others, but for
    `registers` behind it, (B, 2 D) (DINOv2's linear classifier)."""
    others_BLD = x_BLD[:, 1 + registers :]
    return jnp.concatenate([x_BLD[:, 0], others_BLD.mean(1)], axis=-1)


def linear_activation(x: jax.Array) -> jax.Array:
    """x itself: no activation."""
    return x


class TokenPooling(nn.Module):
    """A function of all features without parameters, such as the last token's, as a
    `make_pool` of `PooledEncoder`."""

    pool: encoder.Pool = last_token

    def __call__(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        return self.pool(x_BLD, tokens)


class NormPooling(nn.Module):
    """A function of all features, by default the mean of the tokens, and a norm: a
    `pool` of `encoder.Classifier`."""

    make_norm: Make = norms.LayerNorm
    pool: encoder.Pool = encoder.mean_pooling

    def setup(self) -> None:
        self.norm = self.make_norm()

    def __call__(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        return self.norm(self.pool(x_BLD, tokens)[:, None])[:, 0]


class DensePooling(nn.Module):
    """A function of all features, such as the first token's, and a dense layer of
    `features`: (B, L, D) to (B, O)."""

    features: int
    width: int
    pool: encoder.Pool = encoder.first_token
    activation: Activation = jnp.tanh
    make_bias: biases.MakeBias = biases.zero_init_bias

    @nn.compact
    def __call__(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        init = nn.initializers.normal(0.02)
        w_DO = self.param("w_DO", init, (self.width, self.features))
        b_O: Any = self.make_bias(self, "b_O", (self.features,))
        x_BLD = self.pool(x_BLD, tokens)[:, None]
        return self.activation(linear("BLD,DO->BLO", x_BLD, w_DO) + b_O)[:, 0]


class AttentionPooling(nn.Module):
    """The values that a learned query attends to, and an MLP: (B, L, D) to (B, D)
    (Lee et al. 2018, arXiv 1810.00825; SigLIP, Zhai et al. 2023, arXiv 2303.15343).

    make_attention: `attention.Attention`; its mask selects the tokens.
    """

    width: int
    make_attention: Make
    make_mlp: Make
    make_norm: Make = norms.LayerNorm

    def setup(self) -> None:
        init = nn.initializers.normal(0.02)
        self.query_D = self.param("query_D", init, (self.width,))
        self.attention: attention.Attention = self.make_attention()  # pyright: ignore
        self.norm = self.make_norm()
        self.mlp = self.make_mlp()

    def __call__(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        shape = x_BLD.shape[0], 1, self.width
        query_BLD = jnp.broadcast_to(self.query_D.astype(x_BLD.dtype), shape)
        memory = Memory(x_BLD, tokens)
        one = masks.single_document(1)
        y_BLD = self.attention.cross_attend(query_BLD, one, memory)
        return (y_BLD + self.mlp(self.norm(y_BLD)))[:, 0]


class PooledEncoder(nn.Module):
    """An encoder and the pooling of its features; both are called as
    (inputs or features, tokens)."""

    make_encoder: Make
    make_pool: Make

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        self.pool = self.make_pool()

    def __call__(
        self,
        inputs: Any,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """The pooled vector (B, O) of each row."""
        return self.pool(self.features(inputs, tokens, conditioning), tokens)

    def features(
        self,
        inputs: Any,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """The features (B, L, D) of all tokens."""
        return self.encoder(inputs, tokens, conditioning)


def identity_pool(x_BD: jax.Array, tokens: TokenPositions) -> jax.Array:
    """The vectors themselves: an `encoder.Pool` behind a `PooledEncoder`."""
    return x_BD


def classifier(
    make_encoder: Make, make_pool: Make, width: int, classes: int
) -> encoder.Classifier:
    """A classifier of an encoder whose pooling has parameters; width: of the pooled
    vector."""
    make = partial(PooledEncoder, make_encoder=make_encoder, make_pool=make_pool)
    return encoder.Classifier(classes, width, make, identity_pool)
