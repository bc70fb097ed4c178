"""How far what is drawn lies from what is real."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


def frechet(features: np.ndarray, others: np.ndarray) -> float:
    """The squared Frechet distance between two sets of features [N, D], each taken for
    a normal distribution (FID, Heusel et al. 2017, arXiv 1706.08500, equation 6).

    It falls with the number of examples, so compare only sets of one size with the same
    others. ValueError unless both have D features and at least two rows.
    """
    shapes = features.shape, others.shape
    if len(shapes[0]) != 2 or shapes[0][1:] != shapes[1][1:] or min(shapes)[0] < 2:
        raise ValueError(f"expected two sets [N, D] of one D, N > 1, got {shapes}")
    wide, rest = (np.asarray(a, np.float64) for a in (features, others))
    first, second = (np.atleast_2d(np.cov(a, rowvar=False)) for a in (wide, rest))
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    # The trace of (C1 C2)^(1/2), whose eigenvalues are those of C1^(1/2) C2 C1^(1/2).
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    apart = np.square(wide.mean(0) - rest.mean(0)).sum()
    return float(apart + np.trace(first) + np.trace(second) - 2 * shared)


class Quality(NamedTuple):
    """Of drawn images: the share that a judge takes for the class asked for, and their
    Frechet distance from real ones in the judge's features."""

    recognised: float
    distance: float


def quality(
    judge: Any, images: np.ndarray, label: np.ndarray, real: np.ndarray
) -> Quality:
    """Of 8-bit images drawn as the classes `label` [N]; real: features of real images.

    judge.logits(images) [N, V] and judge.features(images) [N, D] are a classifier's.
    """
    right = judge.logits(images).argmax(1) == label
    return Quality(float(right.mean()), frechet(judge.features(images), real))


def nearest(images: np.ndarray, known: np.ndarray) -> float:
    """The median distance, root mean square a pixel, from an 8-bit image to the nearest
    known one. Far smaller for drawn images than for real new ones: they are copies."""
    flat, rest = (
        a.reshape(len(a), -1).astype(np.float32) / 255 for a in (images, known)
    )
    lengths, others = (np.square(a).sum(1) for a in (flat, rest))
    squares = lengths[:, None] - 2 * flat @ rest.T + others
    mean = squares.min(1).clip(0) / flat.shape[1]
    return float(np.median(np.sqrt(mean)))
