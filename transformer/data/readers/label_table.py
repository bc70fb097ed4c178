"""The user's own labeled text: a table of texts and labels (`readers/table.py`), in
columns called `text` and `label` or `class`, or named by the flag --columns; or a TSV
of two columns without names.

    What a lovely day!<tab>positive

A folder with a table called train and one called validation is used as given. Of one
file, the texts of each class with the smallest sha256 are held out, so that no text is
in both splits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transformer import storage
from transformer.data.readers import files as own_files
from transformer.data.readers import table
from transformer.data.records import Arrays, Records

TEXT = ("text",)
LABEL = ("label", "class")


def _read(path: Path, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Texts and their labels, arrays of strings."""
    chosen = columns or table.default_columns(TEXT, LABEL)
    rows = list(table.require_cells(table.read(path, chosen).rows))
    if not rows:
        raise ValueError(f"{path}: expected labeled text, got none")
    text, label = (
        own_files.strings([row[column] for row in rows]) for column in (0, 1)
    )
    return text, label


def _arrays(text: np.ndarray, label: np.ndarray, classes: tuple[str, ...]) -> Arrays:
    number = {name: n for n, name in enumerate(classes)}
    return {"text": text, "label": np.array([number[x] for x in label], np.int32)}


def _classes(path: Path, label: np.ndarray) -> tuple[str, ...]:
    classes = own_files.class_names(label)
    if len(classes) < 2:
        raise ValueError(f"{path}: expected 2 labels or more, got {', '.join(classes)}")
    return classes


def _held_out(
    path: Path, text: np.ndarray, label: np.ndarray, fraction: float
) -> np.ndarray:
    """bool [N]; ValueError for a class of less than two texts."""
    chosen: set[str] = set()
    for name in sorted(set(label)):
        different = sorted(set(text[label == name]))
        if len(different) < 2:
            raise ValueError(
                f"{path}: expected 2 different texts or more with the label {name!r}, "
                f"one to hold out, got {len(different)}"
            )
        held = own_files.held_out(different, fraction)
        chosen |= {one for one, out in zip(different, held, strict=True) if out}
    return np.array([one in chosen for one in text])


def read(path: Path, *, held_out: float, columns: tuple[str, ...] = ()) -> Records:
    """`text`, an array of strings, and `label` int32 [N]. columns: of the texts and of
    the labels. ValueError, naming file and row, for a missing column, an empty cell,
    and what is not UTF-8."""
    if path.is_dir():
        files = list(table.split_files(path, "labeled text").values())
        (text, label), (held_text, held_label) = (_read(f, columns) for f in files)
        classes = _classes(files[0], label)
        new = sorted(set(held_label) - set(classes))
        if new:
            raise ValueError(
                f"{files[1]}: expected the labels of {files[0].name}, "
                f"{', '.join(classes)}; got {new[0]}"
            )
        train = _arrays(text, label, classes)
        validation = _arrays(held_text, held_label, classes)
    else:
        files = [path]
        text, label = _read(path, columns)
        classes = _classes(path, label)
        held = _held_out(path, text, label, held_out)
        train, validation = own_files.split(_arrays(text, label, classes), held)
        if len(set(train["label"])) < len(classes):
            raise ValueError(f"{path}: expected each text with one label, got several")
    stamp = storage.short_hash(own_files.fingerprint(path, files), repr(columns))
    return Records(str(path), stamp, train, validation, classes)
