"""Contrastive losses against the formulas of their papers by hand, in float64."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from cases import close

from transformer import axes
from transformer.objectives import contrastive


def embeddings(seed: int, rows: int = 8) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, 5)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


clip_loss = jax.jit(partial(contrastive.clip_loss, temperature=0.1))


def test_clip_loss_is_two_cross_entropies() -> None:
    image, text = embeddings(0), embeddings(6)
    weight = np.array([1, 1, 1, 1, 1, 1, 0.5, 2], np.float32)
    scores = image.astype(np.float64) @ text.T / 0.1
    expected = 0.0
    for row in range(8):
        for logits in (scores[row], scores[:, row]):
            p = np.exp(logits - logits.max())
            expected -= weight[row] * np.log(p[row] / p.sum()) / 2
    loss = clip_loss(image, text, weight)
    np.testing.assert_allclose(loss.total, expected, rtol=1e-5)
    text_correct, image_correct = (
        weight[scores.argmax(axis) == np.arange(8)].sum() for axis in (0, 1)
    )
    assert text_correct != image_correct, "else the axis would not matter"
    assert float(loss.sums["correct"]) == image_correct
    assert float(loss.weight) == weight.sum()
    perfect = clip_loss(image, image, np.ones(8, np.float32))
    assert float(perfect.sums["correct"]) == 8
    metrics = contrastive.pair_metrics(loss)
    assert metrics["loss"] == pytest.approx(expected / weight.sum(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(image_correct / weight.sum())


def test_sigmoid_loss_is_that_of_each_pair_by_itself() -> None:
    """Equation 1 of arXiv 2303.15343: -sum of log sigmoid(z (t cosine + b)), z = 1 for
    a pair and -1 for the others."""
    image, text, (scale, bias) = embeddings(0), embeddings(6), (9.0, -2.0)
    score = scale * image.astype(np.float64) @ text.T + bias
    weight = np.array([1, 1, 1, 0.5, 2, 1, 1, 1], np.float32)
    sign = 2 * np.eye(8) - 1
    nats = np.log1p(np.exp(-sign * score))
    loss = jax.jit(contrastive.sigmoid_loss)(score.astype(np.float32), weight)
    np.testing.assert_allclose(loss.total, weight @ nats.sum(1), rtol=1e-5)
    correct = weight[score.argmax(1) == np.arange(8)].sum()
    assert 0 < correct < 8 and float(loss.sums["correct"]) == correct
    assert float(loss.weight) == weight.sum()


@pytest.mark.parametrize("name", ["softmax_loss", "sigmoid_loss"])
def test_scores_of_rows_of_weight_zero_do_not_count(name: str) -> None:
    """Neither by their rows nor by their columns, whatever they are."""
    function = jax.jit(getattr(contrastive, name))
    score = 20 * np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    weight = np.array([1, 1, 0, 1, 1, 0, 1, 0], np.float32)
    real = weight > 0
    close(function(score[real][:, real], weight[real]), function(score, weight))
    slope = np.asarray(jax.jit(jax.grad(lambda *a: function(*a).total))(score, weight))
    assert slope[real][:, real].all()
    assert not slope[~real].any() and not slope[:, ~real].any()


def test_rows_of_weight_zero_are_no_negatives() -> None:
    image, text = embeddings(2), embeddings(3)
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    gradient = jax.jit(jax.grad(lambda *a: clip_loss(*a).total, argnums=(0, 1)))
    without = clip_loss(image[:5], text[:5], weight[:5])
    close(without, clip_loss(image, text, weight))
    for slope in gradient(image, text, weight):
        slope = np.asarray(slope)
        assert np.abs(slope[:5]).max(1).all() and not slope[5:].any()


def test_negatives_are_those_of_the_batch_on_any_number_of_devices() -> None:
    """But not those of another microbatch, whose loss is lower."""
    arrays = {
        "image_BD": embeddings(4),
        "text_BD": embeddings(5),
        "weight_B": np.ones(8, np.float32),
    }
    expected = clip_loss(*arrays.values())
    mesh = axes.make_mesh()
    with jax.set_mesh(mesh):
        sharded = jax.device_put(arrays, axes.batch_shardings(mesh, arrays))
        close(expected, clip_loss(*sharded.values()))
    halves = [clip_loss(*(a[i : i + 4] for a in arrays.values())) for i in (0, 4)]
    assert sum(float(half.total) for half in halves) < 0.9 * float(expected.total)
