"""The user's own sentence pairs: a table of two columns (`readers/table.py`), or two
text files whose lines belong together.

    The house is small.<tab>A casa é pequena.

A TSV need not name its columns; the first row may, starting with `#`: `#en<tab>pt`. A
folder with a table called train and one called validation is used as given. Of one
source, the pairs whose first sentence has the smallest sha256 are held out, so that no
sentence is in both splits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from transformer import remote_data, storage
from transformer.data import sources
from transformer.data.readers import compression, table
from transformer.data.readers import files as own_files
from transformer.data.records import Arrays, Records

LABELS = ("first", "second")


def _arrays(path: Path, rows: list[list[str]]) -> Arrays:
    if not rows:
        raise ValueError(f"{path}: expected sentence pairs, got none")
    first, second = (own_files.strings([row[side] for row in rows]) for side in (0, 1))
    return {"first": first, "second": second}


def _read(path: Path, columns: tuple[str, ...]) -> tuple[Arrays, tuple[str, ...]]:
    """`first` and `second`, and the names of the columns."""
    found = table.read(path, columns)
    if found.names and (len(set(found.names)) != 2 or not all(found.names)):
        raise ValueError(
            f"{path}, row 1: expected two different names, got {found.names}; "
            "--columns chooses among more"
        )
    rows = table.require_cells(found.rows)
    first = next(rows, None)
    if first is not None and len(first) != 2:
        raise ValueError(
            f"{path}, row 1: expected 2 columns divided by tabs, got {len(first)}"
        )
    all_rows = [] if first is None else [first, *rows]
    return _arrays(path, all_rows), found.names or columns or LABELS


def line_files(source: str) -> tuple[Path, Path] | None:
    """The two existing files of a source `a.en.txt,b.pt.txt`, or None."""
    parts = source.split(",")
    if len(parts) != 2 or not all(map(sources.exists, parts)):
        return None
    first, second = map(remote_data.local_copy, parts)
    return first, second


def _language(path: Path) -> str:
    """The last part of a name before .txt: pt in news.pt.txt and in news.pt."""
    parts = path.name.split(".")
    while len(parts) > 1 and f".{parts[-1].lower()}" in (".txt", *compression.OPENERS):
        parts.pop()
    return parts[-1]


def _line_pairs(first: Path, second: Path) -> Iterator[tuple[str, list[str]]]:
    both = itertools.zip_longest(compression.lines(first), compression.lines(second))
    for number, (one, two) in enumerate(both, 1):
        if one is None or two is None:
            longer, shorter = (second, first) if one is None else (first, second)
            raise ValueError(
                f"{longer}: expected as many lines as in {shorter}, {number - 1}, "
                "got more"
            )
        yield f"{first} and {second}, row {number}", [one[1], two[1]]


def read_lines(
    files: tuple[Path, Path], *, held_out: float, columns: tuple[str, ...]
) -> Records:
    """The pairs of the lines of two files. `labels` are `columns`, or else follow from
    the names of the files. Errors as `read`, and for unequal numbers of lines."""
    labels = columns or tuple(_language(path) for path in files)
    if len(set(labels)) != 2:
        labels = LABELS
    arrays = _arrays(files[0], list(table.require_cells(_line_pairs(*files))))
    stamps = [own_files.fingerprint(path, [path]) for path in files]
    return _split(",".join(map(str, files)), stamps, arrays, labels, held_out)


def read(path: Path, *, held_out: float, columns: tuple[str, ...] = ()) -> Records:
    """`first` and `second`, arrays of strings; `labels` the columns' names. ValueError,
    naming file and row, for a missing column, an empty cell, and what is not UTF-8."""
    if not path.is_dir():
        arrays, labels = _read(path, columns)
        stamps = [own_files.fingerprint(path, [path]), repr(columns)]
        return _split(str(path), stamps, arrays, labels, held_out)
    files = list(table.split_files(path, "sentence pairs").values())
    (train, labels), (validation, others) = (_read(file, columns) for file in files)
    if labels != others:
        raise ValueError(
            f"{files[1]}: expected the columns of {files[0].name}, {labels}; "
            f"got {others}"
        )
    stamp = storage.short_hash(own_files.fingerprint(path, files), repr(columns))
    return Records(str(path), stamp, train, validation, labels)


def _split(
    name: str,
    stamps: list[str],
    arrays: Arrays,
    labels: tuple[str, ...],
    held_out: float,
) -> Records:
    different = sorted(set(arrays["first"]))
    if len(different) < 2:
        raise ValueError(
            f"{name}: expected 2 different sentences or more, one to hold out, "
            f"got {len(different)}"
        )
    chosen = own_files.held_out(different, held_out)
    out = {name for name, held in zip(different, chosen, strict=True) if held}
    held = np.array([sentence in out for sentence in arrays["first"]])
    train, validation = own_files.split(arrays, held)
    return Records(name, storage.short_hash(*stamps), train, validation, labels)
