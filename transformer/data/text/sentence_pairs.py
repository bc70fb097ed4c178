"""Sentences and their translations as rows of several pairs each.

A pair fills places in two rows at once: its source, closed by `end`, in the encoder's
row, and its target in the decoder's row, between two `end` (the first starts the
decoder; each token predicts the next). Both sides are the segment of the same number,
so that a model that masks by segment sees each pair alone. Rows are filled first fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer import storage
from transformer.data import records, shuffling
from transformer.data.notices import print_once
from transformer.data.shuffling import Batch, EvaluationSplit, TrainingSplit
from transformer.data.text import documents, packing
from transformer.data.text.documents import Texts
from transformer.data.text.tokenizers import Tokenizer

OPEN_ROWS = 256
SIDES: tuple[str, str] = ("first", "second")


class Pair(NamedTuple):
    """Tokens of a sentence and of its translation, int32, each closed by `end`."""

    source: np.ndarray
    target: np.ndarray


def pair_documents(pairs: records.Records) -> documents.TextDataset:
    """Each sentence of both languages as a document, to train a tokenizer."""

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for side in SIDES:
            for sentence in getattr(pairs, split)[side]:
                yield from documents.pieces_of([sentence])

    fingerprint = storage.short_hash("pairs", pairs.fingerprint)
    return documents.TextDataset(pairs.name, fingerprint, pieces)


def sides(direction: str, languages: Sequence[str]) -> tuple[str, str]:
    """The names of the source array and the target array for a direction as en-pt;
    ValueError for any but the two directions between the languages."""
    first, second = languages
    known = {f"{first}-{second}": SIDES, f"{second}-{first}": SIDES[::-1]}
    if direction not in known:
        raise ValueError(f"direction: expected {' or '.join(known)}, got {direction!r}")
    return known[direction]


def encode_pairs(tokenizer: Tokenizer, sources: Texts, targets: Texts) -> list[Pair]:
    """The tokens of each pair."""

    def encode(sentences: Texts) -> list[np.ndarray]:
        encoded = tokenizer.encode_pieces(list(sentences))
        end = np.array([tokenizer.end], np.int32)
        return [np.concatenate([ids, end]) for ids in encoded]

    both = zip(encode(sources), encode(targets), strict=True)
    return [Pair(source, target) for source, target in both]


def assign(sizes: np.ndarray, length: int, *, open_rows: int = OPEN_ROWS) -> list[Any]:
    """The indices of the pairs in each row. Each pair, of sizes [pairs, 2], goes into
    the first of the `open_rows` newest rows with room for both of its sides."""
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


def packed_row(pairs: Sequence[Pair], length: int, *, end: int) -> Batch:
    """One row, its arrays without the first dimension: the encoder's (`source_BL`,
    `source_segment_BL`, `source_position_BL`) and the decoder's (as in `packing`)."""
    decoder = {"ids_BL": [], "targets_BL": [], "segment_BL": [], "position_BL": []}
    encoder = {"source_BL": [], "source_segment_BL": [], "source_position_BL": []}
    for segment, pair in enumerate(pairs, 1):
        ids = np.concatenate([[end], pair.target[:-1]])
        for arrays, values in (
            (encoder, [pair.source]),
            (decoder, [ids, pair.target]),
        ):
            size = len(values[0])
            places = [np.full(size, segment), np.arange(size)]
            for name, value in zip(arrays, [*values, *places], strict=True):
                arrays[name].append(value)
    row = {
        name: _pad(values, length) for name, values in {**encoder, **decoder}.items()
    }
    return {**row, "weight_BL": (row["segment_BL"] > 0).astype(np.float32)}


def _pad(values: list[np.ndarray], length: int) -> np.ndarray:
    row = np.concatenate([*values, np.zeros(length, np.int32)])
    return row[:length].astype(np.int32)


