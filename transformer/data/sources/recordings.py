"""Recordings of speech with what is said in them: load("clips.csv"), load("folder")."""

from __future__ import annotations

from pathlib import Path

from transformer.data.records import Records
from transformer.data.sources import (
    HELD_OUT,
    column_names,
    held_out_fraction,
    own_path,
)


def load(
    source: str | Path, *, columns: str = "", held_out: float = HELD_OUT
) -> Records:
    """`file`, `text` and `samples`, as `recording_table.read`.

    columns: the names of a table's columns of paths and of texts, divided by a comma;
    by default those of usual names. There is no data set that is known by its name.
    """
    path = own_path(source, "recordings with texts", held_out)
    if path is None:
        raise ValueError(
            f"expected a table of recordings with texts, got none at {str(source)!r}"
        )
    from transformer.data.readers import recording_table

    return recording_table.read(
        path,
        held_out=held_out_fraction(source, held_out),
        columns=column_names(columns, 2) if columns else (),
    )
