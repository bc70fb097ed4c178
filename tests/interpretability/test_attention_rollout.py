"""Attention rollout against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.interpretability import attention_rollout

ROWS, HEADS, LENGTH = 3, 2, 5


def attention_matrices(layers: int, seed: int = 0) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    positive = np.exp(rng.normal(size=(layers, ROWS, HEADS, LENGTH, LENGTH)))
    return [jnp.asarray(a / a.sum(-1, keepdims=True), jnp.float32) for a in positive]


@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_rollout_is_the_product_of_the_layers_matrices(residual: float) -> None:
    first, second, third = attention_matrices(3)
    identity = np.eye(LENGTH)
    for row in range(ROWS):
        means = [np.mean(a[row], 0) for a in (first, second, third)]
        steps = [residual * identity + (1 - residual) * mean for mean in means]
        expected = steps[2] @ steps[1] @ steps[0]
        got = attention_rollout.rollout([first, second, third], residual=residual)
        np.testing.assert_allclose(got[row], expected, rtol=1e-5)


def test_rows_sum_to_one_even_where_a_token_attends_to_none() -> None:
    layers = attention_matrices(4)
    layers[1] = layers[1].at[:, :, 2].set(0.0)
    fractions = attention_rollout.rollout(layers, residual=0.3)
    np.testing.assert_allclose(fractions.sum(-1), 1, rtol=1e-5)
    assert (fractions >= 0).all()


def test_rollout_of_the_residual_alone_is_the_identity() -> None:
    fractions = attention_rollout.rollout(attention_matrices(3), residual=1.0)
    np.testing.assert_array_equal(fractions, np.broadcast_to(np.eye(5), (ROWS, 5, 5)))
