"""Frequencies for longer rows equal their formulas."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from cases import close

from transformer.network import positions, rope_scales

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_divides_the_slow_frequencies(truncate: bool) -> None:
    """Against the paper's formula in float64, for a share of the features."""
    theta, factor, length, fast, slow, features = 500.0, 4.0, 64, 8.0, 0.5, 12
    sizes: Any = {"factor": factor, "length": length, "fast": fast, "slow": slow}
    scale = rope_scales.yarn_scale(theta=theta, truncate=truncate, **sizes)
    amplitude = rope_scales.yarn_amplitude(factor)
    x = np.asarray(RNG.normal(size=(1, 9, 2, 16)), np.float32)
    turn = positions.rotary(
        theta=theta, scale=scale, features=features, amplitude=amplitude
    )
    got = jax.jit(turn)(x, np.arange(9)[None])

    pair = np.arange(6)
    plain = theta ** (-pair / 6)
    first, last = (
        6 * np.log(length / (2 * np.pi * turns)) / np.log(theta)
        for turns in (fast, slow)
    )
    assert 0 < first < last < 5
    if truncate:
        first, last = np.floor(first), np.ceil(last)
    share = np.clip((pair - first) / (last - first), 0, 1)
    frequency = plain / factor * share + plain * (1 - share)
    angle = np.arange(9)[None, :, None, None] * frequency
    turned = (x[..., :6] + 1j * x[..., 6:12]) * np.exp(1j * angle)
    turned *= 0.1 * np.log(factor) + 1
    close(np.concatenate([turned.real, turned.imag, x[..., 12:]], -1), got)


def test_yarn_without_a_factor_is_plain_rotary() -> None:
    scale = rope_scales.yarn_scale(theta=500.0, factor=1.0, length=64)
    q = RNG.normal(size=(1, 4, 1, 8)).astype(np.float32)
    at = np.arange(4)[None]
    got = jax.jit(positions.rotary(theta=500.0, scale=scale))(q, at)
    close(jax.jit(positions.rotary(theta=500.0))(q, at), got)
    assert rope_scales.yarn_amplitude(1.0) == rope_scales.yarn_amplitude(0.5) == 1.0


def test_a_division_of_frequencies_is_that_of_angles() -> None:
    """Of each pair of features by its own factor; against the formula in float64."""
    factors = 1.0, 1.25, 40.0
    x = np.asarray(RNG.normal(size=(1, 9, 2, 8)), np.float32)
    amplitude = rope_scales.longrope_amplitude(32.0, 4096)
    assert amplitude == pytest.approx((1 + 5 / 12) ** 0.5)
    assert rope_scales.longrope_amplitude(0.5, 4096) == 1.0
    scale: Any = rope_scales.division(factors)
    turn = positions.rotary(scale=scale, features=6, amplitude=amplitude)
    got = jax.jit(turn)(x, np.arange(9)[None])
    frequency = 10_000.0 ** (-np.arange(3) / 3) / factors
    angle = np.arange(9)[None, :, None, None] * frequency
    turned = amplitude * (x[..., :3] + 1j * x[..., 3:6]) * np.exp(1j * angle)
    close(np.concatenate([turned.real, turned.imag, x[..., 6:]], -1), got)


def test_rows_beyond_the_known_frequencies_are_refused() -> None:
    position = positions.NoPositionsUpTo(length=4)
    x, at = np.ones((1, 5, 2)), np.arange(5)[None]
    close(x[:, :4], position.apply({}, x[:, :4], at[:, :4]))
    with pytest.raises(ValueError, match="expected rows of at most 4 tokens, got 5"):
        position.apply({}, x, at)
