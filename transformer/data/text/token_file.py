"""A split as one memory-mapped array of tokens, made once and kept in the cache.

Each document is followed by the tokenizer's `end`. The file may be larger than memory:
it is written piece by piece and only the pages that are read are loaded.
"""

from __future__ import annotations

import array
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer.data import cache
from transformer.data.text import documents, tokenizers

VERSION = "1"
BATCH_CHARACTERS = 1 << 21


class Tokens(NamedTuple):
    """A tokenised split.

    tokens: uint16 or uint32 [tokens], memory-mapped; every document ends in `end`.
    offsets: int64 [documents + 1], where each document begins, and the end of all.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    end: int
    name: str
    key: str


def _batches(pieces: Iterator[documents.Piece]) -> Iterator[list[documents.Piece]]:
    held, size = [], 0
    for piece in pieces:
        held.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


def _write(
    folder: Path, text: documents.Text, tokenizer: tokenizers.Tokenizer, split: str
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32)
    offsets, written = array.array("q", [0]), 0
    with open(folder / "tokens.bin", "wb") as file:
        for batch in _batches(text.pieces(split)):
            encoded = tokenizer.encode_pieces([piece.text for piece in batch])
            for piece, codes in zip(batch, encoded, strict=True):
                closing = [tokenizer.end] if piece.last else []
                file.write(np.append(codes, closing).astype(dtype).tobytes())
                written += len(codes) + len(closing)
                offsets.extend([written] if piece.last else [])
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    facts = {"dtype": dtype.name, "tokens": written, "text": text.name, "split": split}
    (folder / "facts.json").write_text(json.dumps(facts))


def tokens(
    text: documents.Text, tokenizer: tokenizers.Tokenizer, *, split: str
) -> Tokens:
    """The tokens of a split, from the cache or encoded now."""
    documents.check_split(split)
    key = cache.digest(VERSION, text.identity, tokenizer.hash, split)
    folder = cache.folder(
        f"tokens/{key}", lambda fresh: _write(fresh, text, tokenizer, split)
    )
    facts = json.loads((folder / "facts.json").read_text())
    if not facts["tokens"]:
        raise ValueError(f"{text.name}: expected text in split {split}, got none")
    return Tokens(
        tokens=np.memmap(folder / "tokens.bin", facts["dtype"], "r"),
        offsets=np.load(folder / "offsets.npy"),
        end=tokenizer.end,
        name=f"{text.name} ({split})",
        key=key,
    )
