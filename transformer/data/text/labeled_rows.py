"""Labeled texts as rows of one text each, numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.data import records
from transformer.data.notices import print_once
from transformer.data.records import Arrays, Records
from transformer.data.shuffling import EvaluationSplit, TrainingSplit
from transformer.data.text import documents, tokenizers
from transformer.data.text.tokenizers import Tokenizer

LENGTH = 64


def bpe(
    data: Records, *, vocab_size: int = 2048, folder: Path | None = None
) -> Tokenizer:
    """The tokenizer in `folder`, or a byte-level BPE of `vocab_size` tokens of the
    training texts."""

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for text in getattr(data, split)["text"]:
            yield from documents.pieces_of([text])

    fingerprint = storage.short_hash("labeled text", data.fingerprint)
    text = documents.TextDataset(data.name, fingerprint, pieces)
    return tokenizers.for_text("bpe", text, vocab_size=vocab_size, folder=folder)


def _rows(encoded: list[np.ndarray], label: np.ndarray, *, length: int) -> Arrays:
    ids_BL = np.zeros((len(encoded), length), np.int32)
    for row, ids in zip(ids_BL, encoded, strict=True):
        row[: len(ids)] = ids[:length]
    sizes = np.array([len(ids) for ids in encoded])
    segment_BL = (np.arange(length) < sizes[:, None]).astype(np.int32)
    return {"ids_BL": ids_BL, "segment_BL": segment_BL, "label_B": label}


def encode(tokenizer: Tokenizer, arrays: Arrays, *, length: int) -> Arrays:
    """`ids_BL`, the first `length` tokens of each of the strings `text`; `segment_BL`,
    1 for these and 0 for padding; and `label_B`. All int32."""
    encoded = tokenizer.encode_pieces(list(arrays["text"]))
    return _rows(encoded, arrays["label"], length=length)


def splits(
    data: Records,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int = LENGTH,
    seed: int = 0,
) -> tuple[TrainingSplit, EvaluationSplit]:
    """Shuffled training rows, and all validation rows in order, as `encode` makes
    them, with `weight_B`. data: of `sources.labeled_text`. Texts that are cut off are
    counted in a printed line. ValueError where the texts are fewer than a batch."""
    rows, words = [], []
    for split in documents.SPLITS:
        arrays = getattr(data, split)
        encoded = tokenizer.encode_pieces(list(arrays["text"]))
        rows.append(_rows(encoded, arrays["label"], length=length))
        words.append(f"{sum(len(ids) > length for ids in encoded)} of {len(encoded)} ")
    if not all(word.startswith("0 ") for word in words):
        print_once(
            f"{data.name}: {words[0]}training and {words[1]}held-out texts are longer "
            f"than {length} tokens, of which the first {length} are used"
        )
    train, held_out = rows
    sizes: Any = {"batch_size": batch_size, "seed": seed}
    return (
        records.training(train, **sizes, name=data.name),
        records.evaluation(held_out, batch_size=batch_size),
    )
