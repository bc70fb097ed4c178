"""Shared by the readers of own files: tables, images, arrays, splits by hash."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.data.readers import text_files
from transformer.data.records import Arrays

# Not all that Pillow knows: for some formats (EPS) it starts another program.
IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
ZIP = b"PK"


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def held_out(names: Sequence[str], fraction: float) -> np.ndarray:
    """bool [N]: the round(fraction * N) names with the smallest sha256, but at least
    one held out and one not. Independent of the order of the names."""
    count = max(1, min(round(fraction * len(names)), len(names) - 1))
    # A file's name need not be UTF-8.
    encoded = [name.encode(errors="surrogateescape") for name in names]
    hashes = [storage.sha256(name) for name in encoded]
    chosen = np.zeros(len(names), bool)
    chosen[sorted(range(len(names)), key=hashes.__getitem__)[:count]] = True
    return chosen


def split(arrays: Arrays, is_held_out: np.ndarray) -> tuple[Arrays, Arrays]:
    """The examples that are not held out, and those that are."""
    train = {name: array[~is_held_out] for name, array in arrays.items()}
    return train, {name: array[is_held_out] for name, array in arrays.items()}


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """A hash of the files: their names under `root` and `text_files.fingerprint`."""
    listed = sorted(files)
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


def image(path: Path) -> np.ndarray:
    """uint8 [rows, columns, channels]: 1 channel for gray images, 3 for all others;
    rotated by the EXIF orientation, transparency on white. ValueError where an image
    cannot be read or has more than 8 bits a channel."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(path, formats=IMAGE_FORMATS) as file:
            warnings.simplefilter("ignore")  # What matters is raised as well.
            mode = file.mode
            upright = ImageOps.exif_transpose(file)
            opened = upright.convert("RGBA") if mode[0] not in "IF" else upright
    except Exception as error:  # A damaged image raises any kind of error.
        got = one_line(error)
        raise ValueError(f"{path}: expected an image, got {got}") from None
    if mode[0] in "IF":
        raise ValueError(f"{path}: expected 8 bits a channel, got the mode {mode}")
    gray = mode in ("1", "L", "LA")
    white = Image.new("RGBA", opened.size, "white")
    solid = Image.alpha_composite(white, opened)
    pixels = np.asarray(solid.convert("L" if gray else "RGB"))
    return pixels[..., None] if gray else pixels


def resized_image(path: Path, shape: Sequence[int]) -> np.ndarray:
    """`image` as uint8 of `shape` [rows, columns, 1 or 3]: scaled to fit, its aspect
    ratio kept, padded with white; gray where `shape` has one channel."""
    from PIL import Image, ImageOps

    rows, columns, channels = shape
    pixels = image(path)
    colored = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    padded = ImageOps.pad(colored, (columns, rows), color="white")
    return np.asarray(padded.convert("L" if channels == 1 else "RGB")).reshape(shape)


def describe_shape(shape: Sequence[int]) -> str:
    """An image's shape, in words."""
    rows, columns, channels = shape
    return f"{rows} x {columns} pixels of {channels} channel{'s' * (channels > 1)}"


def images(paths: Sequence[Path]) -> np.ndarray:
    """uint8 [N, rows, columns, channels]; ValueError names the first image of another
    shape than the first."""
    first = image(paths[0])
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for number, path in enumerate(paths):
        found = image(path)
        if found.shape != first.shape:
            raise ValueError(
                f"{path}: expected {describe_shape(first.shape)} as in "
                f"{paths[0].name}, got {describe_shape(found.shape)}"
            )
        pixels[number] = found
    return pixels


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
