"""The user's own labeled images: class folders, a table of labels, or tar files.

    photographs/cat/1.png, photographs/dog/a/7.jpg, ...
    photographs/labels.csv (or .tsv, .jsonl, .parquet) with the columns path and label
    photographs/000.tar, ... with 1.png, 1.cls, 2.png, 2.cls, ...

PNG, JPEG, GIF, BMP, WebP, TIFF or PPM, of one size, or resized (`image_files`): gray if
all are, else RGB. The class of a file in class folders is its first folder. Of each
class the files with the smallest sha256 of their path are held out. Sub-folders `train`
and `validation`, each with the same classes, are used as given. A table or a tar file
is a source by itself too. Hidden files, and files beside the class folders, are
ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.data.notices import print_once
from transformer.data.readers import (
    files,
    image_arrays,
    image_shards,
    image_table,
    label_table,
    table,
    text_files,
)
from transformer.data.readers.image_files import ImageFile
from transformer.data.records import Records
from transformer.data.text import documents

TABLE = "labels"

Listing = tuple[list[ImageFile], list[str], list[Path]]


def classes(folder: Path, *, what: str = "images") -> dict[str, list[Path]]:
    """Each class's files; ValueError where there are no classes, or one is empty. what:
    the files, for messages."""
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    names = [path.name for path in inside if path.is_dir()]
    beside = sum(not path.is_dir() for path in inside)
    if len(names) < 2:
        raise ValueError(
            f"{folder}: expected a folder for each of 2 classes or more, got "
            f"{len(names)}"
        )
    if text_files.is_other_split(names):
        raise ValueError(
            f"{folder}: expected a folder for each class, or folders train and "
            f"validation with one for each, got {', '.join(names)}"
        )
    found = {name: text_files.listing(folder / name) for name in names}
    for name, listed in found.items():
        if not listed:
            raise ValueError(f"{folder / name}: expected {what}, got an empty class")
    if beside:
        print_once(f"{folder}: {beside} files beside the class folders are not read")
    return found


def _listing(path: Path, root: Path, columns: tuple[str, ...]) -> Listing:
    """The images of a source, their classes, and the tables that list them."""
    is_table = path.is_file() and table.is_table(path)
    listed = path if is_table else table.find(path, TABLE)
    if listed is not None:
        names = columns or image_table.default_columns(*label_table.LABEL)
        images, labels = image_table.read(listed, names)
        return images, labels, [listed]
    image_table.refuse_columns(columns, path)
    shards = image_shards.find(path)
    if shards:
        images, labels = image_shards.read(shards, root, image_shards.LABEL)
        image_shards.report_unread(path, shards)
        return images, labels, []
    if not path.is_dir():
        raise ValueError(
            f"{path}: expected a folder of class folders, a table of labels (.csv, "
            ".tsv, .jsonl, .parquet) or a .tar, got a file"
        )
    images, labels = [], []
    for label, listed in classes(path).items():
        images += [ImageFile(f, f.relative_to(root).as_posix()) for f in listed]
        labels += [label] * len(listed)
    return images, labels, []


def _check_classes(path: Path, names: tuple[str, ...]) -> None:
    if len(names) < 2:
        got = ", ".join(names) or "none"
        raise ValueError(f"{path}: expected 2 classes or more, got {got}")


def held_out_rows(
    path: Path,
    names: Sequence[str],
    labels: Sequence[str],
    fraction: float,
    *,
    what: str = "images",
) -> np.ndarray:
    """bool [N]: of each class those of `names`, paths in `path`, with the smallest
    sha256. ValueError for a class of less than two files, which are `what`."""
    held = np.zeros(len(names), bool)
    of_label = np.array(labels)
    for label in files.class_names(labels):
        rows = np.flatnonzero(of_label == label)
        if len(rows) < 2:
            place = path / label if (path / label).is_dir() else f"{path}: {label}"
            raise ValueError(
                f"{place}: expected 2 {what} or more, one to hold out, got {len(rows)}"
            )
        held[rows] = files.held_out([names[row] for row in rows.tolist()], fraction)
    return held


def read(
    path: Path,
    *,
    held_out: float,
    columns: tuple[str, ...] = (),
    image_size: int | None,
) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `label` int32 [N].

    columns: of a table's paths and labels. ValueError, naming the file, for a file that
    is no image or of another size, and for an empty class.
    """
    root = path if path.is_dir() else path.parent
    if all((path / split).is_dir() for split in documents.SPLITS):
        parts = [_listing(path / part, path, columns) for part in documents.SPLITS]
        (images, labels, tables), (others, other_labels, other_tables) = parts
        names = files.class_names(labels)
        if names != files.class_names(other_labels):
            raise ValueError(
                f"{path / 'validation'}: expected the classes of train, "
                f"{', '.join(names)}; got {', '.join(files.class_names(other_labels))}"
            )
        held = np.arange(len(images) + len(others)) >= len(images)
        images, labels = images + others, labels + other_labels
        tables = tables + other_tables
        text_files.report_unread(path, documents.SPLITS)
    else:
        images, labels, tables = _listing(path, root, columns)
        names = files.class_names(labels)
        held = held_out_rows(path, [i.name for i in images], labels, held_out)
    _check_classes(path, names)
    number = {name: index for index, name in enumerate(names)}
    label = np.array([number[name] for name in labels], np.int32)
    return image_arrays.split_records(
        path,
        images,
        {"label": label},
        held,
        root=root,
        tables=tables,
        image_size=image_size,
        labels=names,
    )
