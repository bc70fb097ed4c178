"""N-gram baselines of fill-in: predict a token from counts of its nearest neighbors
(Shannon 1948). Tokens are int arrays [N] below `vocab_size`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Offsets of the tokens of each context, the longest first, by the name of the baseline.
TRIGRAM = ((-2, -1), (-1,), ())
OFFSETS: Mapping[str, Sequence[tuple[int, ...]]] = {
    "trigram": TRIGRAM,
    "both_neighbors": ((-1, 1), *TRIGRAM),
    "four_neighbors": (
        (-2, -1, 1, 2),
        (-2, -1, 1),
        (-1, 1, 2),
        (-1, 1),
        (-2, -1),
        (1, 2),
        (-2, 1),
        (-1, 2),
        (-1,),
        (1,),
        (),
    ),
}
REACH = 2
MIN_COUNTS = 1, 2, 3, 5, 9


class NgramTable(NamedTuple):
    """For each context that occurs, sorted: its most frequent token, and the number of
    its occurrences."""

    context: np.ndarray
    token: np.ndarray
    count: np.ndarray


def count_ngrams(
    context: np.ndarray, token: np.ndarray, *, vocab_size: int
) -> NgramTable:
    """The table of aligned contexts (integers >= 0) and tokens. Of equally frequent
    tokens the lowest id."""
    pair, count = np.unique(
        context.astype(np.int64) * vocab_size + token, return_counts=True
    )
    context, token = pair // vocab_size, pair % vocab_size
    # Within a context the most frequent first.
    order = np.lexsort((token, -count, context))
    known, first = np.unique(context[order], return_index=True)
    total = np.add.reduceat(count[order], first)
    return NgramTable(known, token[order][first], total)


def backoff_predict(
    tables: Sequence[NgramTable], contexts: Sequence[np.ndarray], *, min_count: int = 1
) -> np.ndarray:
    """The most likely token at each position, by the first of `tables` in which its
    context occurs at least `min_count` times, or else by the last."""
    token = tables[-1].token[_lookup(tables[-1], contexts[-1])[0]]
    for table, context in list(zip(tables, contexts, strict=True))[-2::-1]:
        row, found = _lookup(table, context)
        frequent = found & (table.count[row] >= min_count)
        token = np.where(frequent, table.token[row], token)
    return token


def _lookup(table: NgramTable, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = np.searchsorted(table.context, context).clip(max=len(table.context) - 1)
    return row, table.context[row] == context


def contexts(
    documents: Sequence[np.ndarray], offsets: Sequence[int], *, vocab_size: int
) -> np.ndarray:
    """A number for the tokens at `offsets` of each token that has `REACH` neighbors on
    either side, of all documents together: equal where the tokens are equal, and small,
    so that no product with `vocab_size` overflows."""
    number = np.zeros(len(_near(documents, 0)), np.int64)
    for offset in offsets:
        pair = number * vocab_size + _near(documents, offset)
        number = np.unique(pair, return_inverse=True)[1].reshape(-1)
    return number


def _near(arrays: Sequence[np.ndarray], offset: int) -> np.ndarray:
    """The entry `offset` further on, of each that has `REACH` neighbors on either side,
    of all arrays together."""
    return np.concatenate(
        [array[REACH + offset : len(array) - REACH + offset] for array in arrays]
    )


def ngram_accuracies(
    train: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    *,
    vocab_size: int,
    mask_ratio: float = 0.0,
) -> dict[str, float]:
    """Accuracy on the held-out tokens, by `accuracy/name`, for documents of token ids.

    The baselines of `OFFSETS`, each with the best of a few values of `min_count`,
    chosen on the held-out tokens in the baseline's favor. All of them see every
    neighbor, but `visible_neighbors`: it is `four_neighbors` without the contexts that
    have a masked token, as a masked language model sees them. mask_ratio: fraction of
    the held-out tokens that are masked.
    """
    rng = np.random.default_rng(0)
    is_masked = [rng.random(len(ids)) < mask_ratio for ids in held_out]
    known, token = len(_near(train, 0)), _near([*train, *held_out], 0)
    hits: dict[str, list[np.ndarray]] = {}
    for name, kinds in OFFSETS.items():
        numbers = [
            contexts([*train, *held_out], offsets, vocab_size=vocab_size)
            for offsets in kinds
        ]
        tables = [
            count_ngrams(number[:known], token[:known], vocab_size=vocab_size)
            for number in numbers
        ]
        queries = {name: [number[known:] for number in numbers]}
        if name == "four_neighbors":
            queries["visible_neighbors"] = [
                # -1 occurs nowhere.
                np.where(_any_near(is_masked, offsets), -1, number[known:])
                for offsets, number in zip(kinds, numbers, strict=True)
            ]
        for kind, query in queries.items():
            predicted = (
                backoff_predict(tables, query, min_count=count) for count in MIN_COUNTS
            )
            hits[kind] = [ids == token[known:] for ids in predicted]
    return {
        f"accuracy/{name}": max(float(hit.mean()) for hit in of)
        for name, of in hits.items()
    }


def _any_near(flags: Sequence[np.ndarray], offsets: Sequence[int]) -> np.ndarray:
    """Whether a flag at one of `offsets` is set, in the order of `contexts`."""
    none = np.zeros(len(_near(flags, 0)), bool)
    return np.logical_or.reduce([none, *(_near(flags, offset) for offset in offsets)])
