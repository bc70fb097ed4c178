"""Minimum Bayes risk: of several candidate texts, the one of greatest expected
similarity to all of them.

Kumar and Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation",
equation 1; with the texts of nearest neighbors as candidates, the consensus caption of
Devlin et al. 2015 (arXiv 1505.04467). A distribution maps texts to probabilities that
sum to 1.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

TextDistribution = Mapping[str, float]


def from_samples(texts: Sequence[str]) -> TextDistribution:
    """The empirical distribution of `texts`. ValueError where there is none."""
    if not texts:
        raise ValueError("expected samples, got none")
    counts = collections.Counter(texts)
    return {text: count / len(texts) for text, count in counts.items()}


def from_neighbors(
    texts: Sequence[str] | np.ndarray,
    distance: np.ndarray,
    *,
    neighbors: int,
    scale: float,
) -> TextDistribution:
    """The texts of the nearest `neighbors` by distance [N], with probability
    proportional to exp(-distance / scale)."""
    near = np.argsort(distance, kind="stable")[:neighbors]
    weight = np.exp((distance[near[0]] - distance[near]) / scale)
    distribution: dict[str, float] = collections.defaultdict(float)
    for number, p in zip(near, weight / weight.sum(), strict=True):
        distribution[str(texts[number])] += float(p)
    return dict(distribution)


def interpolate(
    one: TextDistribution, other: TextDistribution, *, fraction: float
) -> TextDistribution:
    """(1 - fraction) `one` + fraction `other` (as nearest neighbors join a language
    model: Khandelwal et al. 2020, arXiv 1911.00172, equation 3)."""
    texts = dict.fromkeys((*one, *other))
    return {
        text: (1 - fraction) * one.get(text, 0.0) + fraction * other.get(text, 0.0)
        for text in texts
    }


def minimum_bayes_risk(
    distributions: Iterable[TextDistribution], similarity: Callable[[str, str], float]
) -> list[str]:
    """`best_text` of each distribution."""
    return [best_text(one, similarity) for one in distributions]


def best_text(
    distribution: TextDistribution, similarity: Callable[[str, str], float]
) -> str:
    """The text of greatest expected similarity(text, reference) over the distribution's
    references, the first of equals."""

    def expectation(text: str) -> float:
        return sum(p * similarity(text, true) for true, p in distribution.items())

    return max(distribution, key=expectation)
