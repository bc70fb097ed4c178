"""Fréchet distance between sets of features (FID)."""

from __future__ import annotations

import numpy as np


def frechet_distance(features: np.ndarray, others: np.ndarray) -> float:
    """The squared Fréchet distance between normal distributions fitted to two sets of
    features [N, D] (FID, Heusel et al. 2017, arXiv 1706.08500, equation 6).

    It decreases with the number of examples, so compare only sets of equal size with
    the same others. ValueError unless both have D features and at least two rows.
    """
    shapes = features.shape, others.shape
    if len(shapes[0]) != 2 or shapes[0][1:] != shapes[1][1:] or min(shapes)[0] < 2:
        raise ValueError(f"expected two sets [N, D] of one D, N > 1, got {shapes}")
    one, other = (np.asarray(a, np.float64) for a in (features, others))
    first, second = (np.atleast_2d(np.cov(a, rowvar=False)) for a in (one, other))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # The trace of (C1 C2)^(1/2), whose eigenvalues are those of C1^(1/2) C2 C1^(1/2).
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    squared_distance = np.square(one.mean(0) - other.mean(0)).sum()
    return float(squared_distance + np.trace(first) + np.trace(second) - 2 * cross)
