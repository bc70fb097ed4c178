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

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.data import cache
from transformer.data.text import documents, tokenizers
from transformer.data.text import token_file as tokenised

Batch = dict[str, np.ndarray]
_REMEMBERED_ROWS = 1024


class Rows(NamedTuple):
    """An endless, shuffled, random-access supply of training rows.

    batch: (step, rows of the global batch) -> those rows, each [rows, length].
    tokens, rows_per_epoch: how much there is in one pass.
    order: grain.MapDataset of row addresses; read: addresses -> rows.
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
    place = np.arange(window.shape[1], dtype=np.int32)
    starts = np.zeros(window.shape, bool)
    starts[:, 1:] = window[:, :-1] == end
    segment = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    index = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    if sizes is not None:
        real = place < sizes[:, None]
        window, segment, index = window * real, segment * real, index * real
    same = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    return {
        "ids_BL": window[:, :-1],
        "targets_BL": window[:, 1:] * same,
        "segment_BL": segment[:, :-1],
        "position_BL": index[:, :-1],
        "weight_BL": same.astype(np.float32),
    }


def fold(*parts: Any) -> int:
    """A 32-bit number from a hash of the parts."""
    return int(cache.digest(*(repr(part) for part in parts))[:8], 16)


def check(**sizes: int) -> None:
    """ValueError unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}")


def enough(name: str, rows: int, *, batch_size: int, length: int) -> None:
    """ValueError unless there is a batch of rows."""
    if rows < batch_size:
        raise ValueError(
            f"{name}: expected text for a batch of {batch_size} rows of {length} "
            f"tokens, got {rows} rows"
        )


def shuffled(rows: int, address: Callable[[int, int], Any], *, seed: int) -> Any:
    """grain's endless permutation: element i is `address(epoch, row)`."""
    import grain

    numbers = grain.MapDataset.range(rows).seed(fold("order", seed)).shuffle().repeat()

    @functools.lru_cache(maxsize=4)
    def epoch_order(epoch: int) -> list[Any]:
        return [numbers[epoch * rows + place] for place in range(rows)]

    def remembered(i: int, _: int) -> Any:
        return address(i // rows, epoch_order(i // rows)[i % rows])

    if rows <= _REMEMBERED_ROWS:  # a permutation of few costs grain 1 ms an element
        return grain.MapDataset.range(rows).repeat().map_with_index(remembered)
    return numbers.map_with_index(lambda i, row: address(i // rows, int(row)))


def supply(
    order: Any, read: Callable[[Sequence[Any]], Batch], *, batch_size: int
) -> Callable[[int, Sequence[int]], Batch]:
    """`batch(step, rows)`: row r of step s is element s * batch_size + r of `order`."""

    def batch(step: int, rows: Sequence[int]) -> Batch:
        return read([order[step * batch_size + int(row)] for row in rows])

    return batch


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
    check(length=length, batch_size=batch_size)
    split = tokenised.tokens(text, tokenizer, split="train")
    total = len(split.tokens)
    if total < length + 1:
        raise ValueError(
            f"{split.name}: expected more tokens than the sequence length {length}, "
            f"got {total}"
        )
    rows = max(1, (total - length) // length)
    offsets = min(length, total - rows * length)
    enough(split.name, rows, batch_size=batch_size, length=length)

    @functools.lru_cache(maxsize=4)
    def offset(epoch: int) -> int:
        return fold("offset", seed, epoch) % offsets

    def address(epoch: int, row: int) -> int:
        return offset(epoch) + row * length

    def read(starts: Sequence[int]) -> Batch:
        place = np.asarray(starts, np.int64).reshape(-1, 1) + np.arange(length + 1)
        return rows_of(split.tokens[place], end=split.end)

    order = shuffled(rows, address, seed=seed)
    return Rows(
        batch=supply(order, read, batch_size=batch_size),
        batch_size=batch_size,
        length=length,
        tokens=total,
        rows_per_epoch=rows,
        order=order,
        read=read,
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
        row before (a score with longer context, length / (length - overlap) the cost).
    """
    check(length=length, batch_size=batch_size)
    if not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0 to {length - 1}, got {overlap}")
    split = tokenised.tokens(text, tokenizer, split="validation")
    total, stride = len(split.tokens), length - overlap
    count = 1 + max(0, -(-(total - 1 - length) // stride))
    place = np.arange(length + 1)

    def batch(step: int, rows: Sequence[int]) -> Batch:
        numbers = step * batch_size + np.asarray(rows, np.int64)
        starts = np.where(numbers < count, numbers * stride, total)
        window = split.tokens[np.minimum(starts[:, None] + place, total - 1)]
        made = rows_of(window, end=split.end, sizes=total - starts)
        counted = (place[:-1] >= overlap) | (numbers[:, None] == 0)
        made["weight_BL"] *= counted
        made["targets_BL"] *= counted
        return made

    return Validation(
        batch=batch,
        batch_size=batch_size,
        batches=-(-count // batch_size),
        length=length,
        tokens=total,
        rows=count,
    )
