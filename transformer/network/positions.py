"""Positional encodings.

A position enters in one of three places, each a slot: added to the embedding (learned,
sinusoidal), as a rotation of queries and keys (rotary), or added to the scores (ALiBi).
`NoPositions` and `identity` fill a slot without effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.network.masks import TokenPositions

Rotate = Callable[[jax.Array, jax.Array], jax.Array]
ScoreBias = Callable[[TokenPositions, TokenPositions], jax.Array]


def check_length(position: nn.Module, length: int) -> None:
    """ValueError where rows, or a cache, of `length` tokens have more positions than
    the module `position` has: the last ones would share a learned vector."""
    limit = getattr(position, "length", None)
    limit = None if limit is None else limit - getattr(position, "offset", 0)
    if limit is not None and length > limit:
        raise ValueError(
            f"positions: expected rows of at most {limit} tokens, got {length}"
        )


def check_grid(position: Any, length: int) -> None:
    """ValueError unless rows have as many tokens as a grid of one size has."""
    if length != position.length:
        raise ValueError(
            f"positions of a grid: expected rows of {position.length} tokens, got "
            f"{length}"
        )


class NoPositions(nn.Module):
    """No positions in the embedding."""

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        return x_BLD


class NoPositionsUpTo(nn.Module):
    """No positions in the embedding, for a rope that is known for rows of up to
    `length` tokens only. ValueError for longer rows; `check_length` does for caches."""

    length: int

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        check_length(self, x_BLD.shape[1])
        return x_BLD


class Learned(nn.Module):
    """One learned vector per position, `length` of them (GPT-2, BERT, ViT).

    offset: the vector of position 0, where others stand before it (RoBERTa). Raises
    ValueError for longer rows; `check_length` does for caches.
    """

    length: int
    stddev: float = 0.02
    offset: int = 0

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        check_length(self, x_BLD.shape[1])
        shape = (self.length, x_BLD.shape[-1])
        init = nn.initializers.normal(self.stddev)
        position_LD = self.param("position_LD", init, shape)
        vector_BLD = position_LD[position_BL + self.offset]
        return x_BLD + vector_BLD.astype(x_BLD.dtype)


class LearnedGrid(nn.Module):
    """One learned vector for each of the `length` tokens of a row, as for images of one
    size (ViT). ValueError for rows of another length, whose tokens lie elsewhere."""

    length: int
    stddev: float = 0.02

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        check_grid(self, x_BLD.shape[1])
        init = nn.initializers.normal(self.stddev)
        position_LD = self.param("position_LD", init, (self.length, x_BLD.shape[-1]))
        return x_BLD + position_LD[None].astype(x_BLD.dtype)


class FixedGrid(nn.Module):
    """Vectors that are computed, not learned, for each of the `length` tokens of a row.

    make_table: width -> (length, width), such as `interleaved_sinusoids`. ValueError
    for rows of another length, whose tokens lie elsewhere.
    """

    length: int
    make_table: Callable[[int], np.ndarray]

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        check_grid(self, x_BLD.shape[1])
        table_LD = self.make_table(x_BLD.shape[-1])
        return x_BLD + jnp.asarray(table_LD, x_BLD.dtype)[None]


class FixedPositions(nn.Module):
    """Vectors that are computed, not learned, one for each of `length` positions.

    make_table: width -> (length, width), such as `split_sinusoids`. ValueError for
    longer rows; `check_length` does for caches.
    """

    length: int
    make_table: Callable[[int], np.ndarray]

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        check_length(self, x_BLD.shape[1])
        table_LD = jnp.asarray(self.make_table(x_BLD.shape[-1]), x_BLD.dtype)
        return x_BLD + table_LD[position_BL]


def _sinusoid_angles(width: int, *, length: int, theta: float) -> np.ndarray:
    half = _half("sinusoidal positions: width", width)
    # In float64: an angle in the thousands has an error of 1e-4 in float32.
    frequency_K = theta ** (-np.arange(half) / half)
    return np.arange(length)[:, None] * frequency_K[None]


def _split_sinusoids(width: int, *, length: int, theta: float) -> np.ndarray:
    angle_LK = _sinusoid_angles(width, length=length, theta=theta)
    return np.concatenate([np.sin(angle_LK), np.cos(angle_LK)], axis=-1)


def split_sinusoids(
    length: int, *, theta: float = 10_000.0
) -> Callable[[int], np.ndarray]:
    """The table of `SinusoidalPositions`: sines in the first half of the features,
    cosines in the other (Marian)."""
    return partial(_split_sinusoids, length=length, theta=theta)


def _interleaved_sinusoids(width: int, *, length: int, theta: float) -> np.ndarray:
    angle_LK = _sinusoid_angles(width, length=length, theta=theta)
    return np.stack([np.sin(angle_LK), np.cos(angle_LK)], axis=-1).reshape(length, -1)


def interleaved_sinusoids(
    length: int, *, theta: float = 10_000.0
) -> Callable[[int], np.ndarray]:
    """The table of `SinusoidalPositions` with sine and cosine of one frequency side by
    side (VideoMAE, Tong et al. 2022, arXiv 2203.12602)."""
    return partial(_interleaved_sinusoids, length=length, theta=theta)


def _grid_sinusoids(width: int, *, side: int, theta: float) -> np.ndarray:
    quarter = _half("sinusoidal positions: width / 2", width // 2)
    frequency_K = theta ** (-np.arange(quarter) / quarter)
    row_L, column_L = np.divmod(np.arange(side * side), side)
    angles = [place[:, None] * frequency_K[None] for place in (column_L, row_L)]
    waves = [wave(angle_LK) for angle_LK in angles for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=-1)


def grid_sinusoids(
    side: int, *, theta: float = 10_000.0
) -> Callable[[int], np.ndarray]:
    """Sines and cosines of the column in the first half of the features, and of the row
    in the other, for a square of `side` x `side` tokens (MAE, He et al. 2021, arXiv
    2111.06377, and DiT, by their code)."""
    return partial(_grid_sinusoids, side=side, theta=theta)


class SinusoidalPositions(nn.Module):
    """Sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5)."""

    theta: float = 10_000.0

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        half = _half("sinusoidal positions: width", x_BLD.shape[-1])
        angle_BLK = _angles(position_BL, half, self.theta)
        wave_BLD = jnp.concatenate([jnp.sin(angle_BLK), jnp.cos(angle_BLK)], axis=-1)
        return x_BLD + wave_BLD.astype(x_BLD.dtype)


def _half(what: str, count: int) -> int:
    if count % 2:
        raise ValueError(f"{what}: expected an even number, got {count}")
    return count // 2


def _frequencies(count: int, theta: float) -> jax.Array:
    return theta ** (-jnp.arange(count, dtype=jnp.float32) / count)


def _angles(position_BL: jax.Array, count: int, theta: float) -> jax.Array:
    frequency_K = _frequencies(count, theta)
    return position_BL[..., None].astype(jnp.float32) * frequency_K[None, None]


def identity(x_BLHK: jax.Array, position_BL: jax.Array) -> jax.Array:
    """Queries and keys unchanged."""
    return x_BLHK


def _rotate_pairs(
    x_BLHK: jax.Array, angle_BLK: jax.Array, amplitude: float = 1.0
) -> jax.Array:
    """Pairs (first half, second half) of features, rotated by angles (B, L, K / 2) and
    multiplied by `amplitude`."""
    half = angle_BLK.shape[-1]
    cos_BLHK = (amplitude * jnp.cos(angle_BLK))[:, :, None].astype(x_BLHK.dtype)
    sin_BLHK = (amplitude * jnp.sin(angle_BLK))[:, :, None].astype(x_BLHK.dtype)
    a_BLHK, b_BLHK = x_BLHK[..., :half], x_BLHK[..., half:]
    return jnp.concatenate(
        [a_BLHK * cos_BLHK - b_BLHK * sin_BLHK, b_BLHK * cos_BLHK + a_BLHK * sin_BLHK],
        axis=-1,
    )


def _rotary(
    x_BLHK: jax.Array,
    position_BL: jax.Array,
    *,
    theta: float,
    interpolation: float,
    scale: Callable[[jax.Array], jax.Array] | None,
    features: int | None,
    amplitude: float,
) -> jax.Array:
    count = x_BLHK.shape[-1] if features is None else features
    half = _half("rotary positions: head features", count)
    if scale is None:
        angle_BLK = _angles(position_BL, half, theta) / interpolation
    else:
        frequency_K = scale(_frequencies(half, theta)) / interpolation
        angle_BLK = position_BL[..., None].astype(jnp.float32) * frequency_K[None, None]
    if count == x_BLHK.shape[-1]:
        return _rotate_pairs(x_BLHK, angle_BLK, amplitude)
    rotated_BLHK = _rotate_pairs(x_BLHK[..., :count], angle_BLK, amplitude)
    return jnp.concatenate([rotated_BLHK, x_BLHK[..., count:]], axis=-1)


def rotary(
    *,
    theta: float = 10_000.0,
    interpolation: float = 1.0,
    scale: Callable[[jax.Array], jax.Array] | None = None,
    features: int | None = None,
    amplitude: float = 1.0,
) -> Rotate:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864), first half against second.

    interpolation > 1 divides the positions by it, so that a model trained on rows of L
    tokens accepts interpolation * L (Chen et al. 2023, arXiv 2306.15595). scale: a
    function of the frequencies (K / 2), of `rope_scales.py`. features: rotate only
    the first ones of a head, an even number. amplitude: factor of the rotated features
    (YaRN). Raises ValueError when the number of rotated features is odd.
    """
    return partial(
        _rotary,
        theta=theta,
        interpolation=interpolation,
        scale=scale,
        features=features,
        amplitude=amplitude,
    )


