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


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes in order: of numbers, by number."""
    found = sorted(set(labels))
    if all(label.isascii() and label.isdigit() for label in found):
        found.sort(key=int)
    return tuple(found)


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


def strings(values: Sequence[Any]) -> np.ndarray:
    """An object array of strings of any length."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
