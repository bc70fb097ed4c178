"""Sentence pairs: load("en_pt"), load("pairs.csv"), load("a.en.txt,a.pt.txt"),
load(any TFDS name)."""

from __future__ import annotations

from pathlib import Path

from transformer.data.records import Records
from transformer.data.sources import (
    HELD_OUT,
    column_names,
    exists,
    held_out_fraction,
    own_path,
    refuse_columns,
)


def load(
    source: str | Path, *, columns: str = "", held_out: float = HELD_OUT
) -> Records:
    """Sentences and their translations: `first` and `second`, arrays of strings;
    `labels` are the two languages.

    columns: the names of two columns of a table, divided by a comma; or the languages
    of two text files. A TFDS data set needs exactly two text features.
    """
    names = column_names(columns, 2) if columns else ()
    is_file_pair = "," in str(source) and not exists(source)
    if is_file_pair:
        from transformer.data.readers import sentence_table

        files = sentence_table.line_files(str(source))
        if files is not None:
            return sentence_table.read_lines(
                files, held_out=held_out_fraction(source, held_out), columns=names
            )
    path = own_path(source, "sentence pairs", held_out)
    if path is not None:
        from transformer.data.readers import sentence_table

        return sentence_table.read(
            path, held_out=held_out_fraction(source, held_out), columns=names
        )
    refuse_columns(columns, source)
    from transformer.data.tfds import arrays

    return arrays.pairs(str(source), held_out=held_out)
