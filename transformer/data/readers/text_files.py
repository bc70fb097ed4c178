"""The user's own UTF-8 file, or folder of them, read in pieces.

A file is one document, also compressed (`.txt.gz`); of a table (`.jsonl`, `.csv`), each
row is one (`readers/text_tables.py`). The validation split is the tail: the last
`held_out` of all bytes, in the order of the files' paths, starting at the beginning of
a line (the file that contains the cut is divided); of tables, the rows with a small
hash. A folder with sub-folders `train` and `validation` is used as given, and so are
tables and texts called so (`train.txt`, `train-00000-of-00002.parquet`). Refused are a
file with a null character, and white space alone.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer import remote_data, storage
from transformer.data.notices import print_once
from transformer.data.readers import compression, table, text_tables
from transformer.data.text import documents

READ_BYTES = 1 << 18
HASHED_BYTES = 64 << 20
# Names of splits that other projects use.
TRAIN = {"train", "training"}
HELD_OUT = {"test", "testing", "val", "valid", "validation", "dev", "eval"}


class Span(NamedTuple):
    """Bytes start..stop of a file, after decompression: one document."""

    path: Path
    start: int
    stop: int


@contextlib.contextmanager
def open_at(path: Path, offset: int) -> Iterator[Any]:
    """The stream of a file from a byte on; a compressed one is read up to it."""
    with compression.open_bytes(path) as file:
        if not compression.is_compressed(path):
            file.seek(offset)
        while offset and compression.is_compressed(path):
            skipped = len(file.read(min(offset, READ_BYTES)))
            offset = offset - skipped if skipped else 0
        yield file


def _decode(path: Path, blocks: Iterable[bytes], offset: int) -> Iterator[str]:
    """The text of blocks of bytes that begin at `offset`; ValueError names the file and
    the byte that is not UTF-8."""
    # A byte order mark at the start marks the encoding and is no text.
    encoding = "utf-8" if offset else "utf-8-sig"
    decoder = codecs.getincrementaldecoder(encoding)()
    # An empty block ends the text: what is left of a character is at fault then.
    for data in itertools.chain(blocks, [b""]):
        begins = offset - len(decoder.getstate()[0])
        offset += len(data)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            got = error.object[error.start]
            raise ValueError(
                f"{path}: expected UTF-8, got byte 0x{got:02x} "
                f"at offset {begins + error.start} ({error.reason})"
            ) from None
        if "\0" in text:
            raise ValueError(
                f"{path}: expected UTF-8 text, got a null character: a binary file, or "
                "another encoding"
            )
        yield text


def _blocks(span: Span) -> Iterator[bytes]:
    path, offset, stop = span
    with open_at(path, offset) as file:
        while offset < stop:
            data = file.read(min(READ_BYTES, stop - offset))
            if not data:
                raise ValueError(
                    f"{path}: expected {stop} bytes, got {offset}: it shrank"
                )
            offset += len(data)
            yield data


def chunks(span: Span) -> Iterator[str]:
    """The text of a span; ValueError names the file and the byte that is not UTF-8."""
    return _decode(span.path, _blocks(span), span.start)


def text_of(path: Path) -> Iterator[str]:
    """The text of a file, decompressed, in chunks; errors as `chunks`."""
    with compression.open_bytes(path) as file:
        blocks = iter(lambda: file.read(READ_BYTES), b"")
        yield from _decode(path, blocks, 0)


def size_of(path: Path) -> int:
    """The bytes of a file after decompression, counted once and cached."""
    size = path.stat().st_size
    if not compression.is_compressed(path):
        return size

    def count(folder: Path) -> None:
        with compression.open_bytes(path) as file:
            total = sum(map(len, iter(lambda: file.read(READ_BYTES), b"")))
        (folder / "size.json").write_text(json.dumps(total))

    stamp = fingerprint([Span(path, 0, size)])
    folder = storage.cached_folder(f"sizes/{stamp}", count)
    return json.loads((folder / "size.json").read_text())


def line_start(path: Path, offset: int) -> int:
    """The first byte >= offset that begins a line or, if none is near, a character."""
    if not 0 < offset < size_of(path):
        return offset
    with open_at(path, offset - 1) as file:
        window = file.read(READ_BYTES)
    newline = window.find(b"\n", 0, -1)
    if newline >= 0:
        return offset + newline
    skip = 1
    while skip < len(window) and window[skip] & 0xC0 == 0x80:
        skip += 1
    return offset - 1 + skip


def listing(folder: Path) -> list[Path]:
    """All files under `folder` that are not hidden, sorted. Links to folders, which may
    have no end, are not followed, and counted in a line. ValueError for what is no
    file: a broken link, a pipe, which would never end, or a device."""
    found, links = [], 0
    for root, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        links += sum((Path(root) / name).is_symlink() for name in names)
        found += [Path(root) / name for name in files if not name.startswith(".")]
    for path in found:
        if not path.is_file():
            raise ValueError(
                f"{path}: expected a file, got a broken link, a pipe or a device"
            )
    if links:
        print_once(f"{folder}: {links} links to folders are not followed")
    # Compared as tuples: of many paths, sorting is what takes time.
    return sorted(found, key=lambda path: path.parts)


def file_spans(files: list[Path]) -> list[Span]:
    """Each non-empty file as one document."""
    found = [Span(path, 0, size_of(path)) for path in files]
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
    """A hash of the files: of their bytes up to 64 MiB, else of path, size and time.
    spans: all bytes of each, as they are stored."""
    if sum(span.stop for span in spans) <= HASHED_BYTES:
        return storage.short_hash(*(storage.sha256(span.path) for span in spans))
    facts = [
        (remote_data.portable_name(s.path), s.stop, s.path.stat().st_mtime_ns)
        for s in spans
    ]
    return storage.short_hash(repr(facts))


def _stamp(files: Iterable[Path]) -> str:
    spans = [Span(path, 0, path.stat().st_size) for path in files]
    return fingerprint([span for span in spans if span.stop])


def _has_split_suffix(path: Path) -> bool:
    """Not those of code, in which `train.py` is a name like others."""
    return table.is_table(path) or compression.content_suffix(path) == ".txt"


def given_splits(names: Sequence[str]) -> dict[str, list[str]] | None:
    """The files of each split, by their names in a folder, where it is divided: into
    folders `train` and `validation`, or by tables or .txt files called so. None where
    it is not."""
    found = {s: [n for n in names if n.startswith(f"{s}/")] for s in documents.SPLITS}
    if not all(found.values()):
        found = {
            split: [
                name
                for name in names
                if Path(name).name.startswith((f"{split}.", f"{split}-"))
                and _has_split_suffix(Path(name))
            ]
            for split in documents.SPLITS
        }
    return found if all(found.values()) else None


def report_unread(folder: Path, names: Iterable[str]) -> None:
    """Say in one line which files and folders of `folder` are not among `names`."""
    inside = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    rest = sorted(inside - {*names})
    if rest:
        print_once(f"{folder}: {len(rest)} others not read: {', '.join(rest[:5])}")


def is_other_split(names: Iterable[str]) -> bool:
    """Whether `names`, of classes or parts of a corpus, are train and a split that is
    called otherwise than validation: it would be trained on."""
    found = {name.lower() for name in names}
    return bool(found & TRAIN) and bool(found & HELD_OUT)


def refuse_other_splits(folder: Path | str, names: Sequence[str]) -> None:
    """ValueError for folders, tables or .txt files called train and test."""
    parts = {
        name.split("/")[0] if "/" in name else re.split("[.-]", name)[0]
        for name in names
        if "/" in name or _has_split_suffix(Path(name))
    }
    if is_other_split(parts):
        got = ", ".join(sorted(p for p in parts if p.lower() in TRAIN | HELD_OUT))
        raise ValueError(
            f"{folder}: expected train and validation, or parts with other names, got "
            f"{got}: all would be trained on"
        )


def _given_splits(folder: Path) -> dict[str, list[Path]] | None:
    """The files of each split, where the folder has both."""
    if all((folder / split).is_dir() for split in documents.SPLITS):
        return {split: listing(folder / split) for split in documents.SPLITS}
    files = listing(folder)
    relative = [path.relative_to(folder).as_posix() for path in files]
    names = given_splits(relative)
    if names is None:
        refuse_other_splits(folder, relative)
        return None
    others = len(files) - sum(map(len, names.values()))
    if others:
        print_once(f"{folder}: files of train and validation; {others} others unread")
    return {split: [folder / name for name in names[split]] for split in names}


class _Documents(NamedTuple):
    """The documents of a split: spans of files, and rows of tables for which
    `is_wanted` holds, with the tables' statistics."""

    spans: list[Span]
    tables: list[Path]
    statistics: list[text_tables.TableStatistics]
    is_wanted: Callable[[str], bool]
    is_empty: bool

    def pieces(self, column: str) -> Iterator[documents.Piece]:
        for span in self.spans:
            yield from documents.pieces_of(chunks(span))
        for path in self.tables:
            yield from text_tables.pieces(path, column, self.is_wanted)


