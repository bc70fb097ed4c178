"""One module for each kind of data, with one function `load(source)`.

A source is the name of a shipped data set, else a path that exists, in an object store
too (gs://bucket/a.txt), else a TFDS name (a folder called digits is given as ./digits).
The shipped data sets are TFDS builders and take the same path as any other name.
`held_out` is the fraction that becomes validation where the source has no such split.
`load` raises ValueError, in one line, for a source that is missing, empty, unknown or
malformed; it imports only the reader it needs.
"""

from __future__ import annotations

import re
from pathlib import Path

from transformer import checks
from transformer.data.shipped import BUILDERS

HELD_OUT = 0.05
ALL = 1.0
NAME_CHARACTERS = 255
TFDS_NAME = re.compile(r"\w+(:\w+)?(/[\w.,=+-]+)*(:[\d.*]+)?")  # name/config:version


class EvaluationOnly(str):
    """A source that is only evaluated: both splits of a file or folder are all of it,
    unless the user divided it. A name keeps its splits."""


def held_out_fraction(source: str | Path, fraction: float) -> float:
    """`fraction`, or `ALL` of an `EvaluationOnly`."""
    return ALL if isinstance(source, EvaluationOnly) else fraction


def exists(path: Path | str) -> bool:
    """Whether there is a file or folder; False for a name that can be none, as one that
    is too long or has a null character."""
    try:
        return checks.parse_path(path).exists()
    except (OSError, ValueError):
        return False


def own_path(source: str | Path, what: str, held_out: float) -> Path | None:
    """The path of the user's own data, of its local copy where it is in an object
    store, or None if `source` is a name."""
    if not 0 < held_out < 1:
        raise ValueError(
            f"held_out: expected a fraction between 0 and 1, got {held_out}"
        )
    if checks.is_remote(source):
        from transformer import remote_data

        return remote_data.local_copy(source)
    name = str(source)
    path = checks.expand_home(Path(source))
    if source not in ("", *BUILDERS) and exists(path):
        if not path.is_file() and not path.is_dir():
            raise ValueError(
                f"expected a file or folder of {what}, got a pipe or device at {name!r}"
            )
        return path
    is_long = len(name) > NAME_CHARACTERS
    if isinstance(source, Path) or is_long or not TFDS_NAME.fullmatch(name):
        got = repr(name[:NAME_CHARACTERS]) + "..." * is_long
        raise ValueError(f"expected a file or folder of {what}, got none at {got}")
    return None


def column_names(columns: str, *counts: int) -> tuple[str, ...]:
    """The names of columns, divided by commas; ValueError for another number of them
    than one of `counts`."""
    names = tuple(name.strip() for name in columns.split(","))
    if len(set(names)) != len(names) or len(names) not in counts or not all(names):
        expected = " or ".join(map(str, counts))
        raise ValueError(
            f"--columns: expected {expected} different names divided by a comma, "
            f"got {columns!r}"
        )
    return names


def refuse_columns(columns: str, source: str | Path) -> None:
    """ValueError for names of columns of a data set that is known by its name."""
    if columns:
        raise ValueError(f"--columns: expected a table of one's own, got {source!r}")
