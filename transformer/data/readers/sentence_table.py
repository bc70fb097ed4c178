"""The user's own sentence pairs: a UTF-8 file of two columns divided by a tab.

    The house is small.<tab>A casa é pequena.

The first row may name the two columns, starting with `#`: `#en<tab>pt`. A folder with
`train.tsv` and `validation.tsv` is used as given. Of one file, the pairs whose first
sentence has the smallest sha256 are held out, so that no sentence is in both splits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transformer.data.readers import files as own_files
from transformer.data.records import Arrays, Records
from transformer.data.text import documents


def _read(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """`first` and `second`, and the names of the columns."""
    rows = own_files.tsv_rows(path, columns=2)
    labels = ("first", "second")
    if rows and rows[0][0].startswith("#"):
        labels = (rows[0][0][1:].strip(), rows[0][1])
        rows = rows[1:]
        if not labels[0] or labels[0] == labels[1]:
            raise ValueError(
                f"{path}, row 1: expected two different names, got {labels}"
            )
    if not rows:
        raise ValueError(f"{path}: expected sentence pairs, got none")
    first, second = (own_files.strings([row[side] for row in rows]) for side in (0, 1))
    return {"first": first, "second": second}, labels


def read(path: Path, *, held_out: float) -> Records:
    """`first` and `second`, arrays of strings; `labels` the columns' names. ValueError,
    naming file and row, for a missing column, an empty cell, and what is not UTF-8."""
    if path.is_dir():
        parts = {split: _read(path / f"{split}.tsv") for split in documents.SPLITS}
        (train, labels), (validation, others) = parts.values()
        if labels != others:
            raise ValueError(
                f"{path / 'validation.tsv'}: expected the columns of train.tsv, "
                f"{labels}; got {others}"
            )
        files = [path / f"{split}.tsv" for split in documents.SPLITS]
    else:
        arrays, labels = _read(path)
        different = sorted(set(arrays["first"]))
        if len(different) < 2:
            raise ValueError(
                f"{path}: expected 2 different sentences or more, one to hold out, "
                f"got {len(different)}"
            )
        chosen = own_files.held_out(different, held_out)
        out = {name for name, held in zip(different, chosen, strict=True) if held}
        held = np.array([sentence in out for sentence in arrays["first"]])
        train, validation = own_files.split(arrays, held)
        files = [path]
    fingerprint = own_files.fingerprint(path, files)
    return Records(str(path), fingerprint, train, validation, labels)