def pack(pairs: Sequence[Pair], length: int) -> list[list[Pair]]:
    """The pairs of each row; pairs longer than a row are left out."""
    fitting = [pair for pair in pairs if max(map(len, pair)) <= length]
    sizes = np.array([[len(side) for side in pair] for pair in fitting]).reshape(-1, 2)
    return [[fitting[number] for number in row] for row in assign(sizes, length)]


def training(
    pairs: Sequence[Pair],
    *,
    end: int,
    length: int,
    batch_size: int,
    seed: int = 0,
    name: str = "pairs",
) -> TrainingSplit:
    """Rows of `length` tokens on each side. `seed` determines which pairs share a row,
    and with the epoch the order of the rows.

    ValueError where the rows are fewer than a batch.
    """
    shuffling.require_positive(length=length, batch_size=batch_size)
    rng = np.random.default_rng(shuffling.seed_from("pairs", seed))
    rows = pack([pairs[number] for number in rng.permutation(len(pairs))], length)
    packing.require_rows(name, len(rows), batch_size=batch_size, length=length)

    def read(numbers: Sequence[int]) -> Batch:
        chosen = [packed_row(rows[number], length, end=end) for number in numbers]
        return shuffling.stack(chosen)

    return shuffling.training_split(
        shuffling.shuffled_order(len(rows), lambda epoch, row: row, seed=seed),
        read,
        batch_size=batch_size,
        rows_per_epoch=len(rows),
    )


def validation(
    pairs: Sequence[Pair], *, end: int, length: int, batch_size: int
) -> EvaluationSplit:
    """All pairs that fit into a row, once and in order."""
    shuffling.require_positive(length=length, batch_size=batch_size)
    rows = pack(pairs, length)

    def batch(step: int, numbers: Sequence[int]) -> Batch:
        chosen = [step * batch_size + int(number) for number in numbers]
        padded = [rows[number] if number < len(rows) else [] for number in chosen]
        return shuffling.stack([packed_row(row, length, end=end) for row in padded])

    return EvaluationSplit(batch, batch_size, -(-len(rows) // batch_size))


def drop_long_pairs(
    data: records.Records, encoded: dict[str, list[Pair]], *, length: int
) -> tuple[records.Records, dict[str, list[Pair]]]:
    """`data` and its encoded pairs by split, without the pairs of which a side is
    longer than a row; these are counted in a printed line. ValueError where a split has
    no other."""
    keep = {
        split: np.array([max(map(len, pair)) <= length for pair in pairs])
        for split, pairs in encoded.items()
    }
    long = [f"{(~kept).sum()} of {len(kept)}" for kept in keep.values()]
    for split, kept in keep.items():
        if not kept.any():
            raise ValueError(
                f"{data.name}: expected {split} pairs of at most {length} tokens a "
                "side, got none; raise --sequence_length"
            )
    if not all(kept.all() for kept in keep.values()):
        print_once(
            f"{data.name}: {long[0]} training and {long[1]} held-out pairs are longer "
            f"than a row of {length} tokens on a side, and left out"
        )
    fitting = {
        split: [p for p, one in zip(pairs, keep[split], strict=True) if one]
        for split, pairs in encoded.items()
    }
    arrays = {
        split: {n: a[keep[split]] for n, a in getattr(data, split).items()}
        for split in encoded
    }
    return data._replace(**arrays), fitting


def splits(
    data: records.Records,
    sides: tuple[str, str],
    tokenizer: Tokenizer,
    *,
    length: int,
    batch_size: int,
    seed: int = 0,
) -> tuple[records.Records, tuple[TrainingSplit, EvaluationSplit]]:
    """`data` after `drop_long_pairs`, and its `training` rows and `validation` rows;
    sides: source and target, of `sides`."""
    encoded = {
        split: encode_pairs(tokenizer, *(getattr(data, split)[side] for side in sides))
        for split in documents.SPLITS
    }
    data, fitting = drop_long_pairs(data, encoded, length=length)
    rows: Any = {"end": tokenizer.end, "length": length, "batch_size": batch_size}
    return data, (
        training(fitting["train"], **rows, seed=seed, name=data.name),
        validation(fitting["validation"], **rows),
    )
