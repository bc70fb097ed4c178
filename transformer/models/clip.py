"""CLIP: an image encoder and a text encoder with a shared embedding space (Radford et
al. 2021, arXiv 2103.00020, section 2.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder, vit
from transformer.network import biases, masks
from transformer.network.block import Make
from transformer.network.masks import TokenPositions
from transformer.network.precision import einsum_f32, linear


class ProjectedEncoder(nn.Module):
    """An encoder, pooling, and a linear projection to an embedding of length 1, float32
    (B, Z) of `features` Z."""

    features: int
    width: int
    make_encoder: Make
    pool: encoder.Pool = encoder.mean_pooling

    @nn.compact
    def __call__(self, inputs: jax.Array, tokens: TokenPositions) -> jax.Array:
        x_BD = self.pool(self.make_encoder()(inputs, tokens), tokens)
        shape = self.width, self.features
        w_out_DZ = self.param("w_out_DZ", defaults.fan_in_init(), shape)
        x_BZ = linear("BD,DZ->BZ", x_BD, w_out_DZ).astype(jnp.float32)
        square_B = jnp.sum(jnp.square(x_BZ), -1)
        return x_BZ * jax.lax.rsqrt(square_B + 1e-6)[:, None]


class DualEncoder(nn.Module):
    """A `ProjectedEncoder` for images and one for texts."""

    make_image_encoder: Make
    make_text_encoder: Make

    def setup(self) -> None:
        self.image_encoder = self.make_image_encoder()
        self.text_encoder = self.make_text_encoder()

    def __call__(
        self,
        raw_BLP: jax.Array,
        patches: TokenPositions,
        ids_BL: jax.Array,
        tokens: TokenPositions,
    ) -> tuple[jax.Array, jax.Array]:
        """Embeddings (B, Z) of images, as raw patches, and of texts, as token ids."""
        return self.encode_image(raw_BLP, patches), self.encode_text(ids_BL, tokens)

    def encode_image(self, raw_BLP: jax.Array, patches: TokenPositions) -> jax.Array:
        """Embeddings (B, Z) of images."""
        return self.image_encoder(raw_BLP, patches)

    def encode_text(self, ids_BL: jax.Array, tokens: TokenPositions) -> jax.Array:
        """Embeddings (B, Z) of texts."""
        return self.text_encoder(ids_BL, tokens)


class ScoredDualEncoder(nn.Module):
    """Encoders of images and of texts whose embeddings have length 1, and the score of
    a pair: their cosine times a learned factor, plus a bias (CLIP; SigLIP, Zhai et al.
    2023, arXiv 2303.15343, which has the bias). The encoders give (B, Z) of any length.
    """

    make_image_encoder: Make
    make_text_encoder: Make
    make_bias: biases.MakeBias = biases.no_bias

    def setup(self) -> None:
        self.image_encoder = self.make_image_encoder()
        self.text_encoder = self.make_text_encoder()
        init = nn.initializers.constant(math.log(1 / 0.07))
        self.lambda_log_scale = self.param("lambda_log_scale", init, ())
        self.bias = self.make_bias(self, "bias_score", ())

    def __call__(
        self,
        raw_BLP: jax.Array,
        patches: TokenPositions,
        ids_BL: jax.Array,
        tokens: TokenPositions,
    ) -> tuple[jax.Array, jax.Array]:
        """Embeddings (B, Z) of images and of texts, as of a `DualEncoder`."""
        return self.encode_image(raw_BLP, patches), self.encode_text(ids_BL, tokens)

    def encode_image(self, raw_BLP: jax.Array, patches: TokenPositions) -> jax.Array:
        """Embeddings (B, Z) of images."""
        return unit_length(self.image_encoder(raw_BLP, patches))

    def encode_text(self, ids_BL: jax.Array, tokens: TokenPositions) -> jax.Array:
        """Embeddings (B, Z) of texts."""
        return unit_length(self.text_encoder(ids_BL, tokens))

    def scores(self, image_BZ: jax.Array, text_CZ: jax.Array) -> jax.Array:
        """The scores (B, C) of images with texts, float32."""
        cosine_BC = einsum_f32("BZ,CZ->BC", image_BZ, text_CZ)
        return cosine_BC * jnp.exp(self.lambda_log_scale) + self.bias


def unit_length(x_BZ: jax.Array) -> jax.Array:
    """x / |x|, float32."""
    wide_BZ = x_BZ.astype(jnp.float32)
    square_B = jnp.sum(jnp.square(wide_BZ), -1)
    return wide_BZ * jax.lax.rsqrt(jnp.maximum(square_B, 1e-30))[:, None]


def clip(
    *,
    grid: tuple[int, ...],
    patch_features: int,
    vocab_size: int,
    depth: int,
    text_depth: int,
    width: int,
    make_image_encoder: Make | None = None,
    make_text_encoder: Make | None = None,
) -> DualEncoder:
    """A `DualEncoder` of raw patches (B, L, P), P `patch_features`, on a `grid`, and of
    token ids; `width` is that of both encoders and of the embeddings.

    make_image_encoder, make_text_encoder: make an `encoder.Encoder` of this width; if
    None, `vit.patch_encoder` of `depth` and `encoder.text_encoder` of `text_depth`
    blocks. ValueError where the default heads do not fill the width.
    """
    make_image_encoder = make_image_encoder or vit.patch_encoder(
        grid=grid, patch_features=patch_features, depth=depth, width=width
    )
    make_text_encoder = make_text_encoder or encoder.text_encoder(
        depth=text_depth, width=width, vocab_size=vocab_size
    )
    project = partial(ProjectedEncoder, features=width, width=width)
    return DualEncoder(
        make_image_encoder=partial(project, make_encoder=make_image_encoder),
        make_text_encoder=partial(project, make_encoder=make_text_encoder),
    )


def init_params(net: DualEncoder, key: jax.Array, *, like: Any) -> Any:
    """The parameters; like: shape and dtype of a row of raw patches (1, L, P)."""
    raw_BLP = jnp.zeros(like.shape, like.dtype)
    one_BL = jnp.ones((1, 1), jnp.int32)
    patches = masks.single_document(like.shape[1])
    tokens = masks.single_document(1)
    return net.init(key, raw_BLP, patches, one_BL, tokens)["params"]


def apply(
    net: DualEncoder, params: Any, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Embeddings (B, Z) of the batch's images `raw_BLP`, and of its texts `ids_BL`,
    whose padding has `segment_BL` 0."""
    images = encode_images(net, params, batch["raw_BLP"])
    return images, encode_texts(net, params, batch["ids_BL"], batch["segment_BL"])


def encode_images(net: DualEncoder, params: Any, raw_BLP: jax.Array) -> jax.Array:
    """Embeddings (B, Z) of images."""
    tokens = masks.single_document(raw_BLP.shape[1])
    inputs = raw_BLP, tokens
    image_BZ: Any = net.apply({"params": params}, *inputs, method="encode_image")
    return image_BZ


def encode_texts(
    net: DualEncoder | ScoredDualEncoder,
    params: Any,
    ids_BL: jax.Array,
    segment_BL: jax.Array,
) -> jax.Array:
    """Embeddings (B, Z) of texts, one document per row."""
    tokens = masks.packed(segment_BL, jnp.arange(segment_BL.shape[1])[None])
    inputs = ids_BL, tokens
    text_BZ: Any = net.apply({"params": params}, *inputs, method="encode_text")
    return text_BZ
