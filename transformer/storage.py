"""Files and folders: atomic commit, SHA-256, exclusive claim, cached folders.

A name is committed with all of its content or not at all, and claimed by one process at
a time: on a file system by a rename and a lock, in an object store by one request and a
lease. Only this module knows which (with `checkpoint`, where Orbax writes).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from transformer import checks

# In a cached folder: the digests of its other files. A folder that differs from them is
# incomplete or damaged, and is built again.
SEAL = "seal.json"
# The names of scratch folders begin so; those of a killed process stay.
SCRATCH = "scratch-"
_BLOCK_BYTES = 1 << 20
_BLOCKS = 64


@contextmanager
def name_os_errors(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file, as those of a full disk do."""
    try:
        yield
    except OSError as error:
        if error.strerror and error.filename is None:
            error.filename = str(path)
        raise


def commit(path: Path, content: bytes) -> None:
    """Write or replace `path`: all of `content`, or no change.

    A full disk or a signal leaves the earlier file, and nothing beside it. Raises
    OSError with the path.
    """
    if checks.is_remote(path):
        path.write_bytes(content)
        return
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with name_os_errors(path):
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def commit_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """`commit` each of `files`, by its path within `folder`, whose folders are made."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        commit(folder / name, content)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """An empty folder on this machine, removed afterwards: within `folder`, which is
    made, or elsewhere where that is in an object store."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = None if checks.is_remote(folder) else folder
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=beside) as made:
        yield Path(made)


