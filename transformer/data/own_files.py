"""What every kind of the user's own files shares: which are held out, what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data import cache, own
from transformer.data.records import Arrays

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")


def held_out(names: Sequence[str], share: float) -> np.ndarray:
    """bool [N]: the round(share * N) names with the smallest sha256, but at least one
    held out and one kept. It depends on the names alone, not on their order."""
    count = max(1, min(round(share * len(names)), len(names) - 1))
    digests = [hashlib.sha256(name.encode()).digest() for name in names]
    chosen = np.zeros(len(names), bool)
    chosen[sorted(range(len(names)), key=digests.__getitem__)[:count]] = True
    return chosen


def parted(arrays: Arrays, held: np.ndarray) -> tuple[Arrays, Arrays]:
    """The examples that are not held out, and those that are."""
    train = {name: array[~held] for name, array in arrays.items()}
    return train, {name: array[held] for name, array in arrays.items()}


def identity(root: Path, files: Iterable[Path]) -> str:
    """Changes with the files, wherever they lie: their names and bytes, or, where those
    are many, their sizes and times."""
    listed = sorted(files)
    names = [path.relative_to(root).as_posix() for path in listed]
    spans = [own.Span(path, 0, path.stat().st_size) for path in listed]
    return cache.digest(repr(names), own.identity(spans))


def picture(path: Path) -> np.ndarray:
    """uint8 [rows, columns, 1 or 3]: grey pictures have one channel, others three;
    what is transparent lies on white. ValueError where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "LA", "I", "I;16", "F")
            clear = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: expected an image, got {said}") from None
    solid = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    pixels = np.asarray(solid.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def pictures(paths: Sequence[Path]) -> np.ndarray:
    """uint8 [N, rows, columns, channels]; ValueError names the first picture that is of
    another shape than the first."""
    first = picture(paths[0])
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for number, path in enumerate(paths):
        found = picture(path)
        if found.shape != first.shape:
            raise ValueError(
                f"{path}: expected {_shape(first.shape)} as in {paths[0].name}, "
                f"got {_shape(found.shape)}"
            )
        pixels[number] = found
    return pixels


def _shape(sizes: Sequence[int]) -> str:
    rows, columns, channels = sizes
    return f"{rows} x {columns} pixels of {channels} channel{'s' * (channels > 1)}"


def table(path: Path) -> list[list[str]]:
    """The rows of a UTF-8 file whose cells are divided by tabs; ValueError names the
    row, from 1, that is not UTF-8 or has an empty cell, or another number of cells than
    the first."""
    rows: list[list[str]] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path}: expected a file, got {error}") from None
    for number, line in enumerate(lines, 1):
        where = f"{path}, row {number}"
        try:
            cells = [cell.strip() for cell in line.decode("utf-8-sig").split("\t")]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{where}: expected UTF-8, got byte 0x{line[error.start]:02x} at "
                f"offset {error.start} ({error.reason})"
            ) from None
        if rows and len(cells) != len(rows[0]):
            raise ValueError(
                f"{where}: expected {len(rows[0])} columns, got {len(cells)}"
            )
        if not all(cells):
            column = cells.index("") + 1
            raise ValueError(f"{where}: expected text, got an empty column {column}")
        rows.append(cells)
    return rows


def texts(strings: Sequence[Any]) -> np.ndarray:
    """An array of objects, as texts of any length are held."""
    array = np.empty(len(strings), object)
    array[:] = strings
    return array
