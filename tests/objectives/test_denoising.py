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
    ids_BL = jax.random.randint(KEY, (4, 8), 0, VOCAB_SIZE)

    def loss(scale: float) -> Any:
        process = masked_diffusion.process(mask_id=VOCAB_SIZE)
        logits_BLV = scale * jax.nn.one_hot(ids_BL, VOCAB_SIZE + 1)
        return denoising.denoising_loss(
            process, cross_entropy.cross_entropy, lambda x, t: logits_BLV, ids_BL, KEY
        )

    true, uniform = loss(50.0), loss(0.0)
    assert float(true.total) < 1e-6 < float(true.weight) < ids_BL.size
    np.testing.assert_allclose(
        uniform.total / uniform.weight, np.log(VOCAB_SIZE + 1), rtol=1e-5
    )


def test_denoising_loss_weighs_rows() -> None:
    """The true velocity has no loss; a row of weight 0 does not count."""
    x_BLP = jnp.full((3, 2, 4), 2.0)

    def loss(shift_B: jax.Array, weight_B: Any) -> Any:
        return denoising.denoising_loss(
            flow_matching.process(),
            denoising.squared_error,
            lambda x, t: (x_BLP - x) / (1 - t)[:, None, None] + shift_B[:, None, None],
            x_BLP,
            KEY,
            weight_B=weight_B,
        )

    shift_B = jnp.asarray([0.0, 0.0, 2.0])
    true = loss(jnp.zeros(3), 1.0)
    assert float(true.total) < 1e-6 and float(true.weight) == 6
    shifted, without = loss(shift_B, 1.0), loss(shift_B, jnp.asarray([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(shifted.total, 2 * 2.0**2, rtol=1e-5)
    assert float(without.total) < 1e-6 and float(without.weight) == 4


def test_labels_are_dropped_at_the_rate() -> None:
    label_B = jnp.arange(20_000) % 7
    dropped_B = denoising.drop_labels(label_B, KEY, rate=0.1, null_label=7)
    assert abs(float((dropped_B == 7).mean()) - 0.1) < 0.01
    np.testing.assert_array_equal(dropped_B[dropped_B != 7], label_B[dropped_B != 7])
    for rate, count in ((0.0, 0), (1.0, 20_000)):
        dropped_B = denoising.drop_labels(label_B, KEY, rate=rate, null_label=7)
        assert int((dropped_B == 7).sum()) == count


def test_class_conditional_loss_is_the_denoising_loss_given_the_labels() -> None:
    """Those of the batch, or the null label where all are dropped."""
    batch = {
        "x_BLP": jax.random.normal(KEY, (3, 2, 4)),
        "label_B": jnp.asarray([0, 1, 2]),
        "weight_B": jnp.asarray([1.0, 1.0, 0.0]),
    }

    def predict(shift: Any, label_B: jax.Array, x: jax.Array, t: jax.Array) -> Any:
        return x + shift + label_B[:, None, None]

    for dropout, label_B in ((0.0, batch["label_B"]), (1.0, jnp.full(3, 5))):
        expected = denoising.denoising_loss(
            flow_matching.process(),
            denoising.squared_error,
            partial(predict, 0.5, label_B),
            batch["x_BLP"],
            KEY,
            weight_B=batch["weight_B"],
        )
        got = denoising.class_conditional_loss(
            denoising.squared_error,
            predict,
            0.5,
            batch,
            KEY,
            process=flow_matching.process(),
            inputs="x_BLP",
            null_label=5,
            label_dropout=dropout,
        )
        assert float(got.total) == float(expected.total)
        assert float(got.weight) == float(expected.weight) == 4


def test_a_dropped_text_is_the_null_text() -> None:
    """Its ids and its segments, in the rows in which `drop_labels` drops a label."""
    rng = np.random.default_rng(0)
    text = rng.integers(3, 9, (40, 5)), rng.integers(1, 3, (40, 5))
    null_text = np.array([[2, 0, 0, 0, 0]]), np.array([[1, 0, 0, 0, 0]])
    for rate in (0.0, 0.4, 1.0):
        dropped_B = denoising.drop_labels(
            jnp.zeros(40, jnp.int32), KEY, rate=rate, null_label=1
        )
        assert rate - 0.2 < float(dropped_B.mean()) < rate + 0.2
        expected = (
            np.where(np.asarray(dropped_B)[:, None] == 1, null, a)
            for a, null in zip(text, null_text, strict=True)
        )
        got = denoising.drop_texts(text, null_text, KEY, rate=rate)
        for one, other in zip(expected, got, strict=True):
            np.testing.assert_array_equal(one, other)


def test_metrics_are_means_over_the_weight() -> None:
    sums = {"squared_error": jnp.asarray(1.0)}
    loss = Loss(jnp.asarray(6.0), jnp.asarray(4.0), sums)
    metrics = denoising.squared_error_metrics(loss)
    assert metrics == {"loss": 1.5, "squared_error": 0.25}


def test_pixel_cross_entropy_is_least_at_the_gray_value() -> None:
    gray_BLP = jnp.asarray([[[0.25, 0.5]]])
    logits_BLP = jnp.log(gray_BLP / (1 - gray_BLP))
    one_BL = jnp.ones((1, 1))

    def total(z: Any) -> Any:
        return denoising.pixel_cross_entropy(z, gray_BLP, one_BL).total

    np.testing.assert_allclose(jax.grad(total)(logits_BLP), 0, atol=1e-6)
    entropy = -np.mean([0.25 * np.log(0.25) + 0.75 * np.log(0.75), np.log(0.5)])
    assert float(total(logits_BLP)) == pytest.approx(entropy, rel=1e-5)
    loss = denoising.pixel_cross_entropy(logits_BLP, gray_BLP, one_BL)
    assert float(loss.sums["squared_error"]) < 1e-9


def test_pixel_cross_entropy_is_that_of_a_bernoulli_variable() -> None:
    rng = np.random.default_rng(0)
    z, gray = rng.normal(size=(2, 3, 5)), rng.uniform(size=(2, 3, 5))
    weight = np.array([[1.0, 0, 2], [1, 1, 0]])
    p = 1 / (1 + np.exp(-z))
    nats = -(gray * np.log(p) + (1 - gray) * np.log(1 - p)).mean(-1)
    loss = denoising.pixel_cross_entropy(*map(jnp.asarray, (z, gray, weight)))
    assert float(loss.total) == pytest.approx((nats * weight).sum(), rel=1e-5)
    error = (np.square(p - gray).mean(-1) * weight).sum()
    assert float(loss.sums["squared_error"]) == pytest.approx(error, rel=1e-5)
