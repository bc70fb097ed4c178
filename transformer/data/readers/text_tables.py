"""Documents of the user's tables: one column's text in each row (`readers/table.py`).

A document is held out where its sha256, as a fraction of the largest, is below
`held_out`: whatever the order of the rows, equal documents are in one split, and
nothing but the file is read twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer import storage
from transformer.data.notices import print_once
from transformer.data.readers import table
from transformer.data.text import documents

VERSION = "1"


class TableStatistics(NamedTuple):
    """The counts of one pass over a table.

    rows: in all. empty: those without text. held_out: documents whose `hash_fraction`
    is below the requested fraction.
    lowest, highest: the least and the greatest `hash_fraction` of a document.
    """

    rows: int
    empty: int
    held_out: int
    lowest: float
    highest: float


def fraction_of(digest: bytes) -> float:
    """A sha256 as a fraction of the largest, [0, 1]."""
    return int.from_bytes(digest[:8]) / 2**64


def hash_fraction(text: str) -> float:
    """`fraction_of` the sha256 of a text."""
    return fraction_of(hashlib.sha256(text.encode()).digest())


def texts(path: Path, column: str) -> Iterator[str]:
    """The text of each row. Errors as `table.read`; ValueError for a TSV that does not
    name its columns."""
    chosen = table.default_columns([column])
    found = table.read(path, chosen, flag="--text_column")
    for _, (text,) in found.rows:
        if not found.names:
            raise ValueError(
                f"{path}, row 1: expected names of columns, {column!r} among them, got "
                "none; without a table's suffix the file is plain text"
            )
        yield text


def _statistics(path: Path, column: str, held_out: float) -> TableStatistics:
    rows = empty = held = 0
    lowest, highest = 1.0, 0.0
    for text in texts(path, column):
        rows += 1
        empty += not text
        if text:
            place = hash_fraction(text)
            held += place < held_out
            lowest, highest = min(lowest, place), max(highest, place)
    return TableStatistics(rows, empty, held, lowest, highest)


def scan(path: Path, column: str, held_out: float, stamp: str) -> TableStatistics:
    """The `TableStatistics` of a table, from the cache or counted now, so that faulty
    rows are refused before the first step. stamp: a hash of the file."""
    key = storage.short_hash(VERSION, stamp, path.name, column, repr(held_out))

    def build(folder: Path) -> None:
        found = _statistics(path, column, held_out)
        (folder / "facts.json").write_text(json.dumps(found))

    folder = storage.cached_folder(f"tables/{key}", build)
    found = TableStatistics(*json.loads((folder / "facts.json").read_text()))
    if found.empty:
        print_once(f"{path}: {found.empty} of {found.rows} rows have no text")
    return found


def held_out_threshold(tables: Sequence[TableStatistics], held_out: float) -> float:
    """The `hash_fraction` below which a document is held out: `held_out`, but such that
    at least one document is held out and one is not, where there are two."""
    count = sum(one.rows - one.empty for one in tables)
    held = sum(one.held_out for one in tables)
    lowest = min((one.lowest for one in tables), default=0.0)
    highest = max((one.highest for one in tables), default=0.0)
    if not held:
        return math.nextafter(lowest, 1.0)
    return highest if held == count else held_out


def pieces(
    path: Path, column: str, is_wanted: Callable[[str], bool]
) -> Iterator[documents.Piece]:
    """The pieces of the documents that are wanted."""
    for text in texts(path, column):
        if text and is_wanted(text):
            yield from documents.pieces_of([text])
