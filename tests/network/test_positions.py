"""Positional encodings equal their formulas, and what follows from them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import close
from formulas import apply_random

from transformer.network import (
    masks,
    positions,
)

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(2, 5, 8)).astype(np.float32)
POSITIONS = np.array([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]], np.int32)


def test_embedding_positions_count_within_the_document() -> None:
    got, p = apply_random(positions.Learned(length=5), X, POSITIONS)
    close(X + p["position_LD"][POSITIONS], got)
    got, _ = apply_random(positions.NoPositions(), X, POSITIONS)
    close(X, got)
    got, _ = apply_random(positions.SinusoidalPositions(theta=100.0), X, POSITIONS)
    angle = POSITIONS[..., None] / 100.0 ** (np.arange(4) / 4)
    close(X + np.concatenate([np.sin(angle), np.cos(angle)], -1), got)


@pytest.mark.parametrize("interpolation", [1.0, 4.0])
def test_rotary_rotates_each_pair_by_its_angle(interpolation: float) -> None:
    q = X.reshape(2, 5, 2, 4)
    rotate = jax.jit(positions.rotary(theta=50.0, interpolation=interpolation))
    got = rotate(q, POSITIONS)
    angle = POSITIONS[..., None] / 50.0 ** (np.arange(2) / 2) / interpolation
    turn = np.exp(1j * angle)[:, :, None]
    pairs = (q[..., :2] + 1j * q[..., 2:]) * turn
    close(np.concatenate([pairs.real, pairs.imag], -1), got)


@pytest.mark.parametrize("interpolation", [1.0, 3.0])
def test_rotary_scores_depend_on_distance_only(interpolation: float) -> None:
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(1, 1, 1, 8)).astype(np.float32) for _ in "qk")
    turn = jax.jit(positions.rotary(interpolation=interpolation))
    index_BL = np.arange(40)[None]
    q_BLHK, k_BLHK = (turn(np.repeat(a, 40, axis=1), index_BL) for a in (q, k))
    scores = np.asarray(np.einsum("BLHK,BMHK->LM", q_BLHK, k_BLHK))
    for distance in range(-39, 40):
        line = np.diagonal(scores, distance)
        np.testing.assert_allclose(line, line[0], atol=1e-4)
    assert np.std(scores[0]) > 0.1


def test_rotary_interpolation_divides_positions() -> None:
    q, at = RNG.normal(size=(1, 4, 1, 8)).astype(np.float32), np.arange(4)[None]
    far = jax.jit(positions.rotary(interpolation=2.0))(q, 2 * at)
    close(jax.jit(positions.rotary())(q, at), far)


@pytest.mark.parametrize(
    ("module", "width", "words"),
    [
        (
            positions.Learned(length=4),
            8,
            "expected rows of at most 4 tokens, got 5",
        ),
        (positions.SinusoidalPositions(), 7, "width: expected an even number, got 7"),
    ],
)
def test_invalid_positions_raise(module: Any, width: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        module.init(jax.random.key(0), X[:, :, :width], POSITIONS)


def test_rotary_requires_an_even_number_of_features() -> None:
    with pytest.raises(ValueError, match="expected an even number, got 3"):
        positions.rotary()(np.ones((2, 5, 2, 3)), POSITIONS)


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (2, [1 / 16, 1 / 256]),
        (4, [1 / 4, 1 / 16, 1 / 64, 1 / 256]),
        (3, [1 / 16, 1 / 256, 1 / 4]),
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_alibi_is_linear_in_distance(heads: int, slopes: list[float]) -> None:
    tokens = masks.TokenPositions(POSITIONS, POSITIONS, np.ones_like(POSITIONS))
    got = jax.jit(positions.alibi(heads))(tokens, tokens)
    distance = np.abs(POSITIONS[:, None, :, None] - POSITIONS[:, None, None, :])
    assert got.dtype == jnp.float32
    close(-np.asarray(slopes)[None, :, None, None] * distance, got)


def test_axial_scores_depend_on_the_offset_along_each_dimension() -> None:
    """Scores depend on the offset along each dimension alone, modulo the size of a
    periodic dimension."""
    shape = (3, 4)
    rotate = jax.jit(positions.axial(shape, periodic=[1]))
    q, k = (np.asarray(RNG.normal(size=(1, 1, 1, 10)), np.float32) for _ in "qk")
    index_BL = np.arange(12)[None]
    q_BLHK, k_BLHK = (rotate(np.tile(a, (1, 12, 1, 1)), index_BL) for a in (q, k))
    score = np.asarray(np.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BLHK))[0, 0]
    score = score.reshape(*shape, *shape)
    for row, column, to_row, to_column in np.ndindex(*shape, *shape):
        around = (to_column - column) % 4
        down = to_row - row
        expected = (
            score[0, 0, down, around] if down >= 0 else score[-down, 0, 0, around]
        )
        np.testing.assert_allclose(
            score[row, column, to_row, to_column], expected, atol=1e-4
        )
    assert len(np.unique(score[0, 0].round(3))) == 12
