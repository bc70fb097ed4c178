"""The user's own UTF-8 file, or folder of them, read in pieces.

The validation split is the tail: the last `held_out` of all bytes, in the order of
the files' paths, from the beginning of a line on (the file in which the cut falls is
divided). A folder with sub-folders `train` and `validation` is taken at its word.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transformer.data import cache
from transformer.data.text import documents

READ_BYTES = 1 << 18
HASHED_BYTES = 64 << 20


class Span(NamedTuple):
    """Bytes start..stop of a file: one document."""

    path: Path
    start: int
    stop: int


def chunks(span: Span) -> Iterator[str]:
    """The text of a span; ValueError names the file and the byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    path, place, stop = span
    with open(path, "rb") as file:
        file.seek(place)
        while place < stop:
            data = file.read(min(READ_BYTES, stop - place))
            if not data:
                raise ValueError(
                    f"{path}: expected {stop} bytes, got {place}: it shrank"
                )
            begins = place - len(decoder.getstate()[0])
            place += len(data)
            try:
                text = decoder.decode(data, final=place >= stop)
            except UnicodeDecodeError as error:
                got = error.object[error.start]
                raise ValueError(
                    f"{path}: expected UTF-8, got byte 0x{got:02x} "
                    f"at offset {begins + error.start} ({error.reason})"
                ) from None
            yield text


def line_start(path: Path, place: int) -> int:
    """The first byte >= place that begins a line or, far from any, a character."""
    size = path.stat().st_size
    if not 0 < place < size:
        return place
    with open(path, "rb") as file:
        file.seek(place - 1)
        window = file.read(READ_BYTES)
    newline = window.find(b"\n", 0, -1)
    if newline >= 0:
        return place + newline
    skip = 1
    while skip < len(window) and window[skip] & 0xC0 == 0x80:
        skip += 1
    return place - 1 + skip


def listing(folder: Path) -> list[Path]:
    """Every file under `folder` that is not hidden, by path."""
    found = []
    for root, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(root) / name for name in files if not name.startswith(".")]
    return sorted(found)


def spans(files: list[Path]) -> list[Span]:
    """Each non-empty file as one document; ValueError if there is none."""
    found = [Span(path, 0, path.stat().st_size) for path in files]
    return [span for span in found if span.stop]


def divide(whole: list[Span], held_out: float) -> dict[str, list[Span]]:
    """The spans before and after the cut that holds out the last share of the bytes."""
    left = int(sum(span.stop for span in whole) * (1 - held_out))
    train, validation = [], []
    for path, _, stop in whole:
        middle = line_start(path, max(0, min(left, stop)))
        left -= stop
        train += [Span(path, 0, middle)] if middle > 0 else []
        validation += [Span(path, middle, stop)] if middle < stop else []
    return {"train": train, "validation": validation}


def file_hash(span: Span) -> bytes:
    """sha256 of the file of a span."""
    with open(span.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def identity(whole: list[Span]) -> str:
    """Changes with the files: their bytes if small, else their place, size and time."""
    if sum(span.stop for span in whole) <= HASHED_BYTES:
        return cache.digest(*map(file_hash, whole))
    facts = [(str(s.path.resolve()), s.stop, s.path.stat().st_mtime_ns) for s in whole]
    return cache.digest(repr(facts))


def text(path: Path, *, held_out: float) -> documents.Text:
    """The file or folder `path` as a `Text`; ValueError if there is nothing in it."""
    if path.is_dir() and all((path / split).is_dir() for split in documents.SPLITS):
        parts = {split: spans(listing(path / split)) for split in documents.SPLITS}
    else:
        whole = spans(listing(path) if path.is_dir() else [path])
        parts = divide(whole, held_out)
    everything = [span for split in documents.SPLITS for span in parts[split]]
    if not all(parts.values()):
        got = sum(span.stop - span.start for span in everything)
        raise ValueError(
            f"{path}: expected UTF-8 text for a train and a validation split, "
            f"got {got} bytes"
        )

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for span in parts[split]:
            yield from documents.cut(chunks(span))

    marks = repr([(span.start, span.stop) for span in everything])
    files = spans(list(dict.fromkeys(span.path for span in everything)))
    return documents.Text(str(path), cache.digest(identity(files), marks), pieces)
