"""Objects of Cloud Storage and the like, read and written through fsspec.

An object store has no folders, no rename, no append and no locks. An object is written
in one request and seen whole or not at all; a folder is what names have in common; a
listing sees all that was written before. Imports etils and fsspec, so it is itself
imported by `checks.parse_path`.
"""

from __future__ import annotations

import base64
import errno
import fnmatch
import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import fsspec
import fsspec.config
from etils.epath import gpath

from transformer.checks import LIBRARIES

# Else gcsfs asks for the kind of bucket at each request where it may not know it.
# TensorStore, which writes the arrays, writes to no zonal bucket anyway.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
# Its logged tracebacks are of errors that it raises too.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
# A listing that fsspec keeps would hide what other processes write.
for _name in (*LIBRARIES, "gcs"):
    fsspec.config.conf.setdefault(_name, {}).setdefault("use_listings_cache", False)


@contextmanager
def name_errors(path: Any) -> Iterator[None]:
    """Any failure of the store's library as an OSError in one line, or as ValueError
    where the library is not installed."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise
        if isinstance(error, FileNotFoundError):  # Its text may be a URL, or nothing.
            number = errno.ENOENT
            raise FileNotFoundError(number, os.strerror(number), str(path)) from None
        raise OSError(f"{path}: {_cause(error)}") from error
    except ImportError as error:
        library = LIBRARIES[str(path).partition(":")[0]]
        extra = " (pip install 'transformer[gcs]')" if library == "gcsfs" else ""
        raise ValueError(
            f"{path}: expected the library {library}{extra}, got none: {error}"
        ) from None
    except Exception as error:  # Of its library, its HTTP client or its credentials.
        raise OSError(f"{path}: {_cause(error)}") from error


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__


class ObjectPath(gpath.PosixGPath):
    """A name in an object store, with the methods of pathlib.Path that a run uses.

    Raises OSError as `name_errors`. Folders need not be made. Etils would make the name
    absolute on the local disk, and read no folder recursively.
    """

    @property
    def store(self) -> Any:
        """The file system of fsspec."""
        with name_errors(self):
            return fsspec.core.url_to_fs(str(self))[0]

    def absolute(self) -> ObjectPath:
        return self

    def resolve(self, strict: bool = False) -> ObjectPath:
        return self

    def expanduser(self) -> ObjectPath:
        return self

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        # The methods of fsspec answer False where access is refused, too.
        try:
            return self.info()["type"]
        except (FileNotFoundError, NotADirectoryError):
            return None

    def info(self) -> dict[str, Any]:
        """What the store says of the object. FileNotFoundError where there is none."""
        with name_errors(self):
            return self.store.info(str(self))

    def stat(self) -> Any:
        """st_size, in bytes, and length, as etils calls it."""
        found = self.info()
        return _Status(int(found.get("size") or 0), found["type"] == "directory")

    def iterdir(self) -> Iterator[ObjectPath]:
        with name_errors(self):
            names = self.store.ls(str(self), detail=False)
        root = self.store._strip_protocol(str(self)).rstrip("/")
        found = {name.rstrip("/") for name in names} - {root}  # A placeholder.
        yield from (self / name.rpartition("/")[2] for name in sorted(found))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Without `**`."""
        first, _, rest = pattern.partition("/")
        names = self.iterdir() if self.is_dir() else ()
        for path in (path for path in names if fnmatch.fnmatch(path.name, first)):
            yield from path.glob(rest) if rest else (path,)

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """The files below this folder: no folders."""
        for name in sorted(self._below()):
            if fnmatch.fnmatch(name.rpartition("/")[2], pattern):
                yield self / name

    def _below(self) -> dict[str, dict[str, Any]]:
        with name_errors(self):
            found = self.store.find(str(self), detail=True)
        root = self.store._strip_protocol(str(self)).rstrip("/")
        names = {name.removeprefix(root).lstrip("/"): found[name] for name in found}
        return {name: info for name, info in names.items() if name}

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        with name_errors(self):
            if "r" not in mode:
                return self.store.open(str(self), mode)
            file = self.store.open(str(self), "rb")
            return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

    def read_bytes(self) -> bytes:
        with name_errors(self):
            return self.store.cat_file(str(self))

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> int:
        with name_errors(self):
            self.store.pipe_file(str(self), data)
        return len(data)

    def write_text(self, data: str, *args: Any, **options: Any) -> int:
        return self.write_bytes(data.encode())

    def create(self, data: bytes) -> bool:
        """Write the object unless there is one; whether there was none. Of several
        processes that do so at once, one gets True."""
        try:
            with name_errors(self):
                self.store.pipe_file(str(self), data, mode="create")
        except FileExistsError:
            return False
        return True

    def put(self, file: Any) -> None:
        """Write the object from a local file."""
        with name_errors(self):
            self.store.put_file(os.fspath(file), str(self))

    def copy(self, dst: Any, overwrite: bool = False) -> ObjectPath:
        with name_errors(self):
            self.store.cp_file(str(self), str(dst))
        return type(self)(str(dst))

    def mkdir(self, *args: Any, **options: Any) -> None:
        """Nothing: a folder is there once something is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            with name_errors(self):
                self.store.rm_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self, missing_ok: bool = False) -> None:
        try:
            with name_errors(self):
                self.store.rm(str(self), recursive=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: Any) -> Any:
        raise OSError(f"{self}: an object store has no rename")

    replace = rename

    def md5s(self) -> dict[str, str]:
        """The MD5, hexadecimal, of each file below this folder of which the store knows
        it, by its path in the folder: one listing."""
        known = {name: _facts(info).md5 for name, info in self._below().items()}
        return {name: md5 for name, md5 in known.items() if md5}

    def facts(self) -> dict[str, Facts]:
        """The facts of each file below this folder, by its path in it, from one
        listing; of a file, its own, by an empty path."""
        own = self.info() if self.exists() else {}
        below = {"": own} if own.get("type") == "file" else self._below()
        return {name: _facts(info) for name, info in below.items()}

    def fetch(self, target: Any, names: Sequence[str]) -> None:
        """Copy files below this folder, or this file, whose name is empty, to the local
        folder, or file, `target`."""
        places = [os.path.join(target, name) if name else str(target) for name in names]
        for place in {os.path.dirname(place) for place in places}:
            os.makedirs(place, exist_ok=True)
        with name_errors(self):
            self.store.get([str(self / name) for name in names], places)

    def upload(self, source: Any) -> None:
        """Write the object from the local file `source`: whole, or not at all."""
        with name_errors(self):
            self.store.put_file(os.fspath(source), str(self))


class Facts(NamedTuple):
    """What a listing says of an object. identity: changes with its content."""

    size: int
    md5: str | None
    identity: str


class _Status:
    def __init__(self, size: int, is_directory: bool) -> None:
        self.st_size = self.length = size
        self.is_directory, self.mtime = is_directory, 0


def check_access(flag: str, folder: Any) -> None:
    """Raise ValueError, in one line, where the bucket of `folder` cannot be listed: no
    library, no credentials, no such bucket."""
    bucket = type(folder)("/".join(str(folder).split("/")[:3]))
    try:
        if not folder.exists():
            bucket.info()
    except FileNotFoundError:
        raise ValueError(
            f"{flag}: expected a bucket that exists, got {bucket}"
        ) from None
    except OSError as error:
        raise ValueError(f"{flag}: expected access to a bucket, got {error}") from None


def _facts(info: dict[str, Any]) -> Facts:
    md5 = info.get("md5Hash")
    size, known = (
        int(info.get("size") or 0),
        md5 or info.get("ETag") or info.get("etag"),
    )
    identity = known or info.get("generation") or info.get("mtime")
    md5 = base64.b64decode(md5).hex() if md5 else None
    return Facts(size, md5, f"{size} {identity}")
