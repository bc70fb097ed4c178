"""N-gram baselines of fill-in: predict a token from counts of its nearest neighbors
(Shannon 1948). Tokens are int arrays [N] below `vocab_size`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# (ids [N], vocab_size=...) -> contexts [N - 3] of ids[2:-1], the longest first.
Contexts = Callable[..., list[np.ndarray]]


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


def trigram_contexts(ids: np.ndarray, *, vocab_size: int) -> list[np.ndarray]:
    """Contexts of ids[2:-1] in a trigram model with back-off: the two previous tokens,
    the previous one, none."""
    near = ids[1:-2].astype(np.int64)
    return [ids[:-3].astype(np.int64) * vocab_size + near, near, np.zeros_like(near)]


def neighbor_contexts(ids: np.ndarray, *, vocab_size: int) -> list[np.ndarray]:
    """Contexts of ids[2:-1]: both neighbors, then as `trigram_contexts`."""
    both = ids[1:-2].astype(np.int64) * vocab_size + ids[3:]
    return [both, *trigram_contexts(ids, vocab_size=vocab_size)]


def visible_contexts(
    ids: np.ndarray, is_masked: np.ndarray | None = None, *, vocab_size: int
) -> list[np.ndarray]:
    """As `neighbor_contexts`, with the next token as the last but one. is_masked: bool
    [N], tokens of ids that cannot be read; a context with one of them is -1, which
    occurs nowhere."""
    seen = np.ones(len(ids), bool) if is_masked is None else ~is_masked
    before, near, after = seen[:-3], seen[1:-2], seen[3:]
    both, two, one, none = neighbor_contexts(ids, vocab_size=vocab_size)
    known = [(both, near & after), (two, before & near), (one, near), (ids[3:], after)]
    return [*(np.where(found, context, -1) for context, found in known), none]


def ngram_accuracies(
    train: Sequence[np.ndarray],
    held_out: Sequence[np.ndarray],
    *,
    vocab_size: int,
    mask_ratio: float = 0.0,
) -> dict[str, float]:
    """Accuracy on the held-out tokens, by `accuracy/name`, for documents of token ids.

    Each of the contexts with the best of a few values of `min_count`, chosen on the
    held-out tokens in the baseline's favor. mask_ratio: fraction of the held-out tokens
    that `visible_neighbors`, and no other, cannot read, as a masked language model.
    """
    rng = np.random.default_rng(0)
    masks = iter([rng.random(len(ids)) < mask_ratio for ids in held_out])
    kinds: dict[str, tuple[Contexts, Contexts]] = {
        "trigram": (trigram_contexts, trigram_contexts),
        "both_neighbors": (neighbor_contexts, neighbor_contexts),
        "visible_neighbors": (
            visible_contexts,
            lambda ids, **size: visible_contexts(ids, next(masks), **size),
        ),
    }
    token, target = (
        np.concatenate([ids[2:-1] for ids in split]) for split in (train, held_out)
    )
    accuracies = {}
    for name, (contexts_of, held_out_contexts_of) in kinds.items():
        tables = [
            count_ngrams(context, token, vocab_size=vocab_size)
            for context in _concatenate(contexts_of, train, vocab_size)
        ]
        contexts = _concatenate(held_out_contexts_of, held_out, vocab_size)
        accuracies[f"accuracy/{name}"] = max(
            float(
                (
                    backoff_predict(tables, contexts, min_count=min_count) == target
                ).mean()
            )
            for min_count in (1, 2, 3, 5, 9)
        )
    return accuracies


def _concatenate(
    contexts_of: Contexts,
    documents: Sequence[np.ndarray],
    vocab_size: int,
) -> list[np.ndarray]:
    each = (contexts_of(ids, vocab_size=vocab_size) for ids in documents)
    return [np.concatenate(parts) for parts in zip(*each, strict=True)]
