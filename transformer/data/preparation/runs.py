"""The documents of a unit of sources as a sorted run: their tokens, in the order in
which they stand in the shards, and a table of where each begins.

A run is made once, whole or not at all, and is kept until the shards are there (the
first pass of an external merge sort, Knuth, The Art of Computer Programming, volume 3,
section 5.4).
"""

from __future__ import annotations

import array
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer import storage
from transformer.data.preparation import corpus
from transformer.data.preparation.corpus import Document, Unit
from transformer.data.readers import text_tables
from transformer.data.readers.text_tables import TableStatistics
from transformer.data.text import documents, tokenizers
from transformer.data.text.tokenizers import Tokenizer

# Other runs of the same sources and recipe need another one.
VERSION = 1
# A document: its place in the order of all (128 bits of a hash), the `hash_fraction` of
# its text, and its tokens in the file, the end included.
KEY = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("fraction", "<f8"),
        ("start", "<i8"),
        ("size", "<i8"),
    ]
)
# The `hash_fraction` of a document of a split that is given.
GIVEN = {"train": 2.0, "validation": -1.0}
GIVEN_THRESHOLD = 0.5
ENCODED_CHARACTERS = 1 << 20
COPIED_BYTES = 4 << 20


class Recipe(NamedTuple):
    """All that decides the shards besides the corpus.

    tokenizer: its hash. seed: of the order. column: of tables. held_out: the share of
    the documents in validation; None where the corpus is divided. shards: of the train
    split; validation has `validation_shards`, a divisor of it.
    """

    tokenizer: str
    vocab_size: int
    seed: int
    column: str
    held_out: float | None
    shards: int
    validation_shards: int

    @property
    def dtype(self) -> np.dtype:
        """Of a token in a file."""
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")


class TokenizerFile(NamedTuple):
    """A tokenizer as any process can make it: `read` of the content of its file."""

    content: bytes
    read: Callable[[bytes], Tokenizer]


class Run(NamedTuple):
    """A finished run, as its record says.

    key: of the unit and the recipe. files: (SHA-256 of the tokens, of the table).
    sources: (name, bytes, SHA-256) of each. statistics: of the documents.
    edges: the first document of each shard of the train split, and the total.
    """

    number: int
    key: str
    files: tuple[str, str]
    sources: tuple[tuple[str, int, str], ...]
    statistics: TableStatistics
    tokens: int
    edges: tuple[int, ...]


class Segment(NamedTuple):
    """Documents of one file: `keys` [documents] of KEY, whose tokens are in `path`."""

    keys: np.ndarray
    path: Path


def read_tokenizer(content: bytes) -> Tokenizer:
    """A tokenizer of ours, of one thread: processes are parallel."""
    return tokenizers.from_bytes(content, threads=1)


@functools.lru_cache(maxsize=1)
def _tokenizer(file: TokenizerFile) -> Tokenizer:
    return file.read(file.content)


def token_file(work: Path, number: int) -> Path:
    """The tokens of a run."""
    return work / f"run-{number:06d}.tokens"


def table_file(work: Path, number: int) -> Path:
    """The KEY of each document of a run, in order."""
    return work / f"run-{number:06d}.table"


def _record_file(work: Path, number: int) -> Path:
    return work / f"run-{number:06d}.json"


def unit_key(unit: Unit, recipe: Recipe) -> str:
    """Changes with all that a run depends on."""
    facts = [(s.name, s.location, s.size, s.stamp, s.split) for s in unit.sources]
    return storage.short_hash(repr((VERSION, tuple(recipe), facts)))


def place(document: Document, seed: int) -> tuple[int, int]:
    """The place of a document in the order of all: two numbers of 64 bits, a hash of
    the seed, of the file's name in the corpus, and of the row."""
    text = f"{seed}\0{document.row}\0{document.source.name}"
    state = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16)
    digest = state.digest()
    return int.from_bytes(digest[:8]), int.from_bytes(digest[8:])


def _batches(
    pieces: Iterator[tuple[Document, documents.Piece]],
) -> Iterator[list[tuple[Document, documents.Piece]]]:
    batch, size = [], 0
    for item in pieces:
        batch.append(item)
        size += len(item[1].text)
        if size >= ENCODED_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Writer:
    """Appends documents to a file in the order in which they are read."""

    def __init__(self, file: Any, recipe: Recipe, end: int) -> None:
        self._columns = [array.array(code) for code in "QQdqq"]
        self.rows = self.empty = self.held_out = 0
        self.lowest, self.highest = 1.0, 0.0
        self._file, self._recipe, self._end = file, recipe, end
        self._start = self._total = 0
        self._state = hashlib.sha256()

    def add(self, document: Document, piece: documents.Piece, ids: np.ndarray) -> None:
        """Append a piece; the last one of a document makes its key."""
        self._state.update(piece.text.encode())
        content = np.append(ids, [self._end]) if piece.last else ids
        size = self._total + len(content) - self._start
        if piece.last and size == 1:
            self.rows, self.empty = self.rows + 1, self.empty + 1
            self._state = hashlib.sha256()
            return
        self._file.write(content.astype(self._recipe.dtype).tobytes())
        self._total += len(content)
        if piece.last:
            fraction = GIVEN.get(document.source.split)
            if fraction is None:
                fraction = text_tables.fraction_of(self._state.digest())
            self._count(fraction)
            high, low = place(document, self._recipe.seed)
            key = high, low, fraction, self._start, size
            for column, value in zip(self._columns, key, strict=True):
                column.append(value)
            self._start, self._state = self._total, hashlib.sha256()

    def _count(self, fraction: float) -> None:
        self.rows += 1
        self.held_out += fraction < (self._recipe.held_out or 0)
        self.lowest = min(self.lowest, fraction)
        self.highest = max(self.highest, fraction)

    def keys(self) -> np.ndarray:
        """KEY of the documents so far."""
        made = np.zeros(len(self._columns[0]), KEY)
        for name, column in zip(KEY.names or (), self._columns, strict=True):
            made[name] = column
        return made

    def statistics(self) -> TableStatistics:
        """Of the documents so far."""
        counts = self.rows, self.empty, self.held_out
        return TableStatistics(*counts, self.lowest, self.highest)


