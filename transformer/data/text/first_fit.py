"""First-fit packing of complete documents into rows, for data of many short ones.

A document of n tokens (its `end` included) fills n - 1 places of a row: every token
that has a next one, with that as its target. Documents go in their order into the first
row with room for them; one longer than a row is cut into segments of a row each. The
packing is computed once, kept in the cache, and read in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transformer import storage
from transformer.data import shuffling
from transformer.data.shuffling import Batch, EvaluationSplit, TrainingSplit
from transformer.data.text import documents, packing, tokenizers

VERSION = "1"
OPEN_ROWS = 1024


class PackingIndex(NamedTuple):
    """The segments of each row.

    starts, sizes: [segments] first token and number of places, row after row.
    offsets: [rows + 1] the first segment of each row, and the total.
    """

    starts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray


def segments(offsets: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and sizes of the segments of documents that begin at `offsets`."""
    places = np.diff(offsets) - 1
    counts = -(-places // length)
    document = np.repeat(np.arange(len(places)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    sizes = np.minimum(places[document] - within * length, length)
    return offsets[:-1][document] + within * length, sizes


def assign(sizes: np.ndarray, length: int, *, open_rows: int = OPEN_ROWS) -> np.ndarray:
    """The row of each segment: the first with room among the `open_rows` newest."""
    room = np.full(len(sizes), length, np.int32)
    rows = np.empty(len(sizes), np.int64)
    used = 0
    for number, size in enumerate(sizes.tolist()):
        first = max(0, used - open_rows)
        fits = room[first:used] >= size
        row = first + int(fits.argmax()) if fits.any() else used
        used = max(used, row + 1)
        room[row] -= size
        rows[number] = row
    return rows


def _write_index(folder: Path, offsets: np.ndarray, length: int) -> None:
    starts, sizes = segments(offsets, length)
    rows = assign(sizes, length)
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=1)
    np.save(folder / "starts.npy", starts[order])
    np.save(folder / "sizes.npy", sizes[order].astype(np.int32))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(counts)]))


def index(split: packing.TokenizedSplit, length: int) -> PackingIndex:
    """The `PackingIndex` of a split, from the cache or computed now."""
    key = storage.short_hash(VERSION, split.key, str(length), str(OPEN_ROWS))
    folder = storage.cached_folder(
        f"first_fit/{key}", lambda empty: _write_index(empty, split.offsets, length)
    )
    return PackingIndex(
        *(np.load(folder / f"{n}.npy", mmap_mode="r") for n in PackingIndex._fields)
    )


def _ramp(sizes: np.ndarray) -> np.ndarray:
    """0 .. size - 1 for each of `sizes`, one after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def read_rows(
    split: packing.TokenizedSplit,
    packed: PackingIndex,
    length: int,
    row_indices: npt.ArrayLike,
) -> Batch:
    """The rows at these indices; those past the last are padding."""
    rows = np.minimum(np.asarray(row_indices, np.int64), len(packed.offsets) - 1)
    begin = packed.offsets[rows]
    counts = packed.offsets[np.minimum(rows + 1, len(packed.offsets) - 1)] - begin
    nth, row = _ramp(counts), np.repeat(np.arange(len(rows)), counts)
    sizes = packed.sizes[np.repeat(begin, counts) + nth]
    starts = packed.starts[np.repeat(begin, counts) + nth]
    before = np.concatenate([[0], np.cumsum(sizes)])
    column = before[:-1] - np.repeat(before[np.cumsum(counts) - counts], counts)
    within = _ramp(sizes)
    place = (np.repeat(row, sizes), np.repeat(column, sizes) + within)
    token = np.repeat(starts, sizes) + within
    values = {
        "ids_BL": split.tokens[token],
        "targets_BL": split.tokens[token + 1],
        "segment_BL": np.repeat(nth + 1, sizes),
        "position_BL": within,
    }
    made = {name: np.zeros((len(rows), length), np.int32) for name in values}
    for name, value in values.items():
        made[name][place] = value
    return made | {"weight_BL": (made["segment_BL"] > 0).astype(np.float32)}


def training(
    text: documents.TextDataset,
    tokenizer: tokenizers.Tokenizer,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
) -> TrainingSplit:
    """Rows of complete documents; the same rows in another order each epoch."""
    shuffling.require_positive(length=length, batch_size=batch_size)
    split = packing.tokenize_split(text, tokenizer, split="train")
    packed = index(split, length)
    count = len(packed.offsets) - 1
    packing.require_rows(split.name, count, batch_size=batch_size, length=length)
    return shuffling.training_split(
        shuffling.shuffled_order(count, lambda _, row: row, seed=seed),
        lambda row_indices: read_rows(split, packed, length, row_indices),
        batch_size=batch_size,
        rows_per_epoch=count,
    )


def validation(
    text: documents.TextDataset,
    tokenizer: tokenizers.Tokenizer,
    *,
    length: int,
    batch_size: int,
) -> EvaluationSplit:
    """The complete documents of the validation split, each once, in fixed rows."""
    shuffling.require_positive(length=length, batch_size=batch_size)
    split = packing.tokenize_split(text, tokenizer, split="validation")
    packed = index(split, length)

    def batch(step: int, rows: Sequence[int]) -> Batch:
        return read_rows(split, packed, length, step * batch_size + np.asarray(rows))

    batches = -(-(len(packed.offsets) - 1) // batch_size)
    return EvaluationSplit(batch, batch_size, batches)
