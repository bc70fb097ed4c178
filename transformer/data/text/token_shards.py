"""A folder of prepared text (python -m transformer prepare) as a `TextDataset`.

Tokens are mapped into memory, so that a host reads the pages of its rows only. Missing
files and other sizes are refused at the start; the checksum of a file is verified when
a process first reads of it. A shard in an object store is copied to the cache then.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transformer import checks, storage
from transformer.data.text import (
    documents,
    joint_array,
    packing,
    shard_index,
    tokenizers,
)
from transformer.data.text.shard_index import Index, Shard

AGAIN = "prepare it again"


def find(source: str | Path) -> Path | None:
    """The folder at `source`, where it has prepared text; None where it has none.
    ValueError where its preparation was interrupted."""
    if not source:
        return None
    try:
        folder = checks.parse_path(source)
    except ValueError:
        return None  # No path.
    try:
        if (folder / shard_index.FILE).is_file():
            return folder
        is_folder = folder.is_dir()
    except (OSError, ValueError):
        return None  # Too long a name, or no access, which the readers of text tell.
    if is_folder and any(folder.glob("train-*-of-*.tokens")):
        raise ValueError(
            f"{folder}: expected {shard_index.FILE}, got shards without it: their "
            "preparation was interrupted; the same command goes on"
        )
    return None


def _check_sizes(folder: Path, index: Index) -> None:
    """ValueError where a file is missing or has another size than the index says."""
    if checks.is_remote(folder):
        return  # Each would take a request; what is copied is verified.
    for shard in (shard for found in index.shards.values() for shard in found):
        for kind in shard_index.KINDS:
            file, expected = shard.file(folder, kind), shard.size(kind, index.dtype)
            try:
                size = file.stat().st_size
            except OSError as error:
                raise ValueError(
                    f"{file}: expected {expected} bytes, got {error.strerror}; {AGAIN}"
                ) from None
            if size != expected:
                raise ValueError(
                    f"{file}: expected {expected} bytes, got {size}; {AGAIN}"
                )


def _local_file(file: Path, sha256: str) -> Path:
    """The file on this machine, which has that SHA-256, or ValueError."""

    def check(local: Path) -> None:
        got = storage.sha256(local)
        if got != sha256:
            raise ValueError(f"{file}: expected sha256 {sha256}, got {got}; {AGAIN}")

    if not checks.is_remote(file):
        check(file)
        return file
    remote: Any = file

    def copy(folder: Path) -> None:
        remote.fetch(folder / file.name, [""])
        check(folder / file.name)

    return storage.cached_folder(f"shards/{sha256}", copy) / file.name


def _map(file: Path, sha256: str, dtype: str) -> np.ndarray:
    found = _local_file(file, sha256)
    if not found.stat().st_size:
        return np.zeros(0, dtype)  # mmap refuses it.
    return np.memmap(found, dtype, "r")


def _split(
    folder: Path, index: Index, fingerprint: str, split: str
) -> packing.TokenizedSplit:
    documents.check_split(split)
    shards = index.shards[split]
    dtype = np.dtype(index.dtype).newbyteorder("<")

    @functools.cache
    def tokens(number: int) -> np.ndarray:
        shard = shards[number]
        return _map(shard.file(folder, "tokens"), shard.sha256[0], dtype.str)

    def offsets(shard: Shard) -> np.ndarray:
        return _map(shard.file(folder, "offsets"), shard.sha256[1], "<i8")

    @functools.cache
    def every() -> np.ndarray:
        return joint_array.join_offsets([offsets(shard) for shard in shards])

    sizes = [shard.tokens for shard in shards]
    return packing.TokenizedSplit(
        joint_array.JointArray(sizes, tokens, dtype),
        every,
        index.tokenizer["end"],
        f"{folder} ({split})",
        storage.short_hash("shards", fingerprint, split),
        groups=len(shards),
    )


def read_tokenizer(folder: Path, index: Index) -> tokenizers.Tokenizer:
    """The tokenizer of the folder. ValueError where its file is missing or changed."""
    file = folder / tokenizers.FILE
    try:
        content = file.read_bytes()
    except OSError as error:
        cause = error.strerror or error
        raise ValueError(f"{file}: expected a tokenizer, got {cause}") from None
    got = storage.sha256(content)
    if got != index.tokenizer["sha256"]:
        expected = index.tokenizer["sha256"]
        raise ValueError(f"{file}: expected sha256 {expected}, got {got}; {AGAIN}")
    return tokenizers.from_bytes(content, name=str(file))


def read(folder: Path) -> documents.TextDataset:
    """The prepared text of a folder; its fingerprint is a hash of the index. ValueError
    for another version, and for missing or torn files."""
    index = shard_index.read(folder)
    _check_sizes(folder, index)
    for split in documents.SPLITS:
        if not index.tokens(split):
            raise ValueError(f"{folder}: expected text in split {split}, got none")
    fingerprint = storage.short_hash((folder / shard_index.FILE).read_bytes())
    tokens = documents.PreparedTokens(
        functools.partial(_split, folder, index, fingerprint),
        index.tokenizer["hash"],
        functools.partial(read_tokenizer, folder, index),
    )

    def pieces(split: str) -> Iterator[documents.Piece]:
        tokenizer, found = tokens.tokenizer(), tokens.split(split)
        offsets = found.offsets.tolist()
        for start, stop in zip(offsets[:-1], offsets[1:], strict=True):
            text = tokenizer.decode(found.tokens[start : stop - 1].tolist())
            yield from documents.pieces_of([text])

    return documents.TextDataset(str(folder), fingerprint, pieces, tokens=tokens)
