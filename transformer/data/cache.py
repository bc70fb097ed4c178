"""Things prepared once per machine: a folder for each, made whole or not at all.

They live in `$XDG_CACHE_HOME/transformer` (or `~/.cache/transformer`). A folder is
built under another name, sealed with the checksums of its files, and renamed; a file
lock beside it lets one of several processes build while the others wait. A folder whose
files no longer agree with their seal is built again. Everything here can be deleted at
any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SEAL = "seal.json"
_BLOCK_BYTES = 1 << 20
_BLOCKS = 256


def home() -> Path:
    """The user's cache folder for this project."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "transformer"


def digest(*parts: str | bytes) -> str:
    """16 hexadecimal digits of sha256 over the parts and their boundaries."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:16]


def checksum(path: Path) -> list[int]:
    """[size, crc32] of a file; beyond 256 MiB the crc is of 256 blocks all over it."""
    size, crc = path.stat().st_size, 0
    places = range(0, size, _BLOCK_BYTES)
    if len(places) > _BLOCKS:
        last = size - _BLOCK_BYTES
        places = [last * number // (_BLOCKS - 1) for number in range(_BLOCKS)]
    with open(path, "rb") as file:
        for place in places:
            file.seek(place)
            crc = zlib.crc32(file.read(_BLOCK_BYTES), crc)
    return [size, crc]


def _checksums(folder: Path) -> dict[str, list[int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): checksum(path)
        for path in files
        if path.name != SEAL
    }


def sound(folder: Path) -> bool:
    """Whether every file of `folder` is as it was when sealed."""
    try:
        return json.loads((folder / SEAL).read_bytes()) == _checksums(folder)
    except (OSError, ValueError):
        return False


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other processes and threads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _rebuild(path: Path, build: Callable[[Path], None]) -> None:
    fresh = path.with_name(path.name + ".building")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        build(fresh)
        (fresh / SEAL).write_text(json.dumps(_checksums(fresh)))
        if path.exists():
            shutil.rmtree(path)
        fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def folder(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `build(empty folder)` fills it if need be.

    ValueError when the cache cannot be written (read-only, disk full).
    """
    path = home() / name
    if sound(path):
        return path
    try:
        with locked(path.with_name(path.name + ".lock")):
            if not sound(path):
                _rebuild(path, build)
    except OSError as error:
        raise ValueError(
            f"cannot prepare {path}: {error.strerror or error} "
            "(expected a writable folder with space; XDG_CACHE_HOME names another)"
        ) from error
    return path
