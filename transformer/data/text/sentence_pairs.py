"""Sentences and their translations as rows: several pairs side by side in each.

A pair fills places in two rows at once: its source, closed by `end`, in the row that is
read, and its target, between two `end`, in the row that is written (the first of them
is where writing starts; a target predicts its next token). Both are one segment of the
same number, so that a model which masks by segment sees each pair alone. Rows are
filled first fit; `batch(step, rows)` is a pure function as in `packing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.data import cache, records
from transformer.data.text import documents, packing
from transformer.data.text.tokenizers import Tokenizer

OPEN_ROWS = 256
SIDES: tuple[str, str] = ("first", "second")


class Pair(NamedTuple):
    """Tokens of a sentence and of its translation, int32, each closed by `end`."""

    source: np.ndarray
    target: np.ndarray


class Rows(NamedTuple):
    """Rows of pairs: an endless supply for training, or all of a split once.

    batch: (step, rows of the global batch) -> those rows. batches: in one pass, the
    last one of a split filled up with padding. pairs: how many are in the rows;
    left_out: longer than a row.
    """

    batch: Callable[[int, Sequence[int]], packing.Batch]
    batch_size: int
    length: int
    batches: int
    rows: int
    pairs: int
    left_out: int


def text(pairs: records.Records) -> documents.Text:
    """Every sentence of both languages as a document, for a tokenizer of both."""

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for side in SIDES:
            for sentence in getattr(pairs, split)[side]:
                yield from documents.cut([sentence])

    identity = cache.digest("pairs", pairs.identity)
    return documents.Text(pairs.name, identity, pieces)


def sides(direction: str, languages: Sequence[str]) -> tuple[str, str]:
    """Which arrays are read and written; ValueError for another direction than from one
    of the two languages to the other."""
    first, second = languages
    known = {f"{first}-{second}": SIDES, f"{second}-{first}": SIDES[::-1]}
    if direction not in known:
        raise ValueError(f"direction: expected {' or '.join(known)}, got {direction!r}")
    return known[direction]


def encoded(
    tokenizer: Tokenizer, sources: Sequence[str], targets: Sequence[str]
) -> list[Pair]:
    """The tokens of each pair."""

    def closed(sentences: Sequence[str]) -> list[np.ndarray]:
        coded = tokenizer.encode_pieces(list(sentences))
        return [np.append(codes, tokenizer.end).astype(np.int32) for codes in coded]

    both = zip(closed(sources), closed(targets), strict=True)
    return [Pair(source, target) for source, target in both]


def assign(sizes: np.ndarray, length: int, *, open_rows: int = OPEN_ROWS) -> list[Any]:
    """The numbers of the pairs in each row: each pair, of sizes [pairs, 2], goes to the
    first of the `open_rows` newest rows with room for both of its sides."""
    room = np.full((len(sizes), 2), length, np.int64)
    rows: list[list[int]] = []
    for number, size in enumerate(sizes):
        first = max(0, len(rows) - open_rows)
        fits = (room[first : len(rows)] >= size).all(1)
        row = first + int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
        room[row] -= size
    return rows


def row_of(pairs: Sequence[Pair], length: int, *, end: int) -> packing.Batch:
    """One row, its arrays without the first dimension: what is read (`source_BL`, its
    `source_segment_BL` and `source_position_BL`) and what is written (as in `packing`)."""
    whole = {"ids_BL": [], "targets_BL": [], "segment_BL": [], "position_BL": []}
    read = {"source_BL": [], "source_segment_BL": [], "source_position_BL": []}
    for segment, pair in enumerate(pairs, 1):
        for made, size, values in (
            (read, len(pair.source), [pair.source]),
            (whole, len(pair.target), [_shifted(pair.target, end), pair.target]),
        ):
            places = [np.full(size, segment), np.arange(size)]
            for name, value in zip(made, [*values, *places], strict=True):
                made[name].append(value)
    row = {name: _filled(values, length) for name, values in {**read, **whole}.items()}
    return {**row, "weight_BL": (row["segment_BL"] > 0).astype(np.float32)}


def _shifted(target: np.ndarray, end: int) -> np.ndarray:
    return np.concatenate([[end], target[:-1]])


def _filled(values: list[np.ndarray], length: int) -> np.ndarray:
    row = np.concatenate([*values, np.zeros(length, np.int32)])
    return row[:length].astype(np.int32)


def _packed(
    pairs: Sequence[Pair], length: int
) -> tuple[list[list[Pair]], dict[str, int]]:
    """The pairs of each row, and how many there are."""
    fitting = [pair for pair in pairs if max(map(len, pair)) <= length]
    sizes = np.array([[len(side) for side in pair] for pair in fitting]).reshape(-1, 2)
    rows = [[fitting[number] for number in row] for row in assign(sizes, length)]
    counts = {"pairs": len(fitting), "left_out": len(pairs) - len(fitting)}
    return rows, {**counts, "rows": len(rows)}


def training(
    pairs: Sequence[Pair],
    *,
    end: int,
    length: int,
    batch_size: int,
    seed: int = 0,
    name: str = "pairs",
) -> Rows:
    """Rows of `length` tokens read and as many written; `seed` decides which pairs
    share a row, and with the epoch the order of the rows.

    ValueError where the rows are fewer than a batch.
    """
    packing.check(length=length, batch_size=batch_size)
    order = np.random.default_rng(packing.fold("pairs", seed)).permutation(len(pairs))
    rows, counts = _packed([pairs[number] for number in order], length)
    packing.enough(name, len(rows), batch_size=batch_size, length=length)
    shuffled = packing.shuffled(len(rows), lambda epoch, row: row, seed=seed)

    def read(numbers: Sequence[Any]) -> packing.Batch:
        made = [row_of(rows[int(number)], length, end=end) for number in numbers]
        return records.stacked(made)

    return Rows(
        batch=packing.supply(shuffled, read, batch_size=batch_size),
        batch_size=batch_size,
        length=length,
        batches=len(rows) // batch_size,
        **counts,
    )


def validation(
    pairs: Sequence[Pair], *, end: int, length: int, batch_size: int
) -> Rows:
    """All pairs that fit a row, once and in order."""
    packing.check(length=length, batch_size=batch_size)
    rows, counts = _packed(pairs, length)

    def batch(step: int, numbers: Sequence[int]) -> packing.Batch:
        chosen = [step * batch_size + int(number) for number in numbers]
        held = [rows[number] if number < len(rows) else [] for number in chosen]
        return records.stacked([row_of(row, length, end=end) for row in held])

    batches = -(-len(rows) // batch_size)
    return Rows(batch, batch_size, length, batches, **counts)
