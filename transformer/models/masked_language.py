"""The masked language model: an encoder of symbols that says what stands at each place
(BERT, Devlin et al. 2018, arXiv 1810.04805)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import decoder, encoder, recipe
from transformer.models.decoder import Readout
from transformer.network import embeddings, masks, positions

Make = Callable[[], nn.Module]
MASK = masks.everything()
HEAD_FEATURES = 64


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
    """Rotary positions, heads of 64 features, the blocks of `recipe`. ValueError where
    heads do not fill the width."""
    make_attention = recipe.attention_of(
        width=width,
        head_features=HEAD_FEATURES,
        mask=MASK,
        rotate=positions.rotary(),
    )
    make_embed = partial(
        embeddings.Symbols,
        vocabulary=vocabulary,
        width=width,
        make_norm=recipe.make_norm,
        weight_init=nn.initializers.normal(1.0),
    )
    return MaskedLanguage(
        vocabulary=vocabulary,
        width=width,
        make_encoder=partial(
            encoder.Encoder,
            make_embed=make_embed,
            make_stack=recipe.layers(
                depth=depth, width=width, make_attention=make_attention
            ),
            make_norm=recipe.make_norm,
        ),
    )


def initial(net: MaskedLanguage, key: jax.Array) -> Any:
    """The parameters, a nested dictionary of float32 arrays."""
    return net.init(key, jnp.zeros((1, 1), jnp.int32), masks.row(1))["params"]


def training_flops(params: Any, *, length: int, width: int, depth: int) -> float:
    """Floating-point operations of one row's forward and backward pass."""
    return decoder.training_flops(
        params, mask=MASK, length=length, heads=1, head_features=width, depth=depth
    )
