"""Ranks of targets among scores: one rule for ties, in every metric.

Of equal scores the first index is the best, as `argmax` has it. So equal scores for all
are right as often as chance is, and not always.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def _places(scores: Any) -> np.ndarray:
    return np.arange(scores.shape[-1]).reshape(*[1] * (scores.ndim - 1), -1)


def is_best(scores: Any, own: Any, index: Any) -> Any:
    """bool [...]: whether the argmax of the scores [..., V] is `index` [...], whose
    score is `own` [...]; never where that is NaN. numpy in, numpy out; JAX in, JAX out.
    """
    before = _places(scores) < index[..., None]
    tied_before = ((scores == own[..., None]) & before).any(-1)
    return (own >= scores.max(-1)) & ~tied_before


def ranks(scores: Any, own: Any, index: Any) -> Any:
    """int [...]: the place of `index` among the falling scores [..., V], from 1 to V; 1
    where `is_best`. Arguments as there; NaN comes last."""
    own, index = own[..., None], index[..., None]
    behind = (scores < own) | ((scores == own) & (_places(scores) >= index))
    return 1 + (~behind).sum(-1) - 1 * (own != own)[..., 0]
