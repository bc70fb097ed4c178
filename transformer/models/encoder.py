"""The encoder: bidirectional attention over a whole sequence of any kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults
from transformer.network import biases, embeddings, masks, norms, positions
from transformer.network.block import UNCONDITIONED, Conditioning, Make
from transformer.network.masks import TokenPositions
from transformer.network.precision import cast_weights, einsum_f32, linear

# (features x_BLD, tokens) -> one vector per row, (B, D).
Pool = Callable[[jax.Array, TokenPositions], jax.Array]


class Encoder(nn.Module):
    """embed -> blocks -> norm. `make_embed` embeds the inputs
    (`network/embeddings.py`); the masks of the stack's blocks select what a token
    attends to."""

    make_embed: Make
    make_stack: Make
    make_norm: Make = norms.LayerNorm

    def setup(self) -> None:
        self.embed = self.make_embed()
        self.stack = self.make_stack()
        self.final_norm = self.make_norm()

    def __call__(
        self,
        inputs: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """Features (B, L, D) of the sequence."""
        x_BLD = self.stack(self.embed(inputs, tokens), tokens, conditioning)
        return self.final_norm(x_BLD)


def first_token(x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
    """The features (B, D) of the first token, such as a class token."""
    return x_BLD[:, 0]


def mean_pooling(x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
    """The mean (B, D) of the features of all tokens that are not padding."""
    real_BL = jnp.broadcast_to(tokens.segment_BL != 0, x_BLD.shape[:2])
    total_BD = einsum_f32("BLD,BL->BD", x_BLD, real_BL.astype(x_BLD.dtype))
    count_B = jnp.maximum(real_BL.sum(-1), 1).astype(jnp.float32)
    return (total_BD / count_B[:, None]).astype(x_BLD.dtype)


def text_encoder(
    *,
    depth: int,
    width: int,
    vocab_size: int,
    head_features: int = defaults.HEAD_FEATURES,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> Callable[[], Encoder]:
    """An encoder of token ids with rotary positions and the default block; tokens
    attend to their own segment, so rows may be packed.

    make_attention(width=...), make_mlp(width=...): slots of the blocks, the defaults if
    None. ValueError where the default heads do not fill the width.
    """
    make_attention = make_attention or defaults.attention(
        width=width,
        head_features=head_features,
        mask=masks.segments(),
        rotate=positions.rotary(),
    )
    return partial(
        Encoder,
        make_embed=partial(
            embeddings.TokenEmbedding,
            vocab_size=vocab_size,
            width=width,
            make_norm=defaults.make_norm,
            weight_init=nn.initializers.normal(1.0),
        ),
        make_stack=defaults.stack(
            depth=depth, width=width, make_attention=make_attention, make_mlp=make_mlp
        ),
        make_norm=defaults.make_norm,
    )


class Classifier(nn.Module):
    """An encoder, pooling of its features into one vector, and a linear map to V
    classes, zero at first: float32 logits (B, V). On patches it is the ViT (Dosovitskiy
    et al. 2020, arXiv 2010.11929). pool: a function, or a module with parameters of its
    own (`pooling.NormPooling`)."""

    classes: int
    width: int
    make_encoder: Make
    pool: Pool = mean_pooling

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        shape = self.classes, self.width
        self.unembedding_VD = self.param("unembedding_VD", nn.initializers.zeros, shape)
        self.b_V = biases.zero_init_bias(self, "b_V", (self.classes,))

    def __call__(
        self,
        inputs: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        x_BD = self.features(inputs, tokens, conditioning)
        logits_BV = einsum_f32("BD,VD->BV", x_BD, self.unembedding_VD)
        return logits_BV + self.b_V[0]

    def features(
        self,
        inputs: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        """The pooled features (B, D), the input of the linear map."""
        return self.pool(self.encoder(inputs, tokens, conditioning), tokens)


def text_classifier(
    *,
    classes: int,
    vocab_size: int,
    depth: int = 2,
    width: int | None = None,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> Classifier:
    """A classifier of texts: a `text_encoder` of `width` (32 * depth if None), the mean
    of its features, and a linear map to `classes`. Slots and errors as there."""
    width = defaults.HEAD_FEATURES * depth if width is None else width
    make_encoder = text_encoder(
        depth=depth,
        width=width,
        vocab_size=vocab_size,
        make_attention=make_attention,
        make_mlp=make_mlp,
    )
    return Classifier(classes=classes, width=width, make_encoder=make_encoder)


def logits(
    net: Classifier, compute_dtype: str = "float32"
) -> Callable[[Any, Any], jax.Array]:
    """The function (params, batch) -> float32 logits (B, V) of a `text_classifier`, for
    the arrays `ids_BL` and `segment_BL` of a batch."""

    def apply(params: Any, batch: Any) -> jax.Array:
        index_BL = jnp.arange(batch["ids_BL"].shape[1], dtype=jnp.int32)[None]
        tokens = masks.packed(batch["segment_BL"], index_BL)
        weights = cast_weights(params, compute_dtype)
        logits_BV: Any = net.apply({"params": weights}, batch["ids_BL"], tokens)
        return logits_BV

    return apply


def init_params(net: Classifier, key: jax.Array) -> Any:
    """The parameters of a `text_classifier`, a nested dictionary of float32 arrays."""
    ids_BL = jnp.zeros((1, 1), jnp.int32)
    return net.init(key, ids_BL, masks.single_document(1))["params"]


class TokenRegressor(nn.Module):
    """An encoder and a linear map of each token to P output features, zero at first:
    float32 (B, L, P). Patches to patches: velocities, forecasts, frames."""

    output_features: int
    width: int
    make_encoder: Make

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        tokens: TokenPositions,
        conditioning: Conditioning = UNCONDITIONED,
    ) -> jax.Array:
        x_BLD = self.make_encoder()(inputs, tokens, conditioning)
        shape = self.width, self.output_features
        w_out_DP = self.param("w_out_DP", nn.initializers.zeros, shape)
        b_out_P = biases.zero_init_bias(self, "b_out_P", (self.output_features,))
        return (linear("BLD,DP->BLP", x_BLD, w_out_DP) + b_out_P).astype(jnp.float32)
