"""Factorized attention: along one dimension of a grid at a time (Ho et al. 2019, arXiv
1912.12180; TimeSformer, Bertasius et al. 2021, arXiv 2102.05095; ViViT, Arnab et al.
2021, arXiv 2103.15691, section 3.3).

A video of T frames of S tokens has (T S)^2 pairs of tokens, T S^2 within frames and
S T^2 along time. Tokens that do not attend to each other become rows of a batch; the
attention inside is an ordinary `Attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from transformer.axes import constrain
from transformer.network.block import Make
from transformer.network.masks import TokenPositions, single_document


class AxisFold(NamedTuple):
    """A reshape of rows (B, T S, D) into rows of tokens that attend to each other, and
    its inverse, whose second argument is B."""

    fold: Callable[[jax.Array], jax.Array]
    unfold: Callable[[jax.Array, int], jax.Array]


def within_frames(frames: int) -> AxisFold:
    """The S tokens of each frame: (B T, S, D)."""

    def fold(x_BLD: jax.Array) -> jax.Array:
        rows, length, width = x_BLD.shape
        return x_BLD.reshape(rows * frames, length // frames, width)

    def unfold(x_BLD: jax.Array, rows: int) -> jax.Array:
        return x_BLD.reshape(rows, -1, x_BLD.shape[-1])

    return AxisFold(fold, unfold)


def along_time(frames: int) -> AxisFold:
    """The T tokens of each position in space: (B S, T, D)."""

    def fold(x_BLD: jax.Array) -> jax.Array:
        rows, length, width = x_BLD.shape
        x_BTSD = x_BLD.reshape(rows, frames, length // frames, width)
        return x_BTSD.swapaxes(1, 2).reshape(-1, frames, width)

    def unfold(x_BLD: jax.Array, rows: int) -> jax.Array:
        x_BSTD = x_BLD.reshape(rows, -1, *x_BLD.shape[1:])
        return x_BSTD.swapaxes(1, 2).reshape(rows, -1, x_BLD.shape[-1])

    return AxisFold(fold, unfold)


class FactorizedAttention(nn.Module):
    """An `Attention` along one axis, for a block's slot. Positions count from 0 along
    the axis. Rows have whole frames and no padding; ValueError for another length. It
    cannot decode from a cache."""

    make_attention: Make
    axis: AxisFold
    frames: int

    @nn.compact
    def __call__(self, x_BLD: jax.Array, tokens: TokenPositions) -> jax.Array:
        rows, length, _ = x_BLD.shape
        if length % self.frames:
            raise ValueError(
                f"expected a multiple of {self.frames} frames' tokens, got {length}"
            )
        folded_BLD = self.axis.fold(x_BLD)
        y_BLD = self.make_attention()(folded_BLD, single_document(folded_BLD.shape[1]))
        return constrain(self.axis.unfold(y_BLD, rows), "BLD")

    @nn.nowrap
    def empty_cache(self, *arguments: Any) -> Any:
        """ValueError: there is no cached form."""
        raise ValueError("FactorizedAttention cannot decode from a cache")
