"""Whether files are as they were written: their SHA-256 in a small JSON file beside."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path


def files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write(folder: Path, name: str, paths: Iterable[Path]) -> None:
    """Leave the digests of `paths`, which lie below `folder`, in folder/name; at once
    or not at all."""
    found = {path.relative_to(folder).as_posix(): _digest(path) for path in paths}
    partial = folder / f"{name}.partial"
    with partial.open("w") as file:
        json.dump(found, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / name)


def broken(folder: Path, name: str) -> str | None:
    """What is wrong with the first damaged file that folder/name tells of, or None."""
    try:
        expected = json.loads((folder / name).read_bytes())
        told = sorted((str(path), str(digest)) for path, digest in expected.items())
    except OSError as error:
        return f"{name}: {error.strerror}"
    except (ValueError, AttributeError):
        return f"{name}: expected JSON of digests, got something else"
    for path, digest in told:
        try:
            if _digest(folder / path) != digest:
                return f"{path}: expected the content that {name} tells of, got other"
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            return f"{path}, of which {name} tells: {cause}"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
