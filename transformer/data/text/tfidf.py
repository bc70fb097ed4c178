"""Similar texts by tf-idf."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np


def vectorizer() -> Any:
    """Terms are lower-case words and punctuation marks. A term that a sentence contains
    t times counts (1 + log t) (1 + log((1 + n) / (1 + d))), where d of the n reference
    sentences contain it (Salton and Buckley 1988; scikit-learn's `TfidfVectorizer`)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)


class Index:
    """Reference texts, each of a group such as the images of one name."""

    def __init__(self, texts: Sequence[str], groups: Sequence[str]) -> None:
        self.vectorizer = vectorizer()
        self.table = self.vectorizer.fit_transform(texts)
        self.groups = np.asarray(groups, dtype=object)
        self.largest_group = max(collections.Counter(groups).values())

    def nearest(
        self, texts: Sequence[str], *, exclude: Sequence[str], count: int, absent: int
    ) -> np.ndarray:
        """int64 [N, count]: the reference texts of largest cosine similarity, the
        largest first, one of each group and none of the query's group `exclude`;
        `absent` where no other shares a term."""
        from sklearn.neighbors import NearestNeighbors

        found = np.full((len(texts), count), absent)
        asked = min((count + 1) * self.largest_group, len(self.groups))
        search = NearestNeighbors(metric="cosine", algorithm="brute").fit(self.table)
        queries = self.vectorizer.transform(texts)
        distance, index = search.kneighbors(queries, n_neighbors=asked)
        for row, group in enumerate(exclude):
            first: dict[str, int] = {}
            for place, away in zip(index[row], distance[row], strict=True):
                if self.groups[place] != group and away < 1 - 1e-9:
                    first.setdefault(str(self.groups[place]), int(place))
            chosen = list(first.values())[:count]
            found[row, : len(chosen)] = chosen
        return found
