"""The index of a folder of prepared text: which files it has, from what it was made.

`shards.json` is written last: a folder with it is complete. It has nothing that differs
between two preparations of one corpus by one recipe: no time, no place, no machine.

    NAME.tokens   ids of all documents, uint16 or uint32, little-endian; each ends in
                  the tokenizer's `end`
    NAME.offsets  int64, little-endian: the first token of each document, and the total
    tokenizer.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer import storage
from transformer.data.text import documents

FILE = "shards.json"
FORMAT = "transformer token shards"
VERSION = 1
KINDS = ("tokens", "offsets")
DTYPES = ("uint16", "uint32")
_FIELDS = {
    "dtype": str,
    "tokenizer": dict,
    "splits": dict,
    "sources": list,
    "documents_without_text": int,
    "recipe": dict,
}


class Shard(NamedTuple):
    """Documents of a split.

    name: of its files, without their suffix. sha256: of each of `KINDS`.
    """

    name: str
    documents: int
    tokens: int
    sha256: tuple[str, str]

    def file(self, folder: Path, kind: str) -> Path:
        """One of `KINDS`."""
        return folder / f"{self.name}.{kind}"

    def size(self, kind: str, dtype: str) -> int:
        """The bytes of that file."""
        width = 2 if dtype == "uint16" else 4
        return self.tokens * width if kind == "tokens" else 8 * (self.documents + 1)


class Index(NamedTuple):
    """What `shards.json` says.

    dtype: of a token. tokenizer: hash, vocab_size, end, and sha256 of its file.
    recipe: seed, column, held_out, and shards of each split. shards: by split.
    sources: (name, bytes, SHA-256) of each file of the corpus. empty: documents without
    text, which were left out.
    """

    dtype: str
    tokenizer: dict[str, Any]
    recipe: dict[str, Any]
    shards: dict[str, tuple[Shard, ...]]
    sources: tuple[tuple[str, int, str], ...]
    empty: int

    def documents(self, split: str) -> int:
        """The documents of a split."""
        return sum(shard.documents for shard in self.shards[split])

    def tokens(self, split: str) -> int:
        """The tokens of a split, the ends included."""
        return sum(shard.tokens for shard in self.shards[split])


def shard_name(split: str, number: int, count: int) -> str:
    """As in train-00003-of-00016."""
    return f"{split}-{number:05d}-of-{count:05d}"


def to_bytes(index: Index) -> bytes:
    """The content of `shards.json`."""
    splits = {
        split: {
            "documents": index.documents(split),
            "tokens": index.tokens(split),
            "shards": [
                shard._asdict()
                | {"sha256": dict(zip(KINDS, shard.sha256, strict=True))}
                for shard in index.shards[split]
            ],
        }
        for split in documents.SPLITS
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": index.dtype,
        "tokenizer": index.tokenizer,
        "recipe": index.recipe,
        "documents_without_text": index.empty,
        "splits": splits,
        "sources": [
            {"name": name, "bytes": size, "sha256": sha256}
            for name, size, sha256 in index.sources
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _shards(where: str, split: Any) -> tuple[Shard, ...]:
    storage.check_fields(where, split, {"shards": list})
    found = []
    for number, entry in enumerate(split["shards"]):
        name = f"{where}, shard {number}"
        fields = {"name": str, "documents": int, "tokens": int, "sha256": dict}
        storage.check_fields(name, entry, fields)
        storage.check_fields(name, entry["sha256"], dict.fromkeys(KINDS, str))
        digests = entry["sha256"]["tokens"], entry["sha256"]["offsets"]
        shard = Shard(entry["name"], entry["documents"], entry["tokens"], digests)
        if shard.name != shard_name(Path(where).name, number, len(split["shards"])):
            raise ValueError(f"{name}: expected another name, got {shard.name!r}")
        found.append(shard)
    return tuple(found)


def read(folder: Path) -> Index:
    """The index of a folder. ValueError, in one line, for another format or version,
    and for content that is none."""
    file = folder / FILE
    content = storage.read_json(file, {"format": str, "version": int})
    kind, version = content["format"], content["version"]
    if kind != FORMAT or version != VERSION:
        raise ValueError(
            f"{file}: expected {FORMAT}, version {VERSION}, got {kind}, version "
            f"{version}"
        )
    storage.check_fields(str(file), content, _FIELDS)
    if content["dtype"] not in DTYPES:
        raise ValueError(
            f"{file}: expected dtype {' or '.join(DTYPES)}, got {content['dtype']!r}"
        )
    splits = content["splits"]
    storage.check_fields(str(file), splits, dict.fromkeys(documents.SPLITS, dict))
    tokenizer = {"hash": str, "vocab_size": int, "end": int, "sha256": str}
    storage.check_fields(f"{file}: tokenizer", content["tokenizer"], tokenizer)
    for number, source in enumerate(content["sources"]):
        fields = {"name": str, "bytes": int, "sha256": str}
        storage.check_fields(f"{file}: source {number}", source, fields)
    return Index(
        content["dtype"],
        content["tokenizer"],
        content["recipe"],
        {split: _shards(f"{file}/{split}", splits[split]) for split in splits},
        _sources(content["sources"]),
        content["documents_without_text"],
    )


def _sources(entries: Sequence[dict[str, Any]]) -> tuple[tuple[str, int, str], ...]:
    return tuple((e["name"], e["bytes"], e["sha256"]) for e in entries)
