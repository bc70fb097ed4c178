"""The user's own images, listed with their labels in a CSV, TSV or Parquet file.

    path,label
    cats/1.png,cat

The first row names the columns; paths are relative to the table's folder. CSV and TSV
are UTF-8, cells quoted as in RFC 4180.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from transformer.data.readers import files as own_files
from transformer.data.readers.image_files import ImageFile

SUFFIXES = (".csv", ".tsv", ".parquet")
PATH = ("path", "file", "filename", "file_name", "image")
LABEL = ("label", "class")


def find(folder: Path) -> Path | None:
    """The table called `labels` in a folder; ValueError where there are several."""
    names = [folder / f"labels{suffix}" for suffix in SUFFIXES]
    found = [path for path in names if path.is_file()]
    if len(found) > 1:
        got = ", ".join(path.name for path in found)
        raise ValueError(f"{folder}: expected one table of labels, got {got}")
    return found[0] if found else None


def _column(path: Path, names: Sequence[str], usual: tuple[str, ...]) -> int:
    for name in usual:
        if name in names:
            return names.index(name)
    raise ValueError(
        f"{path}: expected a column {usual[0]!r}, got {', '.join(names) or 'none'}"
    )


def _text_rows(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of the columns, and each row with its place in the file."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        got = own_files.one_line(error)
        raise ValueError(f"{path}: expected a table in UTF-8, got {got}") from None
    names = [name.strip().lower() for name in rows[0][1]] if rows else []
    for place, row in rows[1:]:
        if len(row) != len(names):
            raise ValueError(f"{place}: expected {len(names)} columns, got {len(row)}")
    return names, rows[1:]


def _parquet_rows(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    from pyarrow import parquet

    try:
        table: Any = parquet.read_table(path)
    except Exception as error:  # A damaged file raises any kind of error.
        got = own_files.one_line(error)
        raise ValueError(f"{path}: expected Parquet, got {got}") from None
    names = [str(name).lower() for name in table.column_names]
    columns = [table.column(number).to_pylist() for number in range(len(names))]
    rows = [
        (f"{path}, row {number}", ["" if cell is None else str(cell) for cell in row])
        for number, row in enumerate(zip(*columns, strict=True), 1)
    ]
    return names, rows


def read(path: Path) -> tuple[list[ImageFile], list[str]]:
    """The listed images, and their labels. ValueError, naming file and row, for a
    missing image or label, and an image that is listed twice."""
    is_parquet = path.suffix.lower() == ".parquet"
    names, rows = _parquet_rows(path) if is_parquet else _text_rows(path)
    of_path, of_label = _column(path, names, PATH), _column(path, names, LABEL)
    files: dict[str, ImageFile] = {}
    labels = []
    for place, row in rows:
        name, label = PurePosixPath(row[of_path].strip()), row[of_label].strip()
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{place}: expected a path in the folder, got '{name}'")
        file = path.parent / name
        if not file.is_file():
            raise ValueError(f"{place}: expected an image, got no file '{name}'")
        if str(name) in files:
            raise ValueError(f"{place}: expected each image once, got '{name}' again")
        if not label:
            raise ValueError(f"{place}: expected a label, got none")
        files[str(name)] = ImageFile(file, str(name))
        labels.append(label)
    return list(files.values()), labels
