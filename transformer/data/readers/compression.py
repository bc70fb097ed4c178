"""Files as streams of bytes or lines, decompressed while they are read."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from transformer import checks


def _open_zstd(path: Path) -> Any:
    # pyarrow, which reads Parquet, decodes zstd too; Python does from 3.14 on.
    import pyarrow

    stream: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return io.BufferedReader(stream)


OPENERS: dict[str, Any] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstd,
}


def is_compressed(path: Path) -> bool:
    """Whether the name ends as that of a compressed file: .gz, .bz2, .xz, .zst."""
    return path.suffix.lower() in OPENERS


def content_suffix(path: Path) -> str:
    """The suffix of the name without that of its compression, in small letters."""
    return (Path(path.stem) if is_compressed(path) else path).suffix.lower()


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The content of a file as a stream of bytes, decompressed. ValueError, naming it,
    where it is no file, cannot be opened or its compressed content is damaged or cut
    short, also while it is read."""
    checks.regular_file(path)
    opener: Any = OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") if opener is not _open_zstd else opener(path) as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        cause = getattr(error, "strerror", None) if opener is open else None
        reason = " ".join(str(cause or error).split()) or type(error).__name__
        expected = f"a complete {path.suffix} file" if opener is not open else "a file"
        raise ValueError(f"{path}: expected {expected}, got {reason}") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their ends, each with its number, from 1; a byte
    order mark is dropped. ValueError names the line that is not UTF-8."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, row {number}: expected UTF-8, got byte "
                    f"0x{line[error.start]:02x} at offset {error.start} "
                    f"({error.reason})"
                ) from None
