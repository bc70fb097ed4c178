"""What every kind of the user's own files shares: which are held out, what they are."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data import cache
from transformer.data.readers import text_files
from transformer.data.records import Arrays

# Not all that Pillow knows: for some kinds (EPS) it starts another program.
PICTURES = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
ZIP = b"PK"


def said(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def held_out(names: Sequence[str], share: float) -> np.ndarray:
    """bool [N]: the round(share * N) names with the smallest sha256, but at least one
    held out and one kept. It depends on the names alone, not on their order."""
    count = max(1, min(round(share * len(names)), len(names) - 1))
    # A file's name need not be UTF-8.
    coded = [name.encode(errors="surrogateescape") for name in names]
    digests = [hashlib.sha256(name).digest() for name in coded]
    chosen = np.zeros(len(names), bool)
    chosen[sorted(range(len(names)), key=digests.__getitem__)[:count]] = True
    return chosen


def parted(arrays: Arrays, held: np.ndarray) -> tuple[Arrays, Arrays]:
    """The examples that are not held out, and those that are."""
    train = {name: array[~held] for name, array in arrays.items()}
    return train, {name: array[held] for name, array in arrays.items()}


def identity(root: Path, files: Iterable[Path]) -> str:
    """Changes with the files: their names under `root` and, as in `own.identity`, their
    bytes if these are few, else their place, size and time."""
    listed = sorted(files)
    names = [path.relative_to(root).as_posix() for path in listed]
    spans = [text_files.Span(path, 0, path.stat().st_size) for path in listed]
    return cache.digest(repr(names), text_files.identity(spans))


def arrays(path: Path, *, needed: Sequence[str], known: Sequence[str]) -> dict:
    """The arrays of an `.npz` file that are `needed` or `known`, nothing unpickled.
    ValueError, naming the file, where it cannot be read or one that is needed is not
    in it."""
    try:
        with open(path, "rb") as raw:
            magic = raw.read(len(ZIP))
            raw.seek(0)
            if magic != ZIP:
                raise ValueError("another kind of file")
            with np.load(raw, allow_pickle=False) as file:
                listed = file.files
                chosen = [name for name in (*needed, *known) if name in listed]
                found = {name: file[name] for name in chosen}
    except Exception as error:  # A damaged archive raises whatever its reader met.
        got = said(error)
        raise ValueError(f"{path}: expected arrays in .npz, got {got}") from None
    for name in needed:
        if name not in found:
            got = ", ".join(listed) or "none"
            raise ValueError(f"{path}: expected an array {name!r}, got {got}")
    return found


def picture(path: Path) -> np.ndarray:
    """uint8 [rows, columns, 1 or 3]: grey pictures have one channel, others three;
    turned as their camera says, and what is transparent lies on white. ValueError where
    a picture cannot be read or has more than 8 bits a channel."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(path, formats=PICTURES) as image:
            warnings.simplefilter("ignore")  # What matters is raised as well.
            mode = image.mode
            upright = ImageOps.exif_transpose(image)
            clear = upright.convert("RGBA") if mode[0] not in "IF" else upright
    except Exception as error:  # A damaged picture raises whatever its reader met.
        raise ValueError(f"{path}: expected an image, got {said(error)}") from None
    if mode[0] in "IF":
        raise ValueError(f"{path}: expected 8 bits a channel, got the mode {mode}")
    grey = mode in ("1", "L", "LA")
    solid = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    pixels = np.asarray(solid.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def fitted(path: Path, shape: Sequence[int]) -> np.ndarray:
    """`picture` as uint8 of that shape [rows, columns, 1 or 3]: as large as it can be
    without being bent, on white; grey where one channel is asked for."""
    from PIL import Image, ImageOps

    rows, columns, channels = shape
    pixels = picture(path)
    image = Image.fromarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    whole = ImageOps.pad(image, (columns, rows), color="white")
    return np.asarray(whole.convert("L" if channels == 1 else "RGB")).reshape(shape)


def described(sizes: Sequence[int]) -> str:
    """A picture's shape, in words."""
    rows, columns, channels = sizes
    return f"{rows} x {columns} pixels of {channels} channel{'s' * (channels > 1)}"


def pictures(paths: Sequence[Path]) -> np.ndarray:
    """uint8 [N, rows, columns, channels]; ValueError names the first picture that is of
    another shape than the first."""
    first = picture(paths[0])
    pixels = np.empty((len(paths), *first.shape), np.uint8)
    for number, path in enumerate(paths):
        found = picture(path)
        if found.shape != first.shape:
            raise ValueError(
                f"{path}: expected {described(first.shape)} as in {paths[0].name}, "
                f"got {described(found.shape)}"
            )
        pixels[number] = found
    return pixels


def table(path: Path, *, columns: int | None) -> list[list[str]]:
    """The rows of a UTF-8 file whose cells are divided by tabs.

    columns: how many there are; None for as many as the first row has, but at least 2.
    ValueError names the row, from 1, that is not UTF-8, has an empty cell, or another
    number of them.
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
            raise ValueError(f"{where}: expected {expected} columns, got {len(cells)}")
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
