"""Jane Austen's six novels, from an R package, without R."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer import storage
from transformer.data.shipped.recipes import packages

PACKAGES = (
    packages.Package(
        "Debian",
        "r-cran-janeaustenr",
        "1.0.0-1",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    ),
)
DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
VALIDATION = "emma"
ORIGIN = {
    "name": "austen",
    "what": "Jane Austen's six novels as plain text, lines as in the source",
    "text": "public domain (the author died in 1817), by way of Project Gutenberg",
    "package": f"{PACKAGES[0]}, data of the R package janeaustenr",
    "packager": "Julia Silge, https://github.com/juliasilge/janeaustenr, MIT licence",
    "built_by": "transformer/data/shipped/build.py",
    "package_sha256": PACKAGES[0].sha256,
}


def objects(database: bytes) -> Iterator[bytes]:
    """Inflate each object of an R lazy-load database (length, then a zlib stream)."""
    while database:
        (size,) = struct.unpack_from(">I", database)
        inflate = zlib.decompressobj()
        raw = inflate.decompress(database[4:])
        if len(raw) != size:
            raise ValueError(f"R database: expected {size} bytes, got {len(raw)}")
        yield raw
        database = inflate.unused_data


def strings(raw: bytes) -> list[str]:
    """The character vector in one R serialization (XDR, version 3); NA is ""."""
    head = b"X\n\0\0\0\3"
    if not raw.startswith(head):
        raise ValueError(f"R object: expected {head!r}, got {raw[: len(head)]!r}")
    (name_size,) = struct.unpack_from(">i", raw, 14)
    kind, count = struct.unpack_from(">ii", raw, 18 + name_size)
    if kind & 0xFF != 16:
        raise ValueError(
            f"R object: expected strings (type 16), got type {kind & 0xFF}"
        )
    lines, at = [], 26 + name_size
    for _ in range(count):
        _, size = struct.unpack_from(">ii", raw, at)
        lines.append(raw[at + 8 : at + 8 + max(size, 0)].decode("utf-8"))
        at += 8 + max(size, 0)
    return lines


def novels(database: bytes) -> dict[str, str]:
    """Title to text."""
    texts = {}
    for raw in objects(database):
        lines = strings(raw)
        title = next(line.strip() for line in lines if line.strip())
        texts[title.title().replace(" And ", " and ")] = "\n".join(lines) + "\n"
    return texts


def build(roots: Sequence[Path]) -> packages.Dataset:
    """One .txt.xz for each novel; Emma is for validation."""
    files, documents = {}, []
    for title, text in sorted(novels((roots[0] / DATA).read_bytes()).items()):
        name = title.lower().replace(" ", "_")
        data = packages.pack(text.encode())
        files[f"{name}.txt.xz"] = data
        documents.append(
            {
                "file": f"{name}.txt.xz",
                "title": title,
                "split": "validation" if name == VALIDATION else "train",
                "characters": len(text),
                "sha256": storage.sha256(data),
            }
        )
    return packages.Dataset(files, {**ORIGIN, "documents": documents})
