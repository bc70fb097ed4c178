"""The unembedding: the table w_VD whose product with features are a model's logits, and
what is done to them after (a soft cap, a scale).

A model returns features and table, not logits, so that a loss over a large vocabulary
need not hold all of them. Where logits are more than the product, an `Unembedding`
stands in the place of the table, and `unembed` gives the logits of either. All who
multiply do it by `unembed`; an `Unembedding` is no array, so that others fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from transformer.network.precision import Einsum, einsum_f32

# Elementwise; hashable, for it is static.
Transform = Callable[[jax.Array], jax.Array]


def identity(logits: jax.Array) -> jax.Array:
    """The product is the logits."""
    return logits


@dataclass(frozen=True)
class SoftCap:
    """cap * tanh(logits / cap) (Gemma 2, arXiv 2408.00118, section 2)."""

    cap: float

    def __call__(self, logits: jax.Array) -> jax.Array:
        return self.cap * jnp.tanh(logits / self.cap)


@dataclass(frozen=True)
class Scale:
    """factor * logits (muP, Granite, Cohere)."""

    factor: float

    def __call__(self, logits: jax.Array) -> jax.Array:
        return self.factor * logits


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["w_VD"],
    meta_fields=["transform"],
)
@dataclass(frozen=True)
class Unembedding:
    """A table and a function of its product with the features."""

    w_VD: jax.Array
    transform: Transform

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, D)."""
        return self.w_VD.shape

    def __getitem__(self, tokens: Any) -> Unembedding:
        """Of some tokens only, such as `[:ids]`."""
        return Unembedding(self.w_VD[tokens], self.transform)


# What a model returns beside its features.
Table = jax.Array | Unembedding


def parts(table: Table) -> tuple[jax.Array, Transform]:
    """(w_VD, transform) of either."""
    if isinstance(table, Unembedding):
        return table.w_VD, table.transform
    return table, identity


def unembed(
    subscripts: str, x: jax.Array, table: Table, *, einsum: Einsum = einsum_f32
) -> jax.Array:
    """The logits of features, float32: subscripts are those of the product, such as
    "BLD,VD->BLV"."""
    w_VD, transform = parts(table)
    return transform(einsum(subscripts, x, w_VD))
