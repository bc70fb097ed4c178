"""Arithmetic of arrays in which NaN is a missing value."""

from __future__ import annotations

from typing import Any

import numpy as np


def fill(anomalies: np.ndarray) -> np.ndarray:
    """Missing anomalies as 0."""
    return np.where(np.isnan(anomalies), 0, anomalies)


def mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Over the first dimension; NaN where there is no value."""
    count = counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, sums.sum(0) / count, np.float32(np.nan))


def mean_square(error: np.ndarray, weight: np.ndarray) -> Any:
    """The weighted mean of the squares over all that is not missing."""
    missing = np.isnan(error)
    square = np.where(missing, 0, np.square(error))
    seen = (~missing).sum(0) * weight.astype(np.float64)
    steps = np.float32(seen.sum() / weight.sum(dtype=np.float64))
    return (square * weight).sum() / weight.sum() / steps
