"""Frequencies of rotary positions for rows longer than those of pretraining: functions
of the frequencies (K / 2), for `scale` of `positions.rotary`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def _llama3(
    frequency_K: jax.Array, *, factor: float, low: float, high: float, length: int
) -> jax.Array:
    turns_K = length * frequency_K / (2 * math.pi)
    share_K = jnp.clip((turns_K - low) / (high - low), 0.0, 1.0)
    return (1 - share_K) * frequency_K / factor + share_K * frequency_K


def llama3_scale(
    *, factor: float, low: float, high: float, length: int
) -> Callable[[jax.Array], jax.Array]:
    """The frequencies of Llama 3.1: those of less than `low` turns in the `length`
    tokens of pretraining are divided by `factor`, those of more than `high` stay, and
    between them the share changes linearly (Grattafiori et al. 2024, arXiv 2407.21783,
    section 3.4.2 and their code)."""
    return partial(_llama3, factor=factor, low=low, high=high, length=length)


def _yarn(
    frequency_K: jax.Array,
    *,
    theta: float,
    factor: float,
    fast: float,
    slow: float,
    length: int,
    truncate: bool,
) -> jax.Array:
    half = frequency_K.shape[0]
    # The index of the pair of features that turns so many times in the length.
    low, high = (
        half * math.log(length / (2 * math.pi * turns)) / math.log(theta)
        for turns in (fast, slow)
    )
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    span = high - low or 0.001
    share_K = jnp.clip((jnp.arange(half) - low) / span, 0.0, 1.0)
    return share_K * frequency_K / factor + (1 - share_K) * frequency_K


def yarn_scale(
    *,
    theta: float,
    factor: float,
    fast: float = 32.0,
    slow: float = 1.0,
    length: int,
    truncate: bool = True,
) -> Callable[[jax.Array], jax.Array]:
    """The frequencies of YaRN (Peng et al. 2023, arXiv 2309.00071, section 3.2): those
    of more than `fast` turns in the `length` tokens of pretraining stay, those of less
    than `slow` are divided by `factor`, and between them the share changes linearly
    with the index. theta: of the frequencies. truncate: to whole indices."""
    return partial(
        _yarn,
        theta=theta,
        factor=factor,
        fast=fast,
        slow=slow,
        length=length,
        truncate=truncate,
    )


def yarn_amplitude(factor: float) -> float:
    """The `amplitude` that YaRN has for a factor of the length (equation 22)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _divide(frequency_K: jax.Array, *, factors: tuple[float, ...]) -> jax.Array:
    return frequency_K / np.asarray(factors, np.float32)


def division(factors: Sequence[float]) -> Callable[[jax.Array], jax.Array]:
    """Each frequency divided by its factor (LongRoPE, Ding et al. 2024, arXiv
    2402.13753). factors: K / 2 numbers."""
    return partial(_divide, factors=tuple(factors))


def longrope_amplitude(factor: float, length: int) -> float:
    """The `amplitude` that LongRoPE has where rows may be `factor` times as long as
    `length`, those of pretraining (section 4.2 and the code of Phi 3)."""
    return math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0
