"""Data in an object store, copied to this host once: readers of tables, images and
models need files of a file system."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformer import checks, hub_cache, storage

FOLDER = "remote"


def local_copy(
    source: Any, *, flag: str = "data", is_wanted: Callable[[str], bool] | None = None
) -> Path:
    """The copy of a file or folder of an object store in the cache of this host, made
    where there is none; a path of a file system is itself.

    It is found by the content of the store's listing, so that a changed file is copied
    again, and the same content is the same data on each host. is_wanted: of the paths
    of files in a folder; all but hidden ones by default. ValueError, in one line, where
    there is nothing, no access or no space.
    """
    path: Any = checks.parse_path(source)
    if not checks.is_remote(path):
        return path
    from transformer import object_store

    object_store.check_access(flag, path)
    try:
        facts = path.facts()
    except OSError as error:
        raise ValueError(f"{flag}: expected a file or folder, got {error}") from None
    names = sorted(filter(is_wanted or _is_shown, facts))
    if not names:
        raise ValueError(f"{flag}: expected a file or folder, got none at {path}")
    identities = (f"{name} {facts[name].identity}" for name in names)
    key = storage.short_hash(path.name, *identities)

    def copy(folder: Path) -> None:
        size = sum(facts[name].size for name in names)
        print(
            f"{path}: {len(names)} files, {size / 1e6:.1f} MB, copied once", flush=True
        )
        path.fetch(folder / path.name, names)
        for name in names:
            _check(folder / path.name / name, facts[name].md5, str(path / name))

    return storage.cached_folder(f"{FOLDER}/{key}", copy) / path.name


def model_copy(folder: Path) -> Path:
    """`local_copy` of the files of a model of another library; also of those in a run
    folder, without what the run writes. Of a cache of the Hub the snapshot."""
    folder = hub_cache.resolve(folder)
    return local_copy(folder, flag="--init_from", is_wanted=_is_of_model)


# What a run writes again and again, beside the files of the model.
RUN_FILES = ("run.json", "best.json", "cost.json", "finished.json")
MODEL_SUFFIXES = (".json", ".txt", ".model", ".spm", ".jinja", ".safetensors", ".gguf")


def _is_of_model(name: str) -> bool:
    suffix = os.path.splitext(name)[1]
    of_model = name not in RUN_FILES and suffix in MODEL_SUFFIXES
    return not name or ("/" not in name and of_model)


def _is_shown(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _check(file: Path, md5: str | None, name: str) -> None:
    """Raise ValueError where a copy is not what the listing said. A copy has no time of
    its own: data are the same on each host."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "md5").hexdigest()  # pyright: ignore
    if md5 not in (None, found):
        raise ValueError(f"{name}: it changed while it was copied; start again")
    os.utime(file, ns=(0, 0))


def portable_name(path: Path) -> str:
    """The path of a file for a fingerprint of data; of a copy, that within the cache,
    which other hosts may have elsewhere."""
    root = storage.cache_home().resolve() / FOLDER
    resolved = path.resolve()
    return str(resolved.relative_to(root) if root in resolved.parents else resolved)
