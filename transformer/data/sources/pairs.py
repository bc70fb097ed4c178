"""Sentence pairs: load("en_pt"), load("pairs.tsv"), load(any TFDS name)."""

from __future__ import annotations

from pathlib import Path

from transformer.data.records import Records
from transformer.data.sources import HELD_OUT, own_path


def load(source: str | Path, *, held_out: float = HELD_OUT) -> Records:
    """Sentences and their translations: `first` and `second`, arrays of strings;
    `labels` are the two languages.

    A TFDS data set needs exactly two text features.
    """
    path = own_path(source, "sentence pairs", held_out)
    if path is not None:
        from transformer.data.readers import sentence_table

        return sentence_table.read(path, held_out=held_out)
    from transformer.data.tfds import arrays

    return arrays.pairs(str(source), held_out=held_out)
