"""Tensors in safetensors files, one file or shards with an index, both ways.

Reading maps the files into memory: a tensor is a view, and only the part that is used
is read. Writing holds one shard in memory, and commits a new folder as a whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from transformer import checks, storage
from transformer.interchange import other_files

# Names begin with a stem: "model" of transformers, another of diffusers.
STEM = "model"
SINGLE, INDEX = f"{STEM}.safetensors", f"{STEM}.safetensors.index.json"
MAX_JSON_BYTES = 64 * 2**20
MAX_SHARD_BYTES = 5 * 10**9
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_POINTER = b"version https://git-lfs"


class StoredTensor(Protocol):
    """A tensor of a file of any format: read() -> its values, of `dtype`, a name of
    safetensors."""

    @property
    def dtype(self) -> str:
        """Such as "BF16"."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The slowest axis first."""
        ...

    def read(self) -> np.ndarray:
        """The values, mapped or made."""
        ...


class Tensor(NamedTuple):
    """A tensor of a file: dtype (a name of safetensors, such as "BF16") and shape; its
    values begin at byte `offset` of `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    def read(self) -> np.ndarray:
        """The values, mapped: reading happens where they are used. ValueError for a
        dtype that is no array of numbers here (quantized or packed)."""
        if self.dtype not in DTYPES:
            raise ValueError(
                f"{self.file.name}: expected values of {', '.join(DTYPES)}, got "
                f"{self.dtype}"
            )
        dtype, size = np.dtype(DTYPES[self.dtype]), int(np.prod(self.shape))
        if not size:
            return np.zeros(self.shape, dtype)
        # As bytes, because a tensor may begin at any offset.
        raw = np.memmap(self.file, np.uint8, "r", self.offset, (size * dtype.itemsize,))
        return np.asarray(raw).view(dtype).reshape(self.shape)


def read_json_file(file: Path) -> dict[str, Any]:
    """The JSON object in `file`, of at most `MAX_JSON_BYTES`. ValueError otherwise."""
    if checks.regular_file(file).exists() and file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(
            f"{file}: expected at most {MAX_JSON_BYTES} bytes of JSON, got "
            f"{file.stat().st_size}"
        )
    return storage.read_json(file, {})


def has_tensors(folder: Path, stem: str = STEM) -> bool:
    """Whether a folder has safetensors of this stem."""
    names = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    return any((folder / name).is_file() for name in names)


def open_tensors(folder: Path, stem: str = STEM) -> dict[str, Tensor]:
    """The tensors of a folder, by name. ValueError, in one line, for a folder without
    safetensors, and for files or an index that contradict themselves."""
    single = folder / f"{stem}.safetensors"
    index = folder / f"{stem}.safetensors.index.json"
    either = f"{single.name} or {index.name}"
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with {single.name}, got none")
    if single.is_file() and index.is_file():
        raise ValueError(f"{folder}: expected {either}, got both")
    if index.is_file():
        return _open_shards(index, read_json_file(index))
    if single.is_file():
        return open_file(single)
    found = other_files.weights(folder, stem) or "neither"
    raise ValueError(f"{folder}: expected {either}, got {found}")


def open_file(file: Path) -> dict[str, Tensor]:
    """The tensors of one file. ValueError for a header that is damaged, too large, or
    that does not agree with the file's size."""
    checks.regular_file(file)
    try:
        # The library checks sizes, offsets and overlaps.
        with safetensors.safe_open(file, framework="numpy"):
            pass
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = storage.parse_json(opened.read(length))
    except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        cause = getattr(error, "strerror", None) or str(error) or "nested too deep"
        if _is_pointer(file):
            cause = "a pointer of Git LFS; `git lfs pull` fetches the file"
        raise ValueError(f"{file}: expected safetensors, got {cause}") from None
    return {
        name: Tensor(
            entry["dtype"],
            tuple(entry["shape"]),
            file,
            8 + length + entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _is_pointer(file: Path) -> bool:
    """Whether a clone without Git LFS has left a pointer in the place of a file."""
    try:
        with open(file, "rb") as opened:
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _open_shards(file: Path, index: Mapping[str, Any]) -> dict[str, Tensor]:
    storage.check_fields(str(file), index, {"weight_map": dict})
    listed: dict[str, set[str]] = {}
    for name, shard in index["weight_map"].items():
        # No path, so that an index names no file outside its folder.
        if not isinstance(shard, str) or not re.fullmatch(
            r"[\w.-]+\.safetensors", shard
        ):
            raise ValueError(
                f"{file}: {name}: expected the name of a .safetensors file "
                f"beside it, got {shard!r}"
            )
        listed.setdefault(shard, set()).add(name)
    tensors: dict[str, Tensor] = {}
    for shard, names in sorted(listed.items()):
        opened = open_file(file.parent / shard)
        if opened.keys() != names:
            differs = sorted(opened.keys() ^ names)
            raise ValueError(
                f"{file.parent / shard}: expected the tensors that {file.name} lists, "
                f"got {len(differs)} others or missing: {differs[0]}"
            )
        tensors |= opened
    return tensors


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, that becomes `folder` at the end: all of it or nothing.
    ValueError where `folder` exists."""
    if folder.exists():
        raise ValueError(f"{folder}: expected a folder that does not exist yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class PlannedTensor(NamedTuple):
    """A tensor to write: its name, shape, dtype of numpy and bytes, and a function that
    makes its values."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    size: int
    make: Callable[[], np.ndarray]


def write_tensors(
    folder: Path,
    tensors: Sequence[PlannedTensor],
    *,
    stem: str = STEM,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write one file, or shards with an index where there are more than
    `max_shard_bytes`; one shard is in memory at a time."""
    shards = _group(tensors, max_shard_bytes)
    names = [
        f"{stem}-{i:05}-of-{len(shards):05}.safetensors"
        if len(shards) > 1
        else f"{stem}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for name, shard in zip(names, shards, strict=True):
        # `ascontiguousarray` would give a scalar an axis.
        values = {one.name: np.asarray(one.make(), order="C") for one in shard}
        with storage.name_os_errors(folder / name):
            # The metadata that transformers asks for.
            safetensors.numpy.save_file(values, folder / name, {"format": "pt"})
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(one.size for one in tensors)},
            "weight_map": {
                one.name: name
                for name, shard in zip(names, shards, strict=True)
                for one in shard
            },
        }
        file = folder / f"{stem}.safetensors.index.json"
        storage.commit(file, json.dumps(index, indent=2).encode())


def _group(tensors: Sequence[PlannedTensor], limit: int) -> list[list[PlannedTensor]]:
    groups: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(t.size for t in groups[-1]) + tensor.size > limit:
            groups.append([])
        groups[-1].append(tensor)
    return groups