def _all_documents(files: list[Path], column: str, held_out: float) -> _Documents:
    spans = file_spans([path for path in files if not table.is_table(path)])
    tables = [path for path in files if table.is_table(path)]
    statistics = [text_tables.scan(p, column, held_out, _stamp([p])) for p in tables]
    rows = sum(one.rows - one.empty for one in statistics)
    if spans and not rows and all(map(_is_blank, spans)):
        raise ValueError(f"{spans[0].path}: expected text, got only white space")
    return _Documents(spans, tables, statistics, bool, not (spans or rows))


def _is_blank(span: Span) -> bool:
    return not any(text and not text.isspace() for text in chunks(span))


def _divide(every: _Documents, held_out: float) -> dict[str, _Documents]:
    """The documents of both splits."""
    spans = split_spans(every.spans, held_out)
    threshold = text_tables.held_out_threshold(every.statistics, held_out)

    def is_held_out(text: str) -> bool:
        return text_tables.hash_fraction(text) < threshold

    rest = any(one.highest >= threshold for one in every.statistics)
    held = any(one.lowest < threshold for one in every.statistics)
    return {
        "train": every._replace(
            spans=spans["train"],
            is_wanted=lambda text: not is_held_out(text),
            is_empty=not (spans["train"] or rest),
        ),
        "validation": every._replace(
            spans=spans["validation"],
            is_wanted=is_held_out,
            is_empty=not (spans["validation"] or held),
        ),
    }