def commit_file(path: Path, local: Path) -> None:
    """Move `local`, a finished file of a `scratch_folder`, to `path`: all of it, or no
    change. Raises OSError with the path."""
    if checks.is_remote(path):
        remote: Any = path
        remote.upload(local)
        return
    with name_os_errors(path):
        with open(local, "rb") as file:
            os.fsync(file.fileno())
        local.replace(path)


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Exclude all other processes and threads that claim `path`; wait for them.

    `path` need not exist; `path`.lock beside it is left behind. A claim ends with its
    process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claim_or_refuse(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` for this process; ValueError, which names the process
    that has it, where another one does.

    The file says who holds it (process, host, since when) and is left behind; a claim
    ends with its process, however that ends. In an object store it is a lease.
    """
    if checks.is_remote(path):
        from transformer import leases

        with leases.hold(path, what):
            yield
        return
    with checks.refuse_unreadable():
        opened = open(checks.regular_file(path), "a+b")  # noqa: SIM115
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "an unknown one"
            raise ValueError(
                f"{what}: expected no other process that trains there, got {holder}"
            ) from None
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        line = f"process {os.getpid()} on {socket.gethostname()}, since {since}"
        file.truncate(0)
        file.write(line.encode())
        file.flush()
        yield


def upload(file: Path, path: Path) -> None:
    """Write the object `path` of a store from a local file, which memory need not hold;
    all of it, or nothing."""
    target: Any = path
    target.put(file)


def sha256(content: bytes | Path) -> str:
    """SHA-256 of bytes or of a file's content, 64 hexadecimal digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with checks.regular_file(content).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore


MD5 = "md5:"


def _known_digests(folder: Path) -> dict[str, str]:
    """Of the files below a folder in an object store, by their path in it, the MD5 that
    the store computed, after "md5:": no content is read. Empty on a file system."""
    known: Any = folder
    found = known.md5s() if checks.is_remote(folder) else {}
    return {name: MD5 + digest for name, digest in found.items()}


def _digest_like(expected: str, path: Path) -> str:
    """The digest of `path` of the kind of `expected`: a run folder may be a copy of one
    in an object store."""
    if not expected.startswith(MD5):
        return sha256(path)
    with checks.regular_file(path).open("rb") as file:
        return MD5 + hashlib.file_digest(file, "md5").hexdigest()  # pyright: ignore


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text. ValueError for what is none, and for a key that an
    object has twice: `json.loads` would take its last value, in silence."""
    return json.loads(content, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(n for place, n in enumerate(names) if n in names[:place])
        raise ValueError(f"the key {_shorten(twice)} more than once")
    return found


def read_json(file: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in `file`. ValueError, in one line, for anything else, and as
    `checks.regular_file` and `check_fields`."""
    checks.regular_file(file)
    try:
        value = parse_json(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        cause = getattr(error, "strerror", None) or str(error) or "nested too deep"
        raise ValueError(f"{file}: expected JSON, got {cause}") from None
    check_fields(str(file), value, fields)
    return value


def check_fields(where: str, value: Any, fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless `value` is a dictionary that has each of `fields` with
    its type (or one of a tuple of types); true and false are no numbers."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_shorten(value)}")
    for name, kind in fields.items():
        got = value.get(name, "nothing")
        right = isinstance(got, kind) and (not isinstance(got, bool) or kind is bool)
        if name not in value or not right:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            words = " or ".join(_JSON_WORDS[k] for k in kinds)
            raise ValueError(f"{where}: {name}: expected {words}, got {_shorten(got)}")


_JSON_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
    bool: "true or false",
    type(None): "null",
}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def short_hash(*parts: str | bytes) -> str:
    """16 hexadecimal digits of SHA-256 over the parts and their lengths."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:16]


def sampled_sha256(path: Path) -> str:
    """SHA-256 of a file's size and content; beyond 64 MiB, of 64 blocks spread over it.

    A cached folder is verified at every start: this takes a tenth of a second a file.
    """
    size = checks.regular_file(path).stat().st_size
    offsets = range(0, size, _BLOCK_BYTES)
    if len(offsets) > _BLOCKS:
        last = size - _BLOCK_BYTES
        offsets = [last * number // (_BLOCKS - 1) for number in range(_BLOCKS)]
    state = hashlib.sha256(size.to_bytes(8, "little"))
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            state.update(file.read(_BLOCK_BYTES))
    return state.hexdigest()


def files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted."""
    found = folder.rglob("*")
    return sorted(found if checks.is_remote(folder) else filter(Path.is_file, found))


def move(path: Path, target: Path, *, last: str = "") -> None:
    """Move a file or folder to `target`, which is not there.

    In an object store, which has no rename, the files are copied, then removed; the
    file `last` in a folder is copied last and removed first, so that it is there only
    with all others.
    """
    if not checks.is_remote(path):
        shutil.move(path, target)
        return
    moved = [path] if path.is_file() else files(path)
    moved.sort(key=lambda file: file == path / last)
    source: Any
    for source in moved:
        source.copy(target / source.relative_to(path), overwrite=True)
    for source in reversed(moved):
        source.unlink()


def write_digests(
    folder: Path,
    name: str,
    paths: Iterable[Path],
    digest: Callable[[Path], str] = sha256,
) -> None:
    """Commit folder/name: JSON of the digest of each of `paths`, which are below. In an
    object store it is the MD5 that the store knows."""
    known = _known_digests(folder)
    names = ((path.relative_to(folder).as_posix(), path) for path in paths)
    digests = {name: known.get(name) or digest(path) for name, path in names}
    commit(folder / name, json.dumps(digests).encode())


def first_mismatch(
    folder: Path, name: str, digest: Callable[[Path], str] | None = None
) -> str | None:
    """The first file whose digest is not that in folder/name, and why; None if all
    agree. Files that folder/name does not list are not compared."""
    try:
        content = json.loads(checks.regular_file(folder / name).read_bytes())
        digests = sorted((str(path), str(value)) for path, value in content.items())
        known = _known_digests(folder)
    except OSError as error:
        return f"{name}: {error.strerror or error}"
    except (ValueError, AttributeError):
        return f"{name}: expected JSON of digests, got something else"
    for path, expected in digests:
        try:
            file, found = folder / path, known.get(path, "")
            if not expected.startswith(MD5) or not found:
                found = digest(file) if digest else _digest_like(expected, file)
            if found != expected:
                return f"{path}: expected the digest in {name}, got another"
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            return f"{path}, listed in {name}: {cause}"
    return None


def cache_home() -> Path:
    """`$XDG_CACHE_HOME/transformer`, or `~/.cache/transformer`. May be deleted."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "transformer"


def cached_folder(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `build(empty folder)` makes it where there is
    none, or where its files differ from their digests.

    One of several processes builds, the others wait. Raises ValueError when the cache
    cannot be written (read-only, disk full).
    """
    path = cache_home() / name
    if is_intact(path):
        return path
    try:
        with claim(path):
            if not is_intact(path):
                _rebuild(path, build)
    except OSError as error:
        raise ValueError(
            f"cannot prepare {path}: {error.strerror or error} "
            "(expected a writable folder with space; XDG_CACHE_HOME names another)"
        ) from error
    return path


def is_intact(folder: Path) -> bool:
    """Whether a cached folder has the files it was built with, and no others."""
    try:
        seal = checks.regular_file(folder / SEAL)
        sealed = set(json.loads(seal.read_bytes()))
    except (OSError, ValueError, TypeError):
        return False
    return (
        sealed == {path.relative_to(folder).as_posix() for path in _content(folder)}
        and first_mismatch(folder, SEAL, sampled_sha256) is None
    )


def _content(folder: Path) -> list[Path]:
    return [path for path in files(folder) if path.name != SEAL]


def _rebuild(path: Path, build: Callable[[Path], None]) -> None:
    building = path.with_name(path.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        build(building)
        write_digests(building, SEAL, _content(building), sampled_sha256)
        if path.exists():
            shutil.rmtree(path)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)
