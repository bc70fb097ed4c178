"""The user's own UTF-8 file, or folder of them, read in pieces.

The validation split is the tail: the last `held_out` of all bytes, in the order of
the files' paths, starting at the beginning of a line (the file that contains the cut is
divided). A folder with sub-folders `train` and `validation` is used as given.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transformer import storage
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
    path, offset, stop = span
    with open(path, "rb") as file:
        file.seek(offset)
        while offset < stop:
            data = file.read(min(READ_BYTES, stop - offset))
            if not data:
                raise ValueError(
                    f"{path}: expected {stop} bytes, got {offset}: it shrank"
                )
            begins = offset - len(decoder.getstate()[0])
            offset += len(data)
            try:
                text = decoder.decode(data, final=offset >= stop)
            except UnicodeDecodeError as error:
                got = error.object[error.start]
                raise ValueError(
                    f"{path}: expected UTF-8, got byte 0x{got:02x} "
                    f"at offset {begins + error.start} ({error.reason})"
                ) from None
            yield text


def line_start(path: Path, offset: int) -> int:
    """The first byte >= offset that begins a line or, if none is near, a character."""
    size = path.stat().st_size
    if not 0 < offset < size:
        return offset
    with open(path, "rb") as file:
        file.seek(offset - 1)
        window = file.read(READ_BYTES)
    newline = window.find(b"\n", 0, -1)
    if newline >= 0:
        return offset + newline
    skip = 1
    while skip < len(window) and window[skip] & 0xC0 == 0x80:
        skip += 1
    return offset - 1 + skip


def listing(folder: Path) -> list[Path]:
    """All files under `folder` that are not hidden, sorted."""
    found = []
    for root, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        found += [Path(root) / name for name in files if not name.startswith(".")]
    # Compared as tuples: of many paths, sorting is what takes time.
    return sorted(found, key=lambda path: path.parts)


def file_spans(files: list[Path]) -> list[Span]:
    """Each non-empty file as one document; ValueError if there is none."""
    found = [Span(path, 0, path.stat().st_size) for path in files]
    return [span for span in found if span.stop]


def split_spans(spans: list[Span], held_out: float) -> dict[str, list[Span]]:
    """The training spans, and those of the last `held_out` of the bytes."""
    left = int(sum(span.stop for span in spans) * (1 - held_out))
    train, validation = [], []
    for path, _, stop in spans:
        middle = line_start(path, max(0, min(left, stop)))
        left -= stop
        train += [Span(path, 0, middle)] if middle > 0 else []
        validation += [Span(path, middle, stop)] if middle < stop else []
    return {"train": train, "validation": validation}


def fingerprint(spans: list[Span]) -> str:
    """A hash of the files: of their bytes up to 64 MiB, else of path, size and time."""
    if sum(span.stop for span in spans) <= HASHED_BYTES:
        return storage.short_hash(*(storage.sha256(span.path) for span in spans))
    facts = [(str(s.path.resolve()), s.stop, s.path.stat().st_mtime_ns) for s in spans]
    return storage.short_hash(repr(facts))


def read(path: Path, *, held_out: float) -> documents.TextDataset:
    """The file or folder `path` as a `TextDataset`; ValueError if it is empty."""
    if path.is_dir() and all((path / split).is_dir() for split in documents.SPLITS):
        parts = {split: file_spans(listing(path / split)) for split in documents.SPLITS}
    else:
        files = listing(path) if path.is_dir() else [path]
        parts = split_spans(file_spans(files), held_out)
    all_spans = [span for split in documents.SPLITS for span in parts[split]]
    if not all(parts.values()):
        got = sum(span.stop - span.start for span in all_spans)
        raise ValueError(
            f"{path}: expected UTF-8 text for a train and a validation split, "
            f"got {got} bytes"
        )

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for span in parts[split]:
            yield from documents.pieces_of(chunks(span))

    cuts = repr([(span.start, span.stop) for span in all_spans])
    files = file_spans(list(dict.fromkeys(span.path for span in all_spans)))
    return documents.TextDataset(
        str(path), storage.short_hash(fingerprint(files), cuts), pieces
    )
