"""Retrieval metrics: the rank of the matching item among all."""

from __future__ import annotations

import numpy as np

from transformer.objectives import cross_entropy


def ranks(score: np.ndarray) -> np.ndarray:
    """The rank of the matching item for each query, from scores [..., N, N] of N
    queries (rows) with their N items: 1 is the best, N the worst. Of equal scores the
    first item is the best, so equal scores for all pairs have the ranks 1 to N."""
    own = np.diagonal(score, axis1=-2, axis2=-1)
    return cross_entropy.ranks(score, own, np.arange(score.shape[-1]))


def negative_squared_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Minus the squared distance between 8-bit images [N, ...] and [M, ...]: [N, M]."""
    from sklearn.metrics.pairwise import euclidean_distances

    a, b = (images.reshape(len(images), -1) / 255 for images in (one, other))
    return -euclidean_distances(a, b, squared=True)


def recall_at_k(rank: np.ndarray) -> dict[str, float]:
    """Recall at 1 and 10, the median rank, and recall at 1 over that of chance, 1 / N,
    from ranks [..., N] among N."""
    first = float(np.mean(rank == 1))
    return {
        "recall_at_1": first,
        "recall_at_10": float(np.mean(rank <= 10)),
        "median_rank": float(np.median(rank)),
        "recall_at_1_over_chance": first * rank.shape[-1],
    }
