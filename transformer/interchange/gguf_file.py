"""GGUF files: metadata and tensors, mapped into memory.

The header is read here, within bounds, because a count or a length in it may lie; the
`gguf` package dequantizes blocks (extra `gguf`), one tensor at a time.
"""

from __future__ import annotations

import importlib
import mmap
import struct
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer import checks
from transformer.interchange import tensor_files

SUFFIX, MAGIC = ".gguf", b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER_BYTES = 256 * 2**20
MAX_AXES = 4
# The codes of scalars in metadata; strings are 8, arrays 9.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
SCALARS |= {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# The codes of tensors that are arrays of floats.
FLOATS = {0: "F32", 1: "F16", 28: "F64", 30: "BF16"}


class GgufTensor(NamedTuple):
    """A tensor of a file, as `tensor_files.StoredTensor`. dtype: of what `read` gives,
    F32 for a quantized one. code: of its storage. shape: the slowest axis first."""

    dtype: str
    shape: tuple[int, ...]
    code: int
    file: Path
    offset: int
    size: int

    def read(self) -> np.ndarray:
        """The values; those of floats are mapped, those of blocks dequantized."""
        raw = self.read_bytes()
        if self.code in FLOATS:
            return raw.view(tensor_files.DTYPES[self.dtype]).reshape(self.shape)
        rows = raw.reshape(*self.shape[:-1], -1)
        return _dequantize(rows, self.code).astype(np.float32, copy=False)

    def read_bytes(self) -> np.ndarray:
        """The bytes in the file, mapped."""
        mapped = np.memmap(self.file, np.uint8, "r", self.offset, (self.size,))
        return np.asarray(mapped)


class GgufHeader(NamedTuple):
    """What a file says: values by key, tensors by name."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


class _Cursor:
    """Bytes of a header, read one after another; ValueError at the end."""

    def __init__(self, buffer: mmap.mmap, file: Path) -> None:
        self.buffer, self.file, self.place = buffer, file, 0
        self.end = min(len(buffer), MAX_HEADER_BYTES)

    def error(self, expected: str, got: Any) -> ValueError:
        return ValueError(f"{self.file}: expected {expected}, got {str(got)[:60]}")

    def take(self, count: int) -> bytes:
        if count > self.end - self.place:
            given = f"{self.end - self.place} before its end or limit"
            raise self.error(f"a GGUF header of {count} more bytes", given)
        self.place += count
        return self.buffer[self.place - count : self.place]

    def scalar(self, letter: str) -> Any:
        return struct.unpack("<" + letter, self.take(struct.calcsize("<" + letter)))[0]

    def count(self, what: str, *, least_bytes: int) -> int:
        """A count of things that have `least_bytes` each."""
        count = self.scalar("Q")
        if count > (self.end - self.place) // least_bytes:
            raise self.error(f"as many {what} as there are bytes", count)
        return count

    def string(self) -> str:
        length = self.scalar("Q")
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.error("UTF-8", raw[:30]) from None

    def value(self, code: int) -> Any:
        if code in SCALARS:
            return self.scalar(SCALARS[code])
        if code == STRING:
            return self.string()
        if code != ARRAY:
            raise self.error("metadata of a known type", f"type {code}")
        inner = self.scalar("I")
        if inner == STRING:
            count = self.count("strings", least_bytes=8)
            return [self.string() for _ in range(count)]
        if inner not in SCALARS:
            raise self.error("an array of numbers or strings", f"type {inner}")
        dtype = np.dtype(SCALARS[inner]).newbyteorder("<")
        count = self.count("numbers", least_bytes=dtype.itemsize)
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()


def read_header(file: Path) -> GgufHeader:
    """The metadata and the tensors of a file; reads no values. ValueError, in one line,
    for a file that is none, is cut, or contradicts itself."""
    checks.regular_file(file)
    try:
        with open(file, "rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: expected a GGUF file, got {error}") from None
    with mapped:
        return _read_header(_Cursor(mapped, file))


def _read_header(cursor: _Cursor) -> GgufHeader:
    if cursor.take(4) != MAGIC:
        raise cursor.error("a GGUF file", "another one")
    version = cursor.scalar("I")
    if version not in VERSIONS:
        raise cursor.error("GGUF of version 2 or 3, little-endian", version)
    num_tensors = cursor.count("tensors", least_bytes=24)
    num_values = cursor.count("values", least_bytes=13)
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = cursor.string()
        if key in metadata:
            raise cursor.error("each key once", key)
        metadata[key] = cursor.value(cursor.scalar("I"))
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**16:
        raise cursor.error("general.alignment of 1 to 65536", alignment)
    start = -(-cursor.place // alignment) * alignment
    return GgufHeader(metadata, _place(cursor, entries, start, alignment))


def _read_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, axes = cursor.string(), cursor.scalar("I")
    if not 1 <= axes <= MAX_AXES:
        raise cursor.error(f"{name} of 1 to {MAX_AXES} axes", axes)
    # The fastest axis comes first in the file.
    shape = tuple(cursor.scalar("Q") for _ in range(axes))[::-1]
    return name, shape, cursor.scalar("I"), cursor.scalar("Q")


def _place(
    cursor: _Cursor,
    entries: list[tuple[str, tuple[int, ...], int, int]],
    start: int,
    alignment: int,
) -> dict[str, GgufTensor]:
    for name, count in Counter(entry[0] for entry in entries).items():
        if count > 1:
            raise cursor.error("each tensor once", f"{name} {count} times")
    blocks = {code: _block(code, cursor.file) for code in {e[2] for e in entries}}
    tensors: dict[str, GgufTensor] = {}
    used = 0
    for name, shape, code, offset in sorted(entries, key=lambda entry: entry[3]):
        numbers, size = blocks[code]
        total = 1
        for axis in shape:
            total *= axis
        if not total or shape[-1] % numbers:
            raise cursor.error(f"{name} of whole blocks of {numbers}", list(shape))
        size = total // numbers * size
        inside = offset + size <= len(cursor.buffer) - start
        if offset % alignment or offset < used or not inside:
            raise cursor.error(
                f"{name} of {size} bytes in the file, after those before it",
                f"offset {offset}",
            )
        used = offset + size
        dtype = FLOATS.get(code, "F32")
        place = start + offset
        tensors[name] = GgufTensor(dtype, shape, code, cursor.file, place, size)
    return tensors


def _block(code: int, file: Path) -> tuple[int, int]:
    """How many numbers a block of a tensor has, and how many bytes. ValueError for a
    format that cannot be dequantized."""
    if code in FLOATS:
        return 1, np.dtype(tensor_files.DTYPES[FLOATS[code]]).itemsize
    gguf = _package(file)
    try:
        kind = gguf.GGMLQuantizationType(code)
        numbers, size = gguf.GGML_QUANT_SIZES[kind]
        gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{file}: expected tensors that are floats or can be dequantized, got "
            f"type {code}: {error}"
        ) from None
    return numbers, size


def _dequantize(rows: np.ndarray, code: int) -> np.ndarray:
    gguf = importlib.import_module("gguf")
    return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(code))


def _package(file: Path) -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise ValueError(
            f"{file}: expected the package gguf for quantized tensors, got none; "
            "pip install -e '.[gguf]'"
        ) from None
