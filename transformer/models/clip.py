"""Two encoders whose vectors meet: an image and a text as points on one sphere (CLIP,
Radford et al. 2021, arXiv 2103.00020, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.models import defaults, encoder, vit
from transformer.network.masks import Tokens
from transformer.network.precision import contract

Make = Callable[[], nn.Module]


class Tower(nn.Module):
    """An encoder, its features gathered into one vector, and a linear map of that to a
    vector of length 1, float32 (B, F) of `features` F."""

    features: int
    width: int
    make_encoder: Make
    pool: encoder.Pool = encoder.mean

    @nn.compact
    def __call__(self, inputs: jax.Array, tokens: Tokens) -> jax.Array:
        x_BD = self.pool(self.make_encoder()(inputs, tokens), tokens)
        w_out_DF = self.param(
            "w_out_DF", defaults.SCALED(), (self.width, self.features)
        )
        x_BF = contract("BD,DF->BF", x_BD, w_out_DF).astype(jnp.float32)
        square_B = jnp.sum(jnp.square(x_BF), -1)
        return x_BF * jax.lax.rsqrt(square_B + 1e-6)[:, None]


class Towers(nn.Module):
    """A `Tower` for either view of a thing; called with both, it gives both vectors."""

    make_first: Make
    make_second: Make

    def setup(self) -> None:
        self.first = self.make_first()
        self.second = self.make_second()

    def __call__(
        self, first: Any, of_first: Tokens, second: Any, of_second: Tokens
    ) -> tuple[jax.Array, jax.Array]:
        """Two (B, F)."""
        return self.first(first, of_first), self.second(second, of_second)

    def of_first(self, inputs: Any, tokens: Tokens) -> jax.Array:
        """(B, F) of one view alone."""
        return self.first(inputs, tokens)

    def of_second(self, inputs: Any, tokens: Tokens) -> jax.Array:
        """(B, F) of the other."""
        return self.second(inputs, tokens)


def images_and_names(
    *,
    places: tuple[int, ...],
    features: int,
    vocabulary: int,
    depth: int,
    names_depth: int,
    width: int,
) -> Towers:
    """Raw patches (B, L, P), P `features`, on a grid of `places`, and texts; both in
    blocks of one width, which is also that of the vectors.

    ValueError where heads do not fill the width.
    """
    sees = vit.reader(places=places, features=features, depth=depth, width=width)
    reads = encoder.of_words(depth=names_depth, width=width, vocabulary=vocabulary)
    tower = partial(Tower, features=width, width=width)
    return Towers(
        make_first=partial(tower, make_encoder=sees),
        make_second=partial(tower, make_encoder=reads),
    )
