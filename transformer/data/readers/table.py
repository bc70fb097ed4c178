"""The user's own tables, row by row: CSV, TSV, JSON lines and Parquet.

The format follows from the name: `.csv`, `.tsv`, `.jsonl` or `.ndjson`, `.parquet`; the
first three also compressed (`.jsonl.zst`). Columns are chosen by name: from the first
row of a CSV, from the keys of JSON objects, from the schema of a Parquet file. The
first row of a TSV names its columns where it starts with `#`, or has all wanted names;
otherwise it is data. A faulty row is refused with its number, which counts lines (in
Parquet, rows) from 1. Memory does not grow with the file.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer import checks, storage
from transformer.data.readers import compression
from transformer.data.text import documents

PARQUET_ROWS = 256
# The names of the wanted columns, or a function from those that a table has to them.
Columns = Sequence[str] | Callable[[Sequence[str]], Sequence[str]]
# (number of the row, its cells in the order of the wanted columns)
Rows = Iterator[tuple[int, Sequence[Any]]]


class Table(NamedTuple):
    """An open table.

    names: of the columns that are read; empty for a TSV that does not name them.
    rows: the place of each row, for messages, and its cells.
    """

    names: tuple[str, ...]
    rows: Iterator[tuple[str, list[str]]]


def default_columns(*defaults: Sequence[str]) -> Columns:
    """For each column, the first of its default names that a table has, as it stands or
    in upper case, as `Text` of `text`; else the first of them."""

    def choose(present: Sequence[str]) -> tuple[str, ...]:
        return tuple(_present_name(names, present) for names in defaults)

    return choose


def _present_name(names: Sequence[str], present: Sequence[str]) -> str:
    for name in names:
        found = [one for one in present if one.strip().lower() == name.lower()]
        if found:
            # Of several that differ in case, the one as it is written, or none.
            return found[0] if len(found) == 1 else name
    return names[0]


def is_table(path: Path) -> bool:
    """Whether the name is that of a table in one of the formats."""
    return compression.content_suffix(path) in _READERS


def find(folder: Path, name: str) -> Path | None:
    """The table called `name` in a folder; ValueError where there are several."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [p for p in inside if p.name.split(".")[0] == name and is_table(p)]
    if len(files) > 1:
        got = ", ".join(path.name for path in files)
        raise ValueError(f"{folder}: expected one table called {name}, got {got}")
    return files[0] if files else None


def split_files(folder: Path, what: str) -> dict[str, Path]:
    """The tables called train and validation in a folder, by split. ValueError unless
    there is one of each."""
    found = {}
    for split in documents.SPLITS:
        files = sorted(p for p in folder.glob(f"{split}.*") if is_table(p))
        if len(files) != 1:
            got = ", ".join(p.name for p in files) or "none"
            raise ValueError(
                f"{folder}: expected one table of {what} called {split}, such as "
                f"{split}.tsv or {split}.jsonl, got {got}"
            )
        found[split] = files[0]
    return found


def read(path: Path, columns: Columns = (), *, flag: str = "--columns") -> Table:
    """The table at `path`, its rows read lazily.

    columns: of those wanted; all in their order if there are none. flag: for the
    message where a column is missing. ValueError, naming file and row, for a missing
    column, another number of cells, a cell that is not text, and what is not UTF-8 or
    damaged. A file of another suffix is read as TSV.
    """
    reader = _READERS.get(compression.content_suffix(path), _tsv)
    names, rows = reader(checks.regular_file(path), columns, flag)

    def texts() -> Iterator[tuple[str, list[str]]]:
        for number, cells in rows:
            where = f"{path}, row {number}"
            yield where, [cell_text(where, cell) for cell in cells]

    return Table(tuple(names), texts())


def require_cells(rows: Iterable[tuple[str, list[str]]]) -> Iterator[list[str]]:
    """The cells of each row, without white space around them; ValueError names the row
    and the column of an empty one."""
    for where, row in rows:
        cells = [cell.strip() for cell in row]
        if not all(cells):
            column = cells.index("") + 1
            raise ValueError(f"{where}: expected text, got an empty column {column}")
        yield cells


def cell_text(where: str, cell: Any) -> str:
    """A cell as text; a whole number, such as a class, as its digits."""
    if isinstance(cell, str):
        if not cell.isascii():
            try:
                cell.encode()
            except UnicodeEncodeError:  # JSON can spell half of a surrogate pair.
                raise ValueError(
                    f"{where}: expected text, got half a surrogate pair"
                ) from None
        return cell
    if cell is None:
        return ""
    if isinstance(cell, int):
        return str(cell)
    raise ValueError(f"{where}: expected text, got {type(cell).__name__}")


