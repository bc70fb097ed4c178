"""gs:// in a local folder, for tests: objects are written whole, and there is no
rename, no append and no folder. Orbax writes its arrays there by the file driver."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import secrets
from pathlib import Path
from typing import Any

import fsspec
import pytest

BUCKET = "bucket"


class FakeStore(fsspec.AbstractFileSystem):
    """An object store whose objects are the files below `root`."""

    protocol = ("gcs", "gs")
    cachable = False
    root = Path("/nonexistent")

    def _file(self, path: str) -> Path:
        name = self._strip_protocol(path)
        assert ".." not in name and "//" not in name, name
        return self.root / name

    def _ask(self, what: str, path: str) -> Path:
        """The file of an object, in a bucket that exists."""
        file = self._file(path)
        with open(self.root / f"requests-{os.getpid()}.txt", "a") as log:
            log.write(f"{what} {self._strip_protocol(path)}\n")
        if not (self.root / file.relative_to(self.root).parts[0]).is_dir():
            raise FileNotFoundError(path)
        return file

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._describe(path, self._ask("info", path))

    def find(self, path: str, detail: bool = False, **options: Any) -> Any:
        below = [file for file in self._ask("ls", path).rglob("*") if file.is_file()]
        names = sorted(str(file.relative_to(self.root)) for file in below)
        found = {name: self._describe(name, self.root / name) for name in names}
        return found if detail else names

    def _describe(self, path: str, file: Path) -> dict[str, Any]:
        name = self._strip_protocol(path)
        is_bucket = file.parent == self.root
        if file.is_file():
            content = file.read_bytes()
            md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
            return {"name": name, "size": len(content), "type": "file", "md5Hash": md5}
        if is_bucket or any(p.is_file() for p in file.rglob("*")):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        file = self._ask("ls", path)
        below = [file] if file.is_file() else [*file.glob("*")]
        found = []
        for each in below:
            try:
                found.append(self._describe(str(each.relative_to(self.root)), each))
            except FileNotFoundError:
                continue  # A folder without objects.
        if not found and file.parent != self.root:
            raise FileNotFoundError(path)
        return found if detail else [each["name"] for each in found]

    def cat_file(
        self, path: str, start: Any = None, end: Any = None, **o: Any
    ) -> bytes:
        file = self._ask("get", path)
        if not file.is_file():
            raise FileNotFoundError(path)
        return file.read_bytes()[start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **o: Any):
        file = self._ask("put", path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.root / f".{secrets.token_hex(8)}"
        partial.write_bytes(value)
        try:
            if mode == "create":
                os.link(partial, file)
            else:
                partial.rename(file)
        finally:
            partial.unlink(missing_ok=True)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        self.pipe_file(path2, self.cat_file(path1))

    def rm_file(self, path: str) -> None:
        file = self._ask("delete", path)
        if not file.is_file():
            raise FileNotFoundError(path)
        file.unlink()

    def rm(self, path: Any, recursive: bool = False, maxdepth: Any = None) -> None:
        for name in [path] if not recursive else self.find(path):
            self.rm_file(name)

    def put_file(self, lpath: str, rpath: str, *args: Any, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def get_file(self, rpath: str, lpath: str, *args: Any, **options: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            return io.BytesIO(self.cat_file(path))
        return _Upload(self, path, mode)

    def mv(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError("an object store has no rename")

    rename = move = mv

    def mkdir(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError("an object store has no folders")

    makedirs = mkdir


class _Upload(io.BytesIO):
    """One object, written when it is closed."""

    def __init__(self, store: FakeStore, path: str, mode: str) -> None:
        assert mode in ("wb", "xb"), f"an object store cannot open in mode {mode}"
        super().__init__()
        self._write = lambda data: store.pipe_file(
            path, data, mode="create" if "x" in mode else "overwrite"
        )

    def close(self) -> None:
        if not self.closed:
            self._write(self.getvalue())
        super().close()


def install(root: Path, patch: pytest.MonkeyPatch | None = None) -> None:
    """Make gs:// the folder `root` in this process, until `patch` is undone."""
    from etils.epath import backend
    from fsspec.registry import _registry
    from orbax.checkpoint._src.path import gcs_utils

    patch = patch or pytest.MonkeyPatch()
    patch.setattr(FakeStore, "root", Path(root))
    (FakeStore.root / BUCKET).mkdir(parents=True, exist_ok=True)
    for name in FakeStore.protocol:
        patch.setitem(_registry, name, FakeStore)
    # Etils keeps the file system that it found first.
    patch.setattr(backend.fsspec_backend, "_get_filesystem", fsspec.filesystem)
    patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    patch.setattr(gcs_utils, "get_kvstore_for_gcs", _kvstore)


def requests(root: Path, process: int, what: str) -> list[str]:
    """The names for which a process asked, such as those that it `put`."""
    lines = (root / f"requests-{process}.txt").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{what} ")]


def _kvstore(path: str) -> dict[str, str]:
    """The folder of an item, or a file in it, as TensorStore's driver of files takes
    it."""
    place = str(FakeStore.root / str(path).removeprefix("gs://"))
    is_file = place.endswith("/_sharding")
    return {"driver": "file", "path": place if is_file else f"{place}/"}
