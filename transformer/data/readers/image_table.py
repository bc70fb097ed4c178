"""The user's own images, listed with a text each in a table (`readers/table.py`).

    path,label
    cats/1.png,cat

Paths are relative to the table's folder. Columns with one of the default names are
found without a flag; others are named by the flag --columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from transformer.data.notices import print_once
from transformer.data.readers import table
from transformer.data.readers.image_files import ImageFile

# Of images that are counted where no row names them.
SUFFIXES = ("png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff", "ppm", "pgm")
PATH = ("path", "file", "filename", "file_name", "image")


def _default_names(
    defaults: Sequence[Sequence[str]], present: Sequence[str]
) -> tuple[str, ...]:
    """For each column the first of its default names that is present, in lower or upper
    case, else the first of them."""
    found = {name.strip().lower(): name for name in reversed(present)}
    return tuple(
        next((found[name] for name in names if name in found), names[0])
        for names in defaults
    )


def default_columns(*texts: str) -> table.Columns:
    """The column of the paths, and that of the texts, which has one of these names."""
    return partial(_default_names, (PATH, texts))


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
    """The listed images and their texts. columns: of the paths and of the texts.
    ValueError, naming file and row, for a missing image or text, and an image that is
    listed twice."""
    files: dict[str, ImageFile] = {}
    texts = []
    for place, cells in table.read(path, columns).rows:
        written, text = next(table.require_cells([(place, cells)]))
        name = PurePosixPath(written)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{place}: expected a path in the folder, got '{name}'")
        file = path.parent / name
        if not file.is_file():
            raise ValueError(f"{place}: expected an image, got no file '{name}'")
        if str(name) in files:
            raise ValueError(f"{place}: expected each image once, got '{name}' again")
        files[str(name)] = ImageFile(file, str(name))
        texts.append(text)
    rest = _count_unread(list(files.values()))
    if rest:
        print_once(f"{path}: {rest} images beside those of its rows are not read")
    return list(files.values()), texts
