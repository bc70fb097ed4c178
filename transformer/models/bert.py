"""The masked language model: an encoder of tokens that predicts the token at each
position (BERT, Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder
from transformer.models.decoder import Readout, with_bias
from transformer.network import biases, masks, norms
from transformer.network.block import Make
from transformer.network.mlp import Activation, exact_gelu
from transformer.network.precision import linear


class MaskedLM(nn.Module):
    """An encoder and an unembedding of V tokens, zero at first. It returns the pair
    (features, unembedding) like a `Decoder`; position l predicts token l itself."""

    vocab_size: int
    width: int
    make_encoder: Make

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        shape = self.vocab_size, self.width
        self.unembedding_VD = self.param("unembedding_VD", nn.initializers.zeros, shape)

    def __call__(self, ids_BL: jax.Array, tokens: masks.TokenPositions) -> Readout:
        return self.encoder(ids_BL, tokens), self.unembedding_VD

    def pooled_features(
        self, ids_BL: jax.Array, tokens: masks.TokenPositions
    ) -> jax.Array:
        """The mean of each row's features, (B, D)."""
        return encoder.mean_pooling(self.encoder(ids_BL, tokens), tokens)


class FeatureTransform(nn.Module):
    """A dense layer, an activation and a norm of each token's features, before an
    unembedding: (B, L, D) to (B, L, D) (BERT's masked-LM head)."""

    width: int
    activation: Activation = exact_gelu
    make_norm: Make = norms.LayerNorm
    make_bias: biases.MakeBias = biases.zero_init_bias

    def setup(self) -> None:
        init = nn.initializers.normal(0.02)
        self.w_DO = self.param("w_DO", init, (self.width, self.width))
        self.b_O = self.make_bias(self, "b_O", (self.width,))
        self.norm = self.make_norm()

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        h_BLO = linear("BLD,DO->BLO", x_BLD, self.w_DO) + self.b_O
        return self.norm(self.activation(h_BLO))


class TiedMaskedLM(nn.Module):
    """A `MaskedLM` whose unembedding is the encoder's own embedding table, with a bias,
    after a transform of the features (BERT, RoBERTa).

    The pair that it returns is one `decoder.with_bias`.

    make_encoder: an `encoder.Encoder` whose embedding is a `PositionedEmbedding` of an
    `AdditiveEmbedding`.
    """

    vocab_size: int
    make_encoder: Make
    make_transform: Make

    def setup(self) -> None:
        self.encoder: Any = self.make_encoder()
        self.transform = self.make_transform()
        zeros = nn.initializers.zeros
        self.b_V = self.param("b_V", zeros, (self.vocab_size,))

    def __call__(self, inputs: Any, tokens: masks.TokenPositions) -> Readout:
        x_BLD = self.transform(self.encoder(inputs, tokens))
        table_VD = self.encoder.embed.content.embedding_VD
        return with_bias(x_BLD, table_VD, self.b_V)

    def features(self, inputs: Any, tokens: masks.TokenPositions) -> jax.Array:
        """The features (B, L, D) of the encoder."""
        return self.encoder(inputs, tokens)


def bert(
    *,
    vocab_size: int,
    depth: int,
    width: int,
    make_attention: defaults.MakeOfWidth | None = None,
    make_mlp: defaults.MakeOfWidth | None = None,
) -> MaskedLM:
    """A `MaskedLM` of `encoder.text_encoder` with heads of 64 features; the slots are
    its. ValueError where the default heads do not fill the width."""
    make_encoder = encoder.text_encoder(
        vocab_size=vocab_size,
        depth=depth,
        width=width,
        head_features=defaults.TEXT_HEAD_FEATURES,
        make_attention=make_attention,
        make_mlp=make_mlp,
    )
    return MaskedLM(vocab_size, width, make_encoder)


def init_params(net: MaskedLM, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    ids_BL = jnp.zeros((1, 1), jnp.int32)
    return net.init(key, ids_BL, masks.single_document(1))["params"]


def apply(
    net: MaskedLM,
    params: Any,
    ids_BL: jax.Array,
    segment_BL: jax.Array | None = None,
    **options: Any,
) -> Any:
    """`net.apply` with the positions of rows of one document. segment_BL: 1 for a token
    and 0 for padding, where rows are padded. options: of `flax.linen.Module.apply`,
    such as `method`."""
    tokens = masks.single_document(ids_BL.shape[1])
    if segment_BL is not None:
        tokens = tokens._replace(segment_BL=segment_BL)
    return net.apply({"params": params}, ids_BL, tokens, **options)
