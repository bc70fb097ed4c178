"""Build the shipped member `austen` from its Debian package, byte for byte again.

    python -m transformer.data.suite.build [path/to/r-cran-janeaustenr_1.0.0-1_all.deb]

Without a path the package is fetched with `apt-get download`. Nothing of the package is
run: `dpkg-deb` unpacks it, and the R strings are read by the few lines below. Writes
`austen/*.txt.xz` and `austen/provenance.json` (origin, licence, sha256 of every file).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "r-cran-janeaustenr=1.0.0-1"
DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
FOLDER = Path(__file__).parent / "austen"
VALIDATION = "emma"
ORIGIN = {
    "name": "austen",
    "what": "Jane Austen's six novels as plain text, lines as in the source",
    "text": "public domain (the author died in 1817), by way of Project Gutenberg",
    "package": "Debian r-cran-janeaustenr 1.0.0-1, data of the R package janeaustenr",
    "packager": "Julia Silge, https://github.com/juliasilge/janeaustenr, MIT licence",
    "built_by": "transformer/data/suite/build.py",
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
    """The character vector in one R serialisation (XDR, version 3); NA is ""."""
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


def download(folder: Path) -> Path:
    """Fetch the package with apt into `folder`; returns its path."""
    command = ["apt-get", "download", "-q", PACKAGE]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.deb"))


def novels(package: Path, folder: Path) -> dict[str, str]:
    """Title to text, unpacked from the .deb into `folder`."""
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    texts = {}
    for raw in objects((folder / DATA).read_bytes()):
        lines = strings(raw)
        title = next(line.strip() for line in lines if line.strip())
        texts[title.title().replace(" And ", " and ")] = "\n".join(lines) + "\n"
    return texts


def build(package: Path | None = None) -> dict:
    """Write the member's files; returns the provenance record."""
    with tempfile.TemporaryDirectory() as scratch:
        package = package or download(Path(scratch))
        texts = novels(package, Path(scratch) / "unpacked")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
    FOLDER.mkdir(exist_ok=True)
    documents = []
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    for title, text in sorted(texts.items()):
        name = title.lower().replace(" ", "_")
        packed = lzma.compress(text.encode(), check=lzma.CHECK_CRC64, filters=filters)
        (FOLDER / f"{name}.txt.xz").write_bytes(packed)
        documents.append(
            {
                "file": f"{name}.txt.xz",
                "title": title,
                "split": "validation" if name == VALIDATION else "train",
                "characters": len(text),
                "sha256": hashlib.sha256(packed).hexdigest(),
            }
        )
    record = {**ORIGIN, "package_sha256": digest, "documents": documents}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (FOLDER / "provenance.json").write_text(text, encoding="utf-8")
    return record


if __name__ == "__main__":
    made = build(Path(sys.argv[1]) if sys.argv[1:] else None)
    for document in made["documents"]:
        print(*document.values())
