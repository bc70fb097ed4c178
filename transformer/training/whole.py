"""Files that are there whole or not at all, whatever befalls their writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(file: Path, content: bytes) -> None:
    """Replace `file` by `content` at once. What is in the way, a full disk or a signal,
    leaves the file as it was, and nothing beside it. Raises OSError, which names it."""
    fresh = file.with_name(file.name + ".fresh")
    try:
        with naming(file):
            fresh.write_bytes(content)
            fresh.replace(file)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError from within names `path`: the system names a file that cannot be
    opened, but not one that cannot be written any further."""
    try:
        yield
    except OSError as error:
        if error.strerror and error.filename is None:
            error.filename = str(path)
        raise
