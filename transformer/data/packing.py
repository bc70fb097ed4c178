"""Rows for training and validation out of tokens: a pure function of the step.

A row covers L + 1 consecutive tokens of the documents laid end to end; token t predicts
token t + 1. Segments number the documents within the row from 1 (0 is padding) and
positions restart with each, so a model that masks by segment sees each document alone.
A target counts where it belongs to the same document as its token.

Training rows are shuffled by grain as an index permutation, with another offset of the
windows and another order in each epoch. `batch(step, rows)` asks for any rows of the
global batch of any step, so hosts divide a batch as they like and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.data import cache, documents, tokenizers
from transformer.data import tokens as tokenised

Batch = dict[str, np.ndarray]


class Rows(NamedTuple):
    """An endless, shuffled, random-access supply of training rows.

    batch: (step, rows of the global batch) -> those rows.
    order: grain.MapDataset of row addresses; read: addresses -> rows.
    tokens, rows_per_epoch: how much there is, in one pass.
    """

    batch: Callable[[int, Sequence[int]], Batch]
    batch_size: int
    length: int
    tokens: int
    rows_per_epoch: int
    order: Any
    read: Callable[[Sequence[Any]], Batch]


class Validation(NamedTuple):
    """All of a split once, in order: `batches` batches, the last one padded."""

    batch: Callable[[int, Sequence[int]], Batch]
    batch_size: int
    batches: int
    length: int
    tokens: int
    rows: int


def rows_of(window: np.ndarray, *, end: int, sizes: np.ndarray | None = None) -> Batch:
    """The batch of windows of L + 1 tokens.

    window: [B, L + 1]; sizes: how many of each window are real, from its start (all).
    """
    window = window.astype(np.int32)
    length = window.shape[1] - 1
    place = np.arange(length + 1, dtype=np.int32)
    starts = np.zeros(window.shape, bool)
    starts[:, 1:] = window[:, :-1] == end
    segment = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    index = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    if sizes is not None:
        real = place < sizes[:, None]
        window, segment, index = window * real, segment * real, index * real
    same = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    return {
        "tokens_BL": window[:, :-1],
        "targets_BL": np.where(same, window[:, 1:], 0),
        "segment_BL": segment[:, :-1],
        "index_BL": index[:, :-1],
        "weight_BL": same.astype(np.float32),
    }


def _fold(*parts: Any) -> int:
    """A 32-bit number from a hash of the parts."""
    return int(cache.digest(*(repr(part) for part in parts))[:8], 16)


def _check(split: tokenised.Tokens, length: int, batch_size: int) -> None:
    if length < 1 or batch_size < 1:
        raise ValueError(
            f"expected a length and a batch size above 0, got {length}, {batch_size}"
        )
    if len(split.tokens) < length + 1:
        raise ValueError(
            f"{split.name}: sequence of {length} tokens expected at least {length + 1} "
            f"tokens of text, got {len(split.tokens)}"
        )


def shuffled(rows: int, address: Callable[[int, int], Any], *, seed: int) -> Any:
    """grain's endless permutation: element i is `address(epoch, row)`."""
    import grain

    order = grain.MapDataset.range(rows).seed(_fold("order", seed)).shuffle().repeat()
    return order.map_with_index(lambda i, row: address(i // rows, int(row)))


def _supply(order: Any, read: Any, batch_size: int, **facts: int) -> Rows:
    def batch(step: int, rows: Sequence[int]) -> Batch:
        return read([order[step * batch_size + int(row)] for row in rows])

    return Rows(batch=batch, batch_size=batch_size, order=order, read=read, **facts)


def language(
    text: documents.Text,
    tokenizer: tokenizers.Tokenizer,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
) -> Rows:
    """Training rows of `length` tokens out of the text's train split.

    Epoch e lays its windows from an offset below `length` that is a hash of (seed, e).
    ValueError where the text is shorter than a row or its rows fewer than a batch.
    """
    split = tokenised.tokens(text, tokenizer, split="train")
    _check(split, length, batch_size)
    rows = max(1, (len(split.tokens) - length) // length)
    offsets = min(length, len(split.tokens) - rows * length)
    if rows < batch_size:
        raise ValueError(
            f"{split.name}: a batch of {batch_size} rows of {length} tokens expected at "
            f"least {batch_size} rows, got {rows} from {len(split.tokens)} tokens"
        )

    def address(epoch: int, row: int) -> int:
        return _fold("offset", seed, epoch) % offsets + row * length

    def read(starts: Sequence[int]) -> Batch:
        window = np.stack([split.tokens[s : s + length + 1] for s in starts])
        return rows_of(window, end=split.end)

    return _supply(
        shuffled(rows, address, seed=seed),
        read,
        batch_size,
        length=length,
        tokens=len(split.tokens),
        rows_per_epoch=rows,
    )


def validation(
    text: documents.Text,
    tokenizer: tokenizers.Tokenizer,
    *,
    length: int,
    batch_size: int,
    overlap: int = 0,
) -> Validation:
    """The validation split in fixed rows, complete and in order, everything once.

    overlap: tokens at a row's start that only give context, having been targets of the
    row before (a score with longer context, at length / (length - overlap) the cost).
    """
    split = tokenised.tokens(text, tokenizer, split="validation")
    _check(split, length, batch_size)
    if not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0 to {length - 1}, got {overlap}")
    total, stride = len(split.tokens), length - overlap
    count = 1 + max(0, -(-(total - 1 - length) // stride))
    place = np.arange(length + 1)

    def batch(step: int, rows: Sequence[int]) -> Batch:
        numbers = step * batch_size + np.asarray(rows, np.int64)
        starts = np.where(numbers < count, numbers * stride, total)
        sizes = np.minimum(total - starts, length + 1)
        window = split.tokens[np.minimum(starts[:, None] + place, total - 1)]
        made = rows_of(window, end=split.end, sizes=sizes)
        counted = (place[:-1] >= overlap) | (numbers[:, None] == 0)
        return made | {"weight_BL": made["weight_BL"] * counted}

    return Validation(
        batch=batch,
        batch_size=batch_size,
        batches=-(-count // batch_size),
        length=length,
        tokens=total,
        rows=count,
    )
