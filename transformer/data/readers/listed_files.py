"""Tables that list the user's own files, each with a text (`readers/table.py`).

    path,label
    cats/1.png,cat

Paths are relative to the table's folder. Columns with one of the default names are
found without a flag; others are named by the flag --columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from transformer.data.readers import table

PATH = ("path", "file", "filename", "file_name")


def default_columns(kind: str, *texts: str) -> table.Columns:
    """The column of the paths, called as in `PATH` or as the `kind` of file, and that
    of the texts, which has one of these names."""
    return table.default_columns((*PATH, kind), texts)


def read(path: Path, columns: table.Columns, *, what: str) -> Iterator[tuple[str, str]]:
    """The path of each listed file within the table's folder, and its text. columns: of
    the paths and of the texts. what: kind of file, with its article, for messages.

    ValueError, naming file and row, for a missing file or text, a path out of the
    folder, and a file that is listed twice.
    """
    known: set[str] = set()
    kind = what.split()[-1]
    for place, cells in table.read(path, columns).rows:
        written, text = next(table.require_cells([(place, cells)]))
        name = PurePosixPath(written)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"{place}: expected a path in the folder, got '{name}'")
        if not (path.parent / name).is_file():
            raise ValueError(f"{place}: expected {what}, got no file '{name}'")
        if str(name) in known:
            raise ValueError(f"{place}: expected each {kind} once, got '{name}' again")
        known.add(str(name))
        yield str(name), text
