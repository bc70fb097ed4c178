"""The masked language model: an encoder of symbols that says what stands at each place
(BERT, Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import decoder, encoder
from transformer.models.decoder import Readout
from transformer.network import masks

Make = Callable[[], nn.Module]


class MaskedLanguage(nn.Module):
    """An encoder and a readout of V symbols, zero at first: the pair (features,
    unembedding) as of a `Decoder`, of each place itself."""

    vocabulary: int
    width: int
    make_encoder: Make

    def setup(self) -> None:
        self.encoder = self.make_encoder()
        shape = self.vocabulary, self.width
        self.unembedding_VD = self.param("unembedding_VD", nn.initializers.zeros, shape)

    def __call__(self, ids_BL: jax.Array, tokens: masks.Tokens) -> Readout:
        return self.encoder(ids_BL, tokens), self.unembedding_VD

    def vectors(self, ids_BL: jax.Array, tokens: masks.Tokens) -> jax.Array:
        """The mean of each row's features, (B, D)."""
        return encoder.mean(self.encoder(ids_BL, tokens), tokens)


def of_words(*, vocabulary: int, depth: int, width: int) -> MaskedLanguage:
    """With the encoder `encoder.of_words` in heads of 64 features. ValueError where
    they do not fill the width."""
    make_encoder = encoder.of_words(
        vocabulary=vocabulary, depth=depth, width=width, head_features=64
    )
    return MaskedLanguage(vocabulary, width, make_encoder)


def initial(net: MaskedLanguage, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    return net.init(key, jnp.zeros((1, 1), jnp.int32), masks.row(1))["params"]


def training_flops(params: Any, *, length: int, width: int, depth: int) -> float:
    """Floating-point operations of one row's forward and backward pass."""
    return decoder.training_flops(
        params,
        mask=masks.everything(),
        length=length,
        heads=1,
        head_features=width,
        depth=depth,
    )
