"""The user's own images, listed with a text each in a table (`listed_files`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformer.data.notices import print_once
from transformer.data.readers import listed_files, table
from transformer.data.readers.image_files import ImageFile

# Of images that are counted where no row names them.
SUFFIXES = ("png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff", "ppm", "pgm")


def default_columns(*texts: str) -> table.Columns:
    """The column of the paths, and that of the texts, which has one of these names."""
    return listed_files.default_columns("image", *texts)


def refuse_columns(columns: Sequence[str], path: Path) -> None:
    """ValueError for names of columns where there is no table."""
    if columns:
        raise ValueError(
            f"--columns: expected a table, got {path} without one; --columns= names no "
            f"column, instead of {', '.join(columns)}"
        )


def _count_unread(files: Sequence[ImageFile]) -> int:
    """The images in the folders of `files` that are not among them."""
    known = {file.path for file in files}
    inside = (p for folder in {p.parent for p in known} for p in folder.iterdir())
    images = (
        p for p in inside if p.suffix[1:].lower() in SUFFIXES and p.name[0] != "."
    )
    return sum(path not in known for path in images)


def read(path: Path, columns: table.Columns) -> tuple[list[ImageFile], list[str]]:
    """The listed images and their texts. columns: of the paths and of the texts. Errors
    as `listed_files.read`."""
    rows = list(listed_files.read(path, columns, what="an image"))
    files = [ImageFile(path.parent / name, name) for name, _ in rows]
    rest = _count_unread(files)
    if rest:
        print_once(f"{path}: {rest} images beside those of its rows are not read")
    return files, [text for _, text in rows]
