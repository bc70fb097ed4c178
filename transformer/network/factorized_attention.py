"""Attention along one dimension of a grid at a time: factorised attention (Ho et al.
2019, arXiv 1912.12180; TimeSformer, Bertasius et al. 2021, arXiv 2102.05095; ViViT,
Arnab et al. 2021, arXiv 2103.15691, section 3.3).

A film of T frames of S tokens has (T S)^2 pairs of tokens, T S^2 within frames and
S T^2 along time. Tokens that do not see each other are rows of a batch: the attention
inside is the same module as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from transformer.axes import constrain
from transformer.network.masks import Tokens, row

Make = Callable[[], nn.Module]


class Fold(NamedTuple):
    """How rows (B, T S, D) become rows of tokens that see each other, and back."""

    there: Callable[[jax.Array], jax.Array]
    back: Callable[[jax.Array, int], jax.Array]


def within_frames(frames: int) -> Fold:
    """The S tokens of each frame: (B T, S, D)."""

    def there(x_BLD: jax.Array) -> jax.Array:
        rows, length, width = x_BLD.shape
        return x_BLD.reshape(rows * frames, length // frames, width)

    def back(x_BLD: jax.Array, rows: int) -> jax.Array:
        return x_BLD.reshape(rows, -1, x_BLD.shape[-1])

    return Fold(there, back)


def along_time(frames: int) -> Fold:
    """The T tokens of each place: (B S, T, D)."""

    def there(x_BLD: jax.Array) -> jax.Array:
        rows, length, width = x_BLD.shape
        x_BTSD = x_BLD.reshape(rows, frames, length // frames, width)
        return x_BTSD.swapaxes(1, 2).reshape(-1, frames, width)

    def back(x_BLD: jax.Array, rows: int) -> jax.Array:
        x_BSTD = x_BLD.reshape(rows, -1, *x_BLD.shape[1:])
        return x_BSTD.swapaxes(1, 2).reshape(rows, -1, x_BLD.shape[-1])

    return Fold(there, back)


class Folded(nn.Module):
    """An `Attention` among the tokens that `fold` puts together, each row of which it
    counts from 0: for the slot of a block. All frames are whole, there is no padding;
    ValueError where the row does not fill its frames."""

    make_attention: Make
    fold: Fold
    frames: int

    @nn.compact
    def __call__(self, x_BLD: jax.Array, tokens: Tokens) -> jax.Array:
        rows, length, _ = x_BLD.shape
        if length % self.frames:
            raise ValueError(
                f"expected a multiple of {self.frames} frames' tokens, got {length}"
            )
        folded_BLD = self.fold.there(x_BLD)
        y_BLD = self.make_attention()(folded_BLD, row(folded_BLD.shape[1]))
        return constrain(self.fold.back(y_BLD, rows), "BLD")
