"""Classifiers without a network: logistic regression and the nearest neighbor.

On pixels they are baselines of image classification; logistic regression on a network's
features is a linear probe (Alain and Bengio 2016, arXiv 1610.01644). Features are float
arrays [examples, features], labels int [examples].
"""

from __future__ import annotations

import numpy as np

from transformer.evaluation.baselines import nearest_neighbor


def logistic_regression(
    train: np.ndarray, label: np.ndarray, test: np.ndarray, *, penalty: float = 1.0
) -> np.ndarray:
    """Predicted labels of `test`, with an L2 penalty (1 / C of scikit-learn)."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / penalty, max_iter=2000)
    return model.fit(train, label).predict(test)


def pixel_baselines(
    train: np.ndarray, label: np.ndarray, test: np.ndarray, test_label: np.ndarray
) -> dict[str, float]:
    """Test accuracy of each baseline classifier, by `accuracy/name`. Examples
    [examples, ...] are flattened, and scaled to at most 1 in `train`."""
    scale = 1 / max(float(np.abs(train).max()), 1e-12)
    train, test = (
        a.reshape(len(a), -1).astype(np.float32) * scale for a in (train, test)
    )
    predicted = {
        # The penalty is the best of 1, 10, 33 and 100 on the shipped digits.
        "logistic_regression": logistic_regression(train, label, test, penalty=10.0),
        "nearest_neighbor": label[nearest_neighbor.nearest(train, test).index],
    }
    return {
        f"accuracy/{name}": float(np.mean(labels == test_label))
        for name, labels in predicted.items()
    }
