"""Attention rollout against its definition."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from transformer.interpretability import attention_rollout

ROWS, HEADS, LENGTH = 3, 2, 5


def attention_matrices(layers: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = np.exp(rng.normal(size=(layers, ROWS, HEADS, LENGTH, LENGTH)))
    return [(a / a.sum(-1, keepdims=True)).astype(np.float32) for a in positive]


def rollout(layers: list[np.ndarray], residual: float) -> np.ndarray:
    run = partial(attention_rollout.rollout, residual=residual)
    return np.asarray(jax.jit(run)(layers))


@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_rollout_is_the_product_of_the_layers_matrices(residual: float) -> None:
    first, second, third = attention_matrices(3)
    identity = np.eye(LENGTH)
    got = rollout([first, second, third], residual)
    for row in range(ROWS):
        means = [np.mean(a[row], 0) for a in (first, second, third)]
        steps = [residual * identity + (1 - residual) * mean for mean in means]
        expected = steps[2] @ steps[1] @ steps[0]
        np.testing.assert_allclose(got[row], expected, rtol=1e-5)


def test_rows_sum_to_one_even_where_a_token_attends_to_none() -> None:
    layers = attention_matrices(4)
    layers[1][:, :, 2] = 0.0
    fractions = rollout(layers, 0.3)
    np.testing.assert_allclose(fractions.sum(-1), 1, rtol=1e-5)
    assert (fractions >= 0).all()


def test_rollout_of_the_residual_alone_is_the_identity() -> None:
    fractions = rollout(attention_matrices(3), 1.0)
    np.testing.assert_array_equal(fractions, np.broadcast_to(np.eye(5), (ROWS, 5, 5)))
