"""Files of a run folder that grow, or that another library writes. In an object store
they are written in a local folder of their own, and uploaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transformer import checks, storage


class GrowingFile:
    """A file to which lines are added.

    local: the file to write; `path` itself on a file system. In an object store, which
    cannot append, `sync` writes `path` again, with all of its content.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.local = path
        self.is_remote = checks.is_remote(path)
        self._size = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.is_remote:
            self._folder = tempfile.TemporaryDirectory(prefix="transformer-")
            self.local = Path(self._folder.name) / path.name
            content = path.read_bytes() if path.exists() else b""
            self.local.write_bytes(content)
            self._size = len(content)

    def sync(self) -> None:
        """Upload what was added. The writer has flushed it. Raises OSError."""
        if self.is_remote and self.local.stat().st_size != self._size:
            content = self.local.read_bytes()
            storage.commit(self.path, content)
            self._size = len(content)

    def close(self) -> None:
        """Sync, and remove the local file of an object store."""
        if self.is_remote:
            try:
                self.sync()
            finally:
                self._folder.cleanup()


class OutputFolder:
    """A folder that another library writes.

    local: the folder to write, which is not there yet; `path` itself on a file system.
    """

    def __init__(self, path: Path) -> None:
        self.path = self.local = path
        if checks.is_remote(path):
            self._folder = tempfile.TemporaryDirectory(prefix="transformer-")
            self.local = Path(self._folder.name) / path.name

    def upload(self) -> None:
        """Upload all files, and remove the local folder of an object store."""
        if self.local is self.path:
            return
        for file in storage.files(self.local):
            name = file.relative_to(self.local).as_posix()
            storage.upload(file, self.path / name)
        self._folder.cleanup()