def _names(columns: Columns, present: Sequence[str]) -> Sequence[str]:
    return columns(present) if callable(columns) else columns


def _choose(
    path: Path, present: Sequence[str], columns: Columns, flag: str
) -> list[int]:
    """The places of the wanted columns among those that the table has."""
    names = _names(columns, present) or present
    for name in names:
        if list(present).count(name) != 1:
            got = ", ".join(present) or "none"
            raise ValueError(
                f"{path}: expected one column {name!r}, got {got}; {flag} names others"
            )
    return [list(present).index(name) for name in names]


def _same_width(where: str, cells: Sequence[str], width: int, sign: str) -> None:
    if len(cells) != width:
        got = "commas" if len(cells) == 1 and "," in cells[0] and sign == "tabs" else ""
        raise ValueError(
            f"{where}: expected {width} columns divided by {sign}, "
            f"got {got or len(cells)}"
        )


def _tsv(path: Path, columns: Columns, flag: str) -> tuple[Sequence[str], Rows]:
    split = (
        (number, [cell.strip() for cell in line.split("\t")])
        for number, line in compression.lines(path)
    )
    first = next(split, None)
    if first is None:
        return (), iter(())
    head = [first[1][0].removeprefix("#").strip(), *first[1][1:]]
    wanted = _names(columns, head)
    names = head if head != first[1] or (wanted and set(wanted) <= set(head)) else []
    if names:
        chosen = _choose(path, names, wanted, flag)
    else:
        chosen = list(range(len(wanted) or len(head)))
    width = len(head) if names else max(2, len(wanted) or len(head))
    if len(head) > width:
        raise ValueError(
            f"{path}, row 1: expected {width} columns divided by tabs, got "
            f"{len(head)}; {flag} names columns of the first row"
        )

    def rows() -> Rows:
        for number, cells in split if names else itertools.chain([first], split):
            _same_width(f"{path}, row {number}", cells, width, "tabs")
            yield number, [cells[place] for place in chosen]

    return [names[place] for place in chosen] if names else (), rows()


def _csv(path: Path, columns: Columns, flag: str) -> tuple[Sequence[str], Rows]:
    csv.field_size_limit(1 << 30)  # The default refuses documents of 128 KiB.
    source = csv.reader((line for _, line in compression.lines(path)), strict=True)

    def records() -> Iterator[tuple[int, list[str]]]:
        while True:
            start = source.line_num + 1
            try:
                cells = next(source, None)
            except csv.Error as error:
                raise ValueError(
                    f"{path}, row {start}: expected CSV, got {error}"
                ) from None
            if cells is None:
                return
            if cells:  # An empty line is no record.
                yield start, cells

    found = records()
    names = [name.strip() for name in next(found, (0, []))[1]]
    chosen = _choose(path, names, columns, flag) if names else []

    def rows() -> Rows:
        for number, cells in found:
            _same_width(f"{path}, row {number}", cells, len(names), "commas")
            yield number, [cells[place] for place in chosen]

    return [names[place] for place in chosen], rows()


def _json_lines(path: Path, columns: Columns, flag: str) -> tuple[Sequence[str], Rows]:
    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in compression.lines(path):
            if not line.strip():
                continue
            try:
                value = storage.parse_json(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path}, row {number}: expected JSON, got {error}"
                ) from None
            if not isinstance(value, dict):
                got = type(value).__name__
                raise ValueError(f"{path}, row {number}: expected an object, got {got}")
            yield number, value

    found = records()
    first = next(found, None)
    if first is None:
        return (), iter(())
    names = list(_names(columns, list(first[1])) or first[1])

    def rows() -> Rows:
        for number, value in itertools.chain([first], found):
            missing = [name for name in names if name not in value]
            if missing:
                _choose(Path(f"{path}, row {number}"), list(value), missing, flag)
            yield number, [value[name] for name in names]

    return names, rows()


def _parquet(path: Path, columns: Columns, flag: str) -> tuple[Sequence[str], Rows]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected Parquet, got {reason}") from None
    found = file.schema_arrow.names
    names = [found[place] for place in _choose(path, found, columns, flag)]

    def rows() -> Rows:
        number = 0
        try:
            for batch in file.iter_batches(PARQUET_ROWS, columns=names):
                lists = [batch.column(name).to_pylist() for name in names]
                for cells in zip(*lists, strict=True):
                    number += 1
                    yield number, cells
        except (OSError, pyarrow.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path}, after row {number}: expected Parquet, got {reason}"
            ) from None
        finally:
            file.close()

    return names, rows()


_READERS: dict[str, Callable[..., tuple[Sequence[str], Rows]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
