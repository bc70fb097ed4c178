"""The denoising objective of a perfect and of an ignorant model."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.objectives import cross_entropy, denoising
from transformer.objectives.loss import Loss
from transformer.processes import flow_matching, masked_diffusion

KEY = jax.random.key(0)
VOCAB_SIZE = 64


def test_denoising_loss_is_zero_for_the_truth_and_log_v_for_uniform_logits() -> None:
    ids_BL = np.random.default_rng(0).integers(0, VOCAB_SIZE, (4, 8))

    @jax.jit
    def loss(scale: Any) -> Any:
        process = masked_diffusion.process(mask_id=VOCAB_SIZE)
        logits_BLV = scale * jax.nn.one_hot(ids_BL, VOCAB_SIZE + 1)
        return denoising.denoising_loss(
            process, cross_entropy.cross_entropy, lambda x, t: logits_BLV, ids_BL, KEY
        )

    true, uniform = loss(50.0), loss(0.0)
    assert float(true.total) < 1e-6 < float(true.weight) < ids_BL.size
    np.testing.assert_allclose(
        float(uniform.total) / float(uniform.weight),
        np.log(VOCAB_SIZE + 1),
        rtol=1e-5,
    )


def test_denoising_loss_weighs_rows() -> None:
    """The true velocity has no loss; a row of weight 0 does not count."""
    x_BLP = np.full((3, 2, 4), 2.0, np.float32)

    @jax.jit
    def loss(shift_B: jax.Array, weight_B: Any) -> Any:
        return denoising.denoising_loss(
            flow_matching.process(),
            denoising.squared_error,
            lambda x, t: (x_BLP - x) / (1 - t)[:, None, None] + shift_B[:, None, None],
            x_BLP,
            KEY,
            weight_B=weight_B,
        )

    shift_B = np.array([0.0, 0.0, 2.0])
    true = loss(np.zeros(3), 1.0)
    assert float(true.total) < 1e-6 and float(true.weight) == 6
    shifted, without = loss(shift_B, 1.0), loss(shift_B, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(shifted.total, 2 * 2.0**2, rtol=1e-5)
    assert float(without.total) < 1e-6 and float(without.weight) == 4


def test_labels_are_dropped_at_the_rate() -> None:
    label_B = np.arange(20_000) % 7
    drop_labels = jax.jit(partial(denoising.drop_labels, null_label=7))
    dropped_B = np.asarray(drop_labels(label_B, KEY, rate=0.1))
    assert abs(float((dropped_B == 7).mean()) - 0.1) < 0.01
    np.testing.assert_array_equal(dropped_B[dropped_B != 7], label_B[dropped_B != 7])
    for rate, count in ((0.0, 0), (1.0, 20_000)):
        dropped_B = np.asarray(drop_labels(label_B, KEY, rate=rate))
        assert (dropped_B == 7).sum() == count


def test_class_conditional_loss_is_the_denoising_loss_given_the_labels() -> None:
    """Those of the batch, or the null label where all are dropped."""
    batch = {
        "x_BLP": np.float32(np.random.default_rng(0).normal(size=(3, 2, 4))),
        "label_B": np.array([0, 1, 2]),
        "weight_B": np.array([1.0, 1.0, 0.0]),
    }

    def predict(shift: Any, label_B: jax.Array, x: jax.Array, t: jax.Array) -> Any:
        return x + shift + label_B[:, None, None]

    for dropout, label_B in ((0.0, batch["label_B"]), (1.0, np.full(3, 5))):
        expected = jax.jit(
            partial(
                denoising.denoising_loss,
                flow_matching.process(),
                denoising.squared_error,
                partial(predict, 0.5, label_B),
            )
        )(batch["x_BLP"], KEY, weight_B=batch["weight_B"])
        got = jax.jit(
            partial(
                denoising.class_conditional_loss,
                denoising.squared_error,
                predict,
                0.5,
                process=flow_matching.process(),
                inputs="x_BLP",
                null_label=5,
                label_dropout=dropout,
            )
        )(batch, KEY)
        assert float(got.total) == float(expected.total)
        assert float(got.weight) == float(expected.weight) == 4


def test_a_dropped_text_is_the_null_text() -> None:
    """Its ids and its segments, in the rows in which `drop_labels` drops a label."""
    rng = np.random.default_rng(0)
    text = rng.integers(3, 9, (40, 5)), rng.integers(1, 3, (40, 5))
    null_text = np.array([[2, 0, 0, 0, 0]]), np.array([[1, 0, 0, 0, 0]])
    drop_labels = jax.jit(partial(denoising.drop_labels, null_label=1))
    drop_texts = jax.jit(denoising.drop_texts)
    for rate in (0.0, 0.4, 1.0):
        dropped_B = np.asarray(drop_labels(np.zeros(40, np.int32), KEY, rate=rate))
        assert rate - 0.2 < dropped_B.mean() < rate + 0.2
        expected = (
            np.where(dropped_B[:, None] == 1, null, a)
            for a, null in zip(text, null_text, strict=True)
        )
        got = drop_texts(text, null_text, KEY, rate=rate)
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(one, other)


def test_metrics_are_means_over_the_weight() -> None:
    sums = {"squared_error": jnp.asarray(1.0)}
    loss = Loss(jnp.asarray(6.0), jnp.asarray(4.0), sums)
    metrics = denoising.squared_error_metrics(loss)
    assert metrics == {"loss": 1.5, "squared_error": 0.25}


def test_pixel_cross_entropy_is_least_at_the_gray_value() -> None:
    gray_BLP = np.array([[[0.25, 0.5]]])
    logits_BLP = np.log(gray_BLP / (1 - gray_BLP))
    one_BL = np.ones((1, 1))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def total_and_slope(z: Any) -> Any:
        loss = denoising.pixel_cross_entropy(z, gray_BLP, one_BL)
        return loss.total, loss

    (total, loss), slope = total_and_slope(logits_BLP)
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    entropy = -np.mean([0.25 * np.log(0.25) + 0.75 * np.log(0.75), np.log(0.5)])
    assert float(total) == pytest.approx(entropy, rel=1e-5)
    assert float(loss.sums["squared_error"]) < 1e-9


def test_pixel_cross_entropy_is_that_of_a_bernoulli_variable() -> None:
    rng = np.random.default_rng(0)
    z, gray = rng.normal(size=(2, 3, 5)), rng.uniform(size=(2, 3, 5))
    weight = np.array([[1.0, 0, 2], [1, 1, 0]])
    p = 1 / (1 + np.exp(-z))
    nats = -(gray * np.log(p) + (1 - gray) * np.log(1 - p)).mean(-1)
    loss = jax.jit(denoising.pixel_cross_entropy)(z, gray, weight)
    assert float(loss.total) == pytest.approx((nats * weight).sum(), rel=1e-5)
    error = (np.square(p - gray).mean(-1) * weight).sum()
    assert float(loss.sums["squared_error"]) == pytest.approx(error, rel=1e-5)