def _axial(
    x_BLHK: jax.Array,
    position_BL: jax.Array,
    *,
    shape: tuple[int, ...],
    periodic: tuple[bool, ...],
    theta: float,
) -> jax.Array:
    count = x_BLHK.shape[-1] // (2 * len(shape))
    parts, stride = [], math.prod(shape)
    for i, (size, wraps) in enumerate(zip(shape, periodic, strict=True)):
        stride //= size
        coordinate_BL = (position_BL // stride) % size
        if wraps:
            wave_K = 2 * math.pi / size * jnp.arange(1, count + 1, dtype=jnp.float32)
            angle_BLK = (
                coordinate_BL[..., None].astype(jnp.float32) * wave_K[None, None]
            )
        else:
            angle_BLK = _angles(coordinate_BL, count, theta)
        part_BLHK = x_BLHK[..., 2 * count * i : 2 * count * (i + 1)]
        parts.append(_rotate_pairs(part_BLHK, angle_BLK))
    rest_BLHK = x_BLHK[..., 2 * count * len(shape) :]
    return jnp.concatenate([*parts, rest_BLHK], axis=-1)


def axial(
    shape: Sequence[int], *, periodic: Sequence[int] = (), theta: float = 100.0
) -> Rotate:
    """Rotary positions on a grid whose last dimension varies fastest: rows x columns,
    or frames x rows x columns. Each dimension rotates an equal part of the features
    (Heo et al. 2024, arXiv 2403.13298, section 3.2); the remainder is not rotated.

    periodic: the dimensions with periodic boundaries, such as longitude. Their features
    rotate a whole number of times around, so both ends are neighbors.
    """
    is_periodic = tuple(dimension in periodic for dimension in range(len(shape)))
    return partial(_axial, shape=tuple(shape), periodic=is_periodic, theta=theta)


def _alibi(queries: TokenPositions, keys: TokenPositions, *, heads: int) -> jax.Array:
    power = 2.0 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(int(power))]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - int(power))]
    distance_BLM = jnp.abs(queries.position_BL[:, :, None] - keys.position_BL[:, None])
    slope_H = jnp.asarray(slopes, jnp.float32)
    return -slope_H[None, :, None, None] * distance_BLM[:, None].astype(jnp.float32)


def alibi(heads: int) -> ScoreBias:
    """ALiBi: scores fall linearly with distance, with one slope per head (Press et al.
    2021, arXiv 2108.12409). Returns float32 (B, H, L, M)."""
    return partial(_alibi, heads=heads)
