"""The translation of the nearest sentence already translated: what a translator's
memory does, and the baseline of a model that translates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WORD = re.compile(r"\w+|[^\w\s]")
_AT_ONCE = 256


class Nearest(NamedTuple):
    """For each sentence asked for: the number of the known one that is nearest, int64,
    and the cosine between the two, float64."""

    number: np.ndarray
    cosine: np.ndarray


def words(sentence: str) -> list[str]:
    """Lower-case words and signs of punctuation."""
    return WORD.findall(sentence.lower())


def nearest(known: Sequence[str], asked: Sequence[str]) -> Nearest:
    """The known sentence with the largest cosine of tf-idf, the first of equals.

    A word that a sentence holds t times counts (1 + log t) log((1 + n) / (1 + d)) where
    d of the n known sentences have it (Salton and Buckley 1988). ValueError where
    nothing is known.
    """
    if not len(known):
        raise ValueError("expected sentences to find the nearest among, got none")
    counted = [Counter(words(sentence)) for sentence in known]
    held = Counter(word for count in counted for word in count)
    column = {word: number for number, word in enumerate(held)}
    rarity = np.log((1 + len(known)) / (1 + np.array([*held.values(), 0.0])))[:-1]
    table = _vectors(counted, column, rarity).T.tocsr()
    query = _vectors([Counter(words(text)) for text in asked], column, rarity)
    numbers, cosines = [np.zeros(0, np.int64)], [np.zeros(0)]
    for start in range(0, len(asked), _AT_ONCE):
        cosine = (query[start : start + _AT_ONCE] @ table).toarray()
        numbers.append(cosine.argmax(1))
        cosines.append(cosine.max(1))
    return Nearest(np.concatenate(numbers), np.concatenate(cosines))


def _vectors(
    counted: Sequence[Counter[str]], column: dict[str, int], rarity: np.ndarray
) -> Any:
    """A sparse row of length 1 for each sentence (0 for one of no known word)."""
    from scipy import sparse

    entries = [
        (row, column[word], 1 + np.log(times))
        for row, count in enumerate(counted)
        for word, times in count.items()
        if word in column
    ]
    rows, columns, values = np.array(entries).reshape(-1, 3).T
    rows, columns = rows.astype(np.int64), columns.astype(np.int64)
    values = values * rarity[columns]
    square = np.bincount(rows, values**2, minlength=len(counted))
    values = values / np.sqrt(np.maximum(square, 1e-12))[rows]
    shape = len(counted), len(rarity)
    return sparse.csr_array((values, (rows, columns)), shape=shape)


def bands(near: Nearest, edges: Sequence[float]) -> dict[str, list[int]]:
    """The numbers of the asked sentences whose cosine to their nearest lies between two
    neighbouring edges, by the band's name."""
    return {
        f"from {low}": np.flatnonzero(
            (near.cosine >= low) & (near.cosine < high)
        ).tolist()
        for low, high in zip(edges, edges[1:], strict=False)
    }
