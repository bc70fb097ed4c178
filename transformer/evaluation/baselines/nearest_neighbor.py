"""The nearest reference example, by scikit-learn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Neighbors(NamedTuple):
    """index: int64 [queries], the nearest reference row. distance: float [queries]."""

    index: np.ndarray
    distance: np.ndarray


def nearest(reference: Any, queries: Any, *, metric: str = "euclidean") -> Neighbors:
    """The nearest row of `reference` [N, D] for each row of `queries` [M, D], dense or
    sparse, in chunks of bounded memory. metric: a name of scikit-learn's."""
    from sklearn.metrics import pairwise_distances_argmin_min

    return Neighbors(*pairwise_distances_argmin_min(queries, reference, metric=metric))
