"""The user's own images, in a folder for each class.

    photographs/cat/1.png, photographs/dog/a/7.jpg, ...

PNG, JPEG, GIF, BMP, WebP, TIFF or PPM, all gray or all color, of one size. Of each
class the files with the smallest sha256 of their path are held out. Sub-folders `train`
and `validation`, each with the same classes, are used as given. Hidden files, and files
beside the class folders, are ignored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transformer.data.readers import files as own_files
from transformer.data.readers import text_files
from transformer.data.records import Arrays, Records
from transformer.data.text import documents


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Each class's files; ValueError where there are no classes, or one is empty."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of class folders, got a file")
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    names = [path.name for path in inside if path.is_dir()]
    if len(names) < 2:
        raise ValueError(
            f"{folder}: expected a folder for each of 2 classes or more, got "
            f"{len(names)}"
        )
    found = {name: text_files.listing(folder / name) for name in names}
    for name, files in found.items():
        if not files:
            raise ValueError(f"{folder / name}: expected images, got an empty class")
    return found


def _read(folder: Path) -> tuple[Arrays, list[Path], tuple[str, ...]]:
    """Images and labels, their files, and the classes' names."""
    classes = _classes(folder)
    files = [path for listed in classes.values() for path in listed]
    sizes = [len(listed) for listed in classes.values()]
    label = np.repeat(np.arange(len(classes), dtype=np.int32), sizes)
    arrays = {"image": own_files.images(files), "label": label}
    return arrays, files, tuple(classes)


def read(path: Path, *, held_out: float) -> Records:
    """`image` uint8 [N, rows, columns, channels] and `label` int32 [N]. ValueError,
    naming the file, for a file that is no image or of another size, and for an empty
    class."""
    if all((path / split).is_dir() for split in documents.SPLITS):
        parts = {split: _read(path / split) for split in documents.SPLITS}
        (train, files, labels), (validation, held_files, others) = parts.values()
        if labels != others:
            raise ValueError(
                f"{path / 'validation'}: expected the classes of train, "
                f"{', '.join(labels)}; got {', '.join(others)}"
            )
        shape, got = (part["image"].shape[1:] for part in (train, validation))
        if shape != got:
            raise ValueError(
                f"{held_files[0]}: expected {own_files.describe_shape(shape)} as in "
                f"train, got {own_files.describe_shape(got)}"
            )
        files = files + held_files
    else:
        arrays, files, labels = _read(path)
        names = [file.relative_to(path).as_posix() for file in files]
        held = np.zeros(len(names), bool)
        for number, name in enumerate(labels):
            rows = np.flatnonzero(arrays["label"] == number)
            if len(rows) < 2:
                raise ValueError(
                    f"{path / name}: expected 2 images or more, one to hold out, got "
                    f"{len(rows)}"
                )
            held[rows] = own_files.held_out([names[row] for row in rows], held_out)
        train, validation = own_files.split(arrays, held)
    fingerprint = own_files.fingerprint(path, files)
    return Records(str(path), fingerprint, train, validation, labels)
