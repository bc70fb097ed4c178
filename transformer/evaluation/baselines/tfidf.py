"""The nearest sentence by tf-idf, whose translation or image is a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer.data.text import tfidf
from transformer.evaluation.baselines import nearest_neighbor


class NearestSentences(NamedTuple):
    """For each query: the index of the nearest reference sentence, int64, and their
    cosine similarity, float64."""

    index: np.ndarray
    cosine: np.ndarray


def nearest(reference: Sequence[str], queries: Sequence[str]) -> NearestSentences:
    """The reference sentence of largest tf-idf cosine similarity, the first of equals.

    Terms and their weights are those of `data.text.tfidf.vectorizer`. ValueError where
    there is no reference sentence.
    """
    if not len(reference):
        raise ValueError("expected sentences to find the nearest among, got none")
    vectorizer = tfidf.vectorizer()
    table = vectorizer.fit_transform(reference)
    found = nearest_neighbor.nearest(
        table, vectorizer.transform(queries), metric="cosine"
    )
    return NearestSentences(found.index, 1 - found.distance)


def bucket_by_similarity(
    near: NearestSentences, edges: Sequence[float]
) -> dict[str, list[int]]:
    """The indices of the queries by the bucket of their cosine, low <= cosine < high,
    named `low_to_high`."""
    return {
        f"{low:g}_to_{high:g}": np.flatnonzero(
            (near.cosine >= low) & (near.cosine < high)
        ).tolist()
        for low, high in zip(edges, edges[1:], strict=False)
    }
