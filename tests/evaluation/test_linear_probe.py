"""Logistic regression and the nearest neighbor."""

from __future__ import annotations

import numpy as np

from transformer.evaluation.baselines import linear_probe, nearest_neighbor


def test_baselines_learn_separable_classes_and_nothing_from_shuffled_labels() -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 8)) * 4
    label, test_label = rng.integers(0, 3, 300), rng.integers(0, 3, 70)
    train, test = (
        centers[k] + rng.normal(size=(len(k), 8)) for k in (label, test_label)
    )
    accuracy = linear_probe.pixel_baselines(train, label, test, test_label)
    assert set(accuracy) == {
        "accuracy/logistic_regression",
        "accuracy/nearest_neighbor",
    }
    assert min(accuracy.values()) > 0.95, accuracy
    shuffled = rng.permutation(label)
    chance = linear_probe.pixel_baselines(train, shuffled, test, test_label)
    assert max(chance.values()) < 0.7
    distance = np.sqrt(np.square(test[:, None] - train).sum(-1))
    found = nearest_neighbor.nearest(train, test)
    np.testing.assert_array_equal(found.index, distance.argmin(1))
    np.testing.assert_allclose(found.distance, distance.min(1))
