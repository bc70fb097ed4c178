"""The cache of the Hub of Hugging Face on this machine: a folder `models--org--name`
for each model, with `blobs/`, `refs/` and `snapshots/<commit>/`, of links to blobs."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from transformer import checks

CONFIG, PREFIX, SHOWN = "config.json", "models--", 3
MAX_NAME_BYTES = 200


def is_model(path: Path) -> bool:
    """Whether `path` is the folder of one model in a cache."""
    if checks.is_remote(path) or not path.is_dir() or (path / CONFIG).exists():
        return False
    return (path / "snapshots").is_dir()


def models(path: Path) -> list[str]:
    """The names of the folders of models in `path`, where that is a cache."""
    if checks.is_remote(path) or not path.is_dir():
        return []
    return sorted(one.name for one in path.glob(f"{PREFIX}*") if one.is_dir())


def resolve(path: Path) -> Path:
    """The snapshot that `refs/main` of a model's folder names, said in one line; other
    paths are themselves. ValueError where it names none, and for a whole cache."""
    if not is_model(path):
        found = models(path)
        if found and not (path / CONFIG).exists():
            raise ValueError(
                f"{path}: expected the folder of a model, got a cache of the Hub with "
                f"{_shorten(found)}; give one of them"
            )
        return path
    name = _read_reference(path / "refs" / "main")
    snapshots = path / "snapshots"
    if name is not None and (snapshots / name).is_dir():
        _print_once(f"{path}: the snapshot {name[:12]}, as refs/main says")
        return snapshots / name
    found = sorted(str(one) for one in snapshots.iterdir() if one.is_dir())
    got = "no refs/main" if name is None else f"{name[:40]!r}, which is not there"
    expected = f"{path}: expected refs/main with the name of a snapshot, got {got}"
    if not found:
        raise ValueError(f"{expected}; no snapshot was downloaded")
    raise ValueError(f"{expected}; give the snapshot itself: {_shorten(found)}")


def _read_reference(file: Path) -> str | None:
    """The name in a file; None where there is no file, or no name of a folder."""
    if not checks.regular_file(file).exists():
        return None
    with open(file, "rb") as opened:
        text = opened.read(MAX_NAME_BYTES).decode(errors="replace").strip()
    # No path, so that a reference names no folder elsewhere.
    return text if re.fullmatch(r"\w+", text) else None


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@functools.cache
def _print_once(line: str) -> None:
    print(line, flush=True)