def _encode(
    unit: Unit, recipe: Recipe, tokenizer: Tokenizer, target: Path
) -> tuple[_Writer, list[tuple[str, int, str]]]:
    """Write the tokens of all documents, in the order in which they are read, to
    `target`; also (name, bytes, SHA-256) of each source."""
    sources = []
    with open(target, "wb") as file:
        writer = _Writer(file, recipe, tokenizer.end)
        for source in unit.sources:
            with corpus.local_copy(source) as copy:
                digest = corpus.digest(source, copy)
                sources.append((source.name, copy.stat().st_size, digest))
                for batch in _batches(corpus.pieces(source, copy, recipe.column)):
                    encoded = tokenizer.encode_pieces([p.text for _, p in batch])
                    for (document, piece), ids in zip(batch, encoded, strict=True):
                        writer.add(document, piece, ids)
    return writer, sources


def assemble(segments: Sequence[Segment], dtype: np.dtype, target: Path) -> np.ndarray:
    """Write all documents to `target`, in the order of their places; return their keys
    in that order, with their starts there. Memory: the keys, and one block."""
    keys = np.concatenate([np.zeros(0, KEY), *(segment.keys for segment in segments)])
    order = np.lexsort((keys["low"], keys["high"]))
    starts = np.zeros(len(keys), np.int64)
    starts[order] = np.cumsum(keys["size"][order]) - keys["size"][order]
    width, first = dtype.itemsize, 0
    with open(target, "wb", buffering=0) as made:
        for segment in segments:
            count = len(segment.keys)
            if not count:
                continue
            here = segment.keys["start"] * width
            there = starts[first : first + count] * width
            sizes = segment.keys["size"] * width
            with segment.path.open("rb") as file:
                for each in zip(
                    here.tolist(), there.tolist(), sizes.tolist(), strict=True
                ):
                    _copy(file, made, *each)
            first += count
    made = keys[order]
    made["start"] = starts[order]
    return made


def _copy(source: Any, target: Any, here: int, there: int, size: int) -> None:
    """Copy `size` bytes, from the place `here` to the place `there`."""
    source.seek(here)
    target.seek(there)
    while size:
        block = source.read(min(size, COPIED_BYTES))
        if not block:
            raise ValueError(f"{source.name}: expected {size} more bytes, got none")
        target.write(block)
        size -= len(block)


def shard_edges(high: np.ndarray, shards: int) -> tuple[int, ...]:
    """Of documents in order, the first one of each shard, and their number: shard n has
    those whose place is in the n-th of `shards` equal parts."""
    bounds = [-(-(number << 64) // shards) for number in range(1, shards)]
    found = np.searchsorted(high, np.array(bounds, np.uint64))
    return (0, *found.tolist(), len(high))


def read_record(work: Path, unit: Unit, recipe: Recipe) -> Run | None:
    """The finished run of a unit, where it is there as its record says."""
    try:
        run = from_json(_record_file(work, unit.number).read_bytes())
        made = token_file(work, unit.number), table_file(work, unit.number)
        whole = run.files == tuple(storage.sha256(file) for file in made)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if whole and run.key == unit_key(unit, recipe) else None


def from_json(content: bytes) -> Run:
    """The run of a record."""
    fields = json.loads(content)
    return Run(
        fields["number"],
        fields["key"],
        tuple(fields["files"]),
        tuple(tuple(source) for source in fields["sources"]),
        TableStatistics(*fields["statistics"]),
        fields["tokens"],
        tuple(fields["edges"]),
    )


def write(unit: Unit, recipe: Recipe, file: TokenizerFile, work: Path) -> Run:
    """Encode a unit's sources into a run in the folder `work`; the record is written
    last. ValueError, in one line, for what the readers refuse."""
    tokenizer = _tokenizer(file)
    with storage.scratch_folder(work) as scratch:
        raw, tokens, table = scratch / "raw", scratch / "tokens", scratch / "table"
        writer, sources = _encode(unit, recipe, tokenizer, raw)
        keys = assemble([Segment(writer.keys(), raw)], recipe.dtype, tokens)
        table.write_bytes(keys.tobytes())
        digests = storage.sha256(tokens), storage.sha256(table)
        storage.commit_file(token_file(work, unit.number), tokens)
        storage.commit_file(table_file(work, unit.number), table)
    run = Run(
        unit.number,
        unit_key(unit, recipe),
        digests,
        tuple(sources),
        writer.statistics(),
        int(keys["size"].sum()),
        shard_edges(keys["high"], recipe.shards),
    )
    record = json.dumps(run._asdict()).encode()
    storage.commit(_record_file(work, unit.number), record)
    return run