def read(path: Path, *, held_out: float, column: str = "text") -> documents.TextDataset:
    """The file or folder `path` as a `TextDataset`. column: of tables. ValueError if a
    split is empty, for the faults of tables, and for another column than `text` where
    there is no table."""
    given = _given_splits(path) if path.is_dir() else None
    if given is not None:
        parts = {s: _all_documents(given[s], column, held_out) for s in given}
        files = [file for split in documents.SPLITS for file in given[split]]
    else:
        files = listing(path) if path.is_dir() else [path]
        every = _all_documents(files, column, held_out)
        whole: dict[str, _Documents] = dict.fromkeys(documents.SPLITS, every)
        parts = whole if held_out == 1 else _divide(every, held_out)
    if column != "text" and not any(map(table.is_table, files)):
        raise ValueError(
            f"--text_column: expected a table at {path}, got plain text and {column!r}"
        )
    if any(part.is_empty for part in parts.values()):
        got = sum(file.stat().st_size for file in files)
        raise ValueError(
            f"{path}: expected UTF-8 text for a train and a validation split, "
            f"got {got} bytes"
        )

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        return parts[split].pieces(column)

    spans = [span for split in documents.SPLITS for span in parts[split].spans]
    cuts = repr([(span.start, span.stop) for span in spans])
    rows = repr((column, held_out)) if any(map(table.is_table, files)) else ""
    stamp = storage.short_hash(_stamp(files), cuts, rows)
    return documents.TextDataset(str(path), stamp, pieces)
