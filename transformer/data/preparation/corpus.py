"""The files of a corpus, local or in an object store, and their documents in order.

A file is one document; of a table, each row is one (`readers/text_files.py`,
`readers/text_tables.py`). A corpus with the folders `train` and `validation`, or with
tables called so, is divided as given.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformer import checks, storage
from transformer.data.readers import table, text_files, text_tables
from transformer.data.text import documents

# A unit of work: so many bytes as they are stored, or a file that is larger. There are
# at most so many units, and a corpus beyond their product has larger ones.
UNIT_BYTES = 16 << 20
UNITS = 4096


class Source(NamedTuple):
    """A file of a corpus.

    name: its path within the corpus, with slashes. location: as it is opened.
    size: bytes as stored. stamp: the time of the file, or what the store says of its
    object that changes with it. split: as given by the corpus, or "".
    """

    name: str
    location: str
    size: int
    stamp: str
    split: str = ""


class Unit(NamedTuple):
    """Sources that one process encodes, one after the other."""

    number: int
    sources: tuple[Source, ...]


class Document(NamedTuple):
    """The place of a document: its file, and its row there, from 0."""

    source: Source
    row: int


def find_sources(corpus: str) -> list[Source]:
    """The files of a file, a folder or a pattern such as `gs://bucket/a/*.jsonl`, in
    the order of their names. Hidden files are left out. ValueError where there is none,
    or nothing in them."""
    root, files = _list(corpus)
    found = [Source(name, str(path), *_status(path)) for name, path in sorted(files)]
    if not sum(source.size for source in found):
        raise ValueError(
            f"{corpus}: expected files of text or tables, got {len(found)} files of 0 "
            "bytes"
        )
    given = text_files.given_splits([source.name for source in found])
    if given is None:
        text_files.refuse_other_splits(corpus, [source.name for source in found])
        return found
    splits = {name: split for split in given for name in given[split]}
    if len(splits) < len(found):
        left_out = len(found) - len(splits)
        print(f"{root}: files of train and validation; {left_out} others unread")
    return [s._replace(split=splits[s.name]) for s in found if s.name in splits]


def _list(corpus: str) -> tuple[Path, list[tuple[str, Path]]]:
    """The folder that names start from, and (name, path) of each file."""
    path = checks.parse_path(corpus)
    if "*" in corpus:
        fixed = corpus[: corpus.index("*")].rpartition("/")[0]
        root = checks.parse_path(fixed or ("/" if corpus.startswith("/") else "."))
        pattern = corpus[len(fixed) :].lstrip("/") if fixed else corpus
        files = [file for file in root.glob(pattern) if not file.is_dir()]
    elif path.is_dir():
        root, files = path, _below(path)
    elif path.exists():
        root, files = path.parent, [path]
    else:
        raise ValueError(f"expected a file or folder of text, got none at {corpus}")
    regular = map(checks.regular_file, files)
    return root, [(file.relative_to(root).as_posix(), file) for file in regular]


def _below(folder: Path) -> list[Path]:
    if not checks.is_remote(folder):
        return text_files.listing(folder)
    remote: Any = folder
    names = sorted(remote.facts())
    return [folder / n for n in names if not n.startswith(".") and "/." not in n]


def _status(path: Path) -> tuple[int, str]:
    """Size and stamp of a file. ValueError where it cannot be looked at."""
    try:
        if not checks.is_remote(path):
            status = path.stat()
            return status.st_size, f"time {status.st_mtime_ns}"
        remote: Any = path
        (facts,) = remote.facts().values()
        return facts.size, facts.identity
    except OSError as error:
        cause = error.strerror or error
        raise ValueError(f"{path}: expected a file, got {cause}") from None


def units(sources: Sequence[Source]) -> list[Unit]:
    """All sources in order, in units of about `UNIT_BYTES`."""
    total = sum(source.size for source in sources)
    limit = max(UNIT_BYTES, total // UNITS)
    found: list[list[Source]] = []
    size = limit
    for source in sources:
        if size >= limit:
            found.append([])
            size = 0
        found[-1].append(source)
        size += source.size
    return [Unit(number, tuple(unit)) for number, unit in enumerate(found)]


@contextlib.contextmanager
def local_copy(source: Source) -> Iterator[Path]:
    """The source as a file on this machine: an object is copied for as long as it is
    read. ValueError, also from within, that names the source."""
    path = checks.parse_path(source.location)
    if not checks.is_remote(path):
        yield path
        return
    remote: Any = path
    with tempfile.TemporaryDirectory(prefix="transformer-") as folder:
        copy = Path(folder) / path.name
        try:
            remote.fetch(copy, [""])
            yield copy
        except OSError as error:
            raise ValueError(
                f"{source.location}: expected a file, got {error}"
            ) from None
        except ValueError as error:
            words = str(error).replace(str(copy), source.location)
            raise ValueError(words) from None


def digest(source: Source, file: Path) -> str:
    """The SHA-256 of the source's `local_copy`. ValueError where it cannot be read."""
    try:
        return storage.sha256(file)
    except OSError as error:
        cause = error.strerror or error
        raise ValueError(f"{source.location}: expected a file, got {cause}") from None


def _texts(file: Path, column: str) -> Iterator[Callable[[], Iterable[str]]]:
    """Each document as a function that reads its text, in chunks."""
    if not table.is_table(file):
        yield partial(text_files.text_of, file)
        return
    for text in text_tables.texts(file, column):
        yield partial(list, (text,))


def pieces(
    source: Source, file: Path, column: str
) -> Iterator[tuple[Document, documents.Piece]]:
    """The pieces of the source's documents, read from its `local_copy`; a document
    without text is one piece, which is empty. Errors as those of the readers."""
    for row, read in enumerate(_texts(file, column)):
        document = Document(source, row)
        is_empty = True
        for piece in documents.pieces_of(read()):
            yield document, piece
            is_empty = False
        if is_empty:
            yield document, documents.Piece("", True)


def as_text(
    name: str, sources: Sequence[Source], *, column: str, held_out: float
) -> documents.TextDataset:
    """The corpus as it is, for a tokenizer to be trained on: `train` leaves out the
    documents whose `hash_fraction` is below `held_out`. The fingerprint changes with
    the places, sizes and stamps of the files."""

    def is_wanted(read: Callable[[], Iterable[str]], split: str) -> bool:
        state = hashlib.sha256()
        for chunk in read():
            state.update(chunk.encode())
        fraction = text_tables.fraction_of(state.digest())
        return (fraction < held_out) == (split == "validation")

    def read_split(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for source in sources:
            if source.split not in ("", split):
                continue
            with local_copy(source) as file:
                for read in _texts(file, column):
                    if source.split or is_wanted(read, split):
                        yield from documents.pieces_of(read())

    facts = [(s.name, s.location, s.size, s.stamp) for s in sources]
    fingerprint = storage.short_hash("corpus", repr(facts), column, repr(held_out))
    return documents.TextDataset(name, fingerprint, read_split)
