"""Documents as streams of pieces, so that none of them needs to fit in memory.

A document is a sequence of `Piece`s, the last one marked. A cut falls before white
space that follows another character, where a byte-level BPE begins a new word anyway:
the tokens of the pieces are the tokens of the document (test_tokenizers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer import storage

# Texts in order: a list or an array of strings.
Texts = Sequence[str] | np.ndarray
SPLITS = ("train", "validation")
CHARACTERS = 1 << 16
LOOK_BACK = 1 << 12


class Piece(NamedTuple):
    """A part of a document; `last` marks the document's end."""

    text: str
    last: bool


class TextDataset(NamedTuple):
    """Documents in two splits, `train` and `validation`.

    name: the source as the user gave it, for messages.
    fingerprint: a hash of the text, the cache key of all that is derived from it.
    pieces: split -> the pieces of its documents, in a fixed order, read lazily.
    parts: of a mixture, each part and its share of the training rows.
    evaluation_only: both splits are the whole text, and no training row is needed.
    tokens: of prepared text (`token_shards.py`), its own tokens.
    """

    name: str
    fingerprint: str
    pieces: Callable[[str], Iterator[Piece]]
    parts: tuple[tuple[TextDataset, float], ...] = ()
    evaluation_only: bool = False
    tokens: PreparedTokens | None = None


class PreparedTokens(NamedTuple):
    """Text that was encoded before the run.

    split: split -> a `packing.TokenizedSplit`. hash: of the tokenizer. tokenizer: reads
    it.
    """

    split: Callable[[str], Any]
    hash: str
    tokenizer: Callable[[], Any]


def mix(name: str, parts: Sequence[tuple[TextDataset, float]]) -> TextDataset:
    """The documents of all parts, one part after the other, as one data set."""

    def pieces(split: str) -> Iterator[Piece]:
        for part, _ in parts:
            yield from part.pieces(split)

    stamps = [f"{part.fingerprint} {share!r}" for part, share in parts]
    fingerprint = storage.short_hash("mixture", *stamps)
    return TextDataset(name, fingerprint, pieces, tuple(parts))


def full_documents(text: TextDataset, split: str) -> Iterator[str]:
    """The documents of a split as strings (for texts that fit in memory)."""
    pending = []
    for piece in text.pieces(split):
        pending.append(piece.text)
        if piece.last:
            yield "".join(pending)
            pending = []


def _boundary(text: str, limit: int) -> int:
    """The last place <= limit where white space begins; limit if none is near."""
    for place in range(limit, max(limit - LOOK_BACK, 0), -1):
        if text[place] in " \n" and not text[place - 1].isspace():
            return place
    return limit


def pieces_of(chunks: Iterable[str], *, size: int = CHARACTERS) -> Iterator[Piece]:
    """The pieces of one document given in chunks, the same for any chunks."""
    pending = ""
    for chunk in chunks:
        pending += chunk
        start = 0
        while len(pending) - start > size:
            end = start + _boundary(pending[start : start + size + 1], size)
            yield Piece(pending[start:end], False)
            start = end
        pending = pending[start:]
    if pending:
        yield Piece(pending, True)


def check_split(split: str) -> None:
    """ValueError unless `split` is one of the two."""
    if split not in SPLITS:
        raise ValueError(f"expected a split of {SPLITS}, got {split!r}")
