"""A classifier as functions of 8-bit images."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from transformer.evaluation import image_classifier


def test_batches_have_one_shape_and_do_not_change_the_result() -> None:
    shapes = set()

    def double(batch: np.ndarray) -> np.ndarray:
        shapes.add(batch.shape)
        return 2 * batch

    for count in (1, 4, 9):
        rows = np.arange(count * 3).reshape(count, 3)
        got = image_classifier.map_batches(double, rows, batch_size=4)
        np.testing.assert_array_equal(got, 2 * rows)
    assert shapes == {(4, 3)}


def test_a_classifier_refuses_images_of_another_shape_or_dtype() -> None:
    def apply(params: Any, raw: Any, method: str) -> Any:
        return raw.reshape(len(raw), -1)[:, :2] * params[method]

    params = {"__call__": 2.0, "features": 3.0}
    classifier = image_classifier.from_apply(
        apply, params, raw=jnp.float32, shape=(2, 2, 1)
    )
    images = np.arange(1200, dtype=np.uint8).reshape(300, 2, 2, 1)
    np.testing.assert_array_equal(classifier.logits(images), 2.0 * images[:, 0, :, 0])
    np.testing.assert_array_equal(classifier.features(images), 3.0 * images[:, 0, :, 0])
    for wrong in (images / 255, images[..., 0], images[:, :1]):
        with pytest.raises(ValueError, match=r"expected images uint8 \[N, 2, 2, 1\]"):
            classifier.logits(wrong)
