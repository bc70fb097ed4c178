"""Shared by the readers of own files: tables, arrays, splits by hash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.data.readers import text_files
from transformer.data.records import Arrays

ZIP = b"PK"


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def held_out(names: Sequence[str], fraction: float) -> np.ndarray:
    """bool [N]: the round(fraction * N) names with the smallest sha256, but at least
    one held out and one not; all where `fraction` is 1. Independent of the order of the
    names."""
    if fraction == 1:
        return np.ones(len(names), bool)
    count = max(1, min(round(fraction * len(names)), len(names) - 1))
    # A file's name need not be UTF-8.
    encoded = [name.encode(errors="surrogateescape") for name in names]
    hashes = [storage.sha256(name) for name in encoded]
    chosen = np.zeros(len(names), bool)
    chosen[sorted(range(len(names)), key=hashes.__getitem__)[:count]] = True
    return chosen


def split(arrays: Arrays, is_held_out: np.ndarray) -> tuple[Arrays, Arrays]:
    """The examples that are not held out, and those that are; twice all where all
    are."""
    if is_held_out.all():
        return arrays, arrays
    train = {name: array[~is_held_out] for name, array in arrays.items()}
    return train, {name: array[is_held_out] for name, array in arrays.items()}


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """A hash of the files: their names under `root` and `text_files.fingerprint`."""
    listed = sorted(files, key=lambda path: path.parts)
    names = [path.relative_to(root).as_posix() for path in listed]
    spans = [text_files.Span(path, 0, path.stat().st_size) for path in listed]
    return storage.short_hash(repr(names), text_files.fingerprint(spans))


def npz_arrays(
    path: Path, *, required: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays of these names in an `.npz` file; nothing is unpickled. ValueError,
    naming the file, where it cannot be read or a required array is missing."""
    try:
        with open(path, "rb") as raw:
            magic = raw.read(len(ZIP))
            raw.seek(0)
            if magic != ZIP:
                raise ValueError("another kind of file")
            with np.load(raw, allow_pickle=False) as file:
                present = file.files
                chosen = [name for name in (*required, *optional) if name in present]
                found = {name: file[name] for name in chosen}
    except Exception as error:  # A damaged archive raises any kind of error.
        got = one_line(error)
        raise ValueError(f"{path}: expected arrays in .npz, got {got}") from None
    for name in required:
        if name not in found:
            got = ", ".join(present) or "none"
            raise ValueError(f"{path}: expected an array {name!r}, got {got}")
    return found


def tsv_rows(path: Path, *, columns: int | None) -> list[list[str]]:
    """The rows of a UTF-8 file whose cells are divided by tabs.

    columns: their number; None for as many as in the first row, but at least 2.
    ValueError names the row, from 1, that is not UTF-8, has an empty cell, or another
    number of cells.
    """
    rows: list[list[str]] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path}: expected a file, got {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        where = f"{path}, row {number}"
        try:
            cells = [cell.strip() for cell in line.decode("utf-8-sig").split("\t")]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}: expected UTF-8, got byte 0x{line[error.start]:02x} at "
                f"offset {error.start} ({error.reason})"
            ) from None
        expected = columns or max(2, len(rows[0] if rows else cells))
        if len(cells) != expected:
            got = "commas" if len(cells) == 1 and "," in cells[0] else len(cells)
            raise ValueError(
                f"{where}: expected {expected} columns divided by tabs, got {got}"
            )
        if not all(cells):
            column = cells.index("") + 1
            raise ValueError(f"{where}: expected text, got an empty column {column}")
        rows.append(cells)
    return rows


def strings(values: Sequence[Any]) -> np.ndarray:
    """An object array of strings of any length."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
