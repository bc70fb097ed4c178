"""Documents as streams of pieces, so that none of them need fit in memory.

A document is a run of `Piece`s, the last one marked. Pieces are cut in front of white
space that follows something else, which is where a byte-level BPE begins a new word
anyway: encoding the pieces gives the tokens of the whole (tests/test_data.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

SPLITS = ("train", "validation")
CHARACTERS = 1 << 16
LOOK_BACK = 1 << 12


class Piece(NamedTuple):
    """A stretch of a document; `last` marks the document's end."""

    text: str
    last: bool


class Text(NamedTuple):
    """Documents in two splits, `train` and `validation`.

    name: what the user asked for, for messages.
    identity: changes when the text does; keys what is derived from it.
    pieces: split -> the pieces of its documents, in a fixed order, read when used.
    """

    name: str
    identity: str
    pieces: Callable[[str], Iterator[Piece]]


def whole(text: Text, split: str) -> Iterator[str]:
    """The documents of a split as whole strings (for texts that fit in memory)."""
    held = []
    for piece in text.pieces(split):
        held.append(piece.text)
        if piece.last:
            yield "".join(held)
            held = []


def _boundary(text: str, limit: int) -> int:
    """The last place <= limit that begins a run of white space; limit if none near."""
    for place in range(limit, max(limit - LOOK_BACK, 0), -1):
        if text[place] in " \n" and not text[place - 1].isspace():
            return place
    return limit


def cut(chunks: Iterable[str], *, size: int = CHARACTERS) -> Iterator[Piece]:
    """The pieces of one document given in chunks; they do not depend on the chunks."""
    held = ""
    for chunk in chunks:
        held += chunk
        start = 0
        while len(held) - start > size:
            end = start + _boundary(held[start : start + size + 1], size)
            yield Piece(held[start:end], False)
            start = end
        held = held[start:]
    if held:
        yield Piece(held, True)


def check_split(split: str) -> None:
    """ValueError unless `split` is one of the two."""
    if split not in SPLITS:
        raise ValueError(f"expected a split of {SPLITS}, got {split!r}")
