"""What tells a transformer the order of its tokens.

A position can enter in three places, each a value for its slot: added to the embedding
(learned, sinusoidal), turned into queries and keys (rotary), or added to the scores
(ALiBi). `Absent` and `unrotated` are the values that do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.network.masks import Tokens

Rotate = Callable[[jax.Array, jax.Array], jax.Array]
Bias = Callable[[Tokens, Tokens], jax.Array]


class Absent(nn.Module):
    """No position added to the embedding."""

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        return x_BLD


class Learned(nn.Module):
    """One learned vector a position, up to `length` of them (GPT-2, BERT, ViT).

    Raises ValueError for longer rows, whose last tokens would share one vector.
    """

    length: int
    deviation: float = 0.02

    @nn.compact
    def __call__(self, x_BLD: jax.Array, position_BL: jax.Array) -> jax.Array:
        if x_BLD.shape[1] > self.length:
            raise ValueError(
                f"learned positions: expected rows of at most {self.length} tokens, "
                f"got {x_BLD.shape[1]}"
            )
        shape = (self.length, x_BLD.shape[-1])
        init = nn.initializers.normal(self.deviation)
        position_LD = self.param("position_LD", init, shape)
        return x_BLD + position_LD[position_BL].astype(x_BLD.dtype)


class Sinusoidal(nn.Module):
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


def _angles(position_BL: jax.Array, count: int, theta: float) -> jax.Array:
    frequency_K = theta ** (-jnp.arange(count, dtype=jnp.float32) / count)
    return position_BL[..., None].astype(jnp.float32) * frequency_K[None, None]


def unrotated(x_BLHK: jax.Array, position_BL: jax.Array) -> jax.Array:
    """Queries and keys as they are."""
    return x_BLHK


def _turned(x_BLHK: jax.Array, angle_BLK: jax.Array) -> jax.Array:
    """Pairs (first half, second half) of features turned by angles (B, L, K / 2)."""
    half = angle_BLK.shape[-1]
    cos_BLHK = jnp.cos(angle_BLK)[:, :, None].astype(x_BLHK.dtype)
    sin_BLHK = jnp.sin(angle_BLK)[:, :, None].astype(x_BLHK.dtype)
    a_BLHK, b_BLHK = x_BLHK[..., :half], x_BLHK[..., half:]
    return jnp.concatenate(
        [a_BLHK * cos_BLHK - b_BLHK * sin_BLHK, b_BLHK * cos_BLHK + a_BLHK * sin_BLHK],
        axis=-1,
    )


def _rotary(
    x_BLHK: jax.Array, position_BL: jax.Array, *, theta: float, stretch: float
) -> jax.Array:
    half = _half("rotary positions: head features", x_BLHK.shape[-1])
    angle_BLK = _angles(position_BL, half, theta) / stretch
    return _turned(x_BLHK, angle_BLK)


def rotary(*, theta: float = 10_000.0, stretch: float = 1.0) -> Rotate:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864), first half against second.

    stretch > 1 interpolates positions, so that a model trained on L tokens reads
    stretch * L (Chen et al. 2023, arXiv 2306.15595). Raises ValueError when the number
    of head features is odd.
    """
    return partial(_rotary, theta=theta, stretch=stretch)


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
    for i, (size, closes) in enumerate(zip(shape, periodic, strict=True)):
        stride //= size
        place_BL = (position_BL // stride) % size
        if closes:
            wave_K = 2 * math.pi / size * jnp.arange(1, count + 1, dtype=jnp.float32)
            angle_BLK = place_BL[..., None].astype(jnp.float32) * wave_K[None, None]
        else:
            angle_BLK = _angles(place_BL, count, theta)
        part_BLHK = x_BLHK[..., 2 * count * i : 2 * count * (i + 1)]
        parts.append(_turned(part_BLHK, angle_BLK))
    rest_BLHK = x_BLHK[..., 2 * count * len(shape) :]
    return jnp.concatenate([*parts, rest_BLHK], axis=-1)


def axial(
    shape: Sequence[int], *, periodic: Sequence[int] = (), theta: float = 100.0
) -> Rotate:
    """Rotary positions on a grid whose last dimension runs fastest: rows x columns, or
    frames x rows x columns. Each dimension turns its own equal share of the features
    (Heo et al. 2024, arXiv 2403.13298, section 3.2); what cannot be shared stays.

    periodic: the dimensions that close upon themselves, such as longitude. Their
    features turn a whole number of times around, so the far end is a neighbour.
    """
    closes = tuple(dimension in periodic for dimension in range(len(shape)))
    return partial(_axial, shape=tuple(shape), periodic=closes, theta=theta)


def stretched_theta(theta: float, *, stretch: float, head_features: int) -> float:
    """The "NTK-aware" theta: fast frequencies stay, the slowest is stretched fully
    (YaRN, Peng et al. 2023, arXiv 2309.00071, section 3.1)."""
    return theta * stretch ** (head_features / (head_features - 2))


def _alibi(queries: Tokens, keys: Tokens, *, heads: int) -> jax.Array:
    power = 2.0 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(int(power))]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - int(power))]
    distance_BLM = jnp.abs(queries.position_BL[:, :, None] - keys.position_BL[:, None])
    slope_H = jnp.asarray(slopes, jnp.float32)
    return -slope_H[None, :, None, None] * distance_BLM[:, None].astype(jnp.float32)


def alibi(heads: int) -> Bias:
    """Scores fall linearly with distance, each head with its own slope (Press et al.
    2021, arXiv 2108.12409). Gives float32 (B, H, L, M)."""
    return partial(_alibi, heads=heads)
