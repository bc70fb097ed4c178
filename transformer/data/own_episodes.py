"""The user's own episodes: a folder of `.npz` files, one for each.

Arrays `observations` [T, O], `actions` [T] of whole numbers or [T, A], and `rewards`
[T]: what was seen, what was done on it, what it brought. Nothing is unpickled. The
files with the smallest sha256 of their path are held out.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from transformer.data import own, own_files
from transformer.data.records import Records

NAMES = ("observations", "actions", "rewards")


def _episode(path: Path) -> dict[str, np.ndarray]:
    """One file's arrays, float32 but for actions of whole numbers, int32."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if name in NAMES}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path}: expected arrays in .npz, got {error}") from None
    for name in NAMES:
        if name not in found:
            raise ValueError(
                f"{path}: expected an array {name!r}, got {', '.join(found) or 'none'}"
            )
        if found[name].dtype.kind not in "fiub":
            raise ValueError(
                f"{path}: expected {name} of numbers, got {found[name].dtype}"
            )
    lengths = {name: len(a) if a.ndim else 0 for name, a in found.items()}
    if len(set(lengths.values())) > 1 or not lengths["rewards"]:
        raise ValueError(
            f"{path}: expected as many observations as actions and rewards, at least "
            f"1, got {lengths}"
        )
    dimensions = {name: array.ndim for name, array in found.items()}
    if (dimensions["observations"], dimensions["rewards"]) != (2, 1):
        raise ValueError(
            f"{path}: expected observations [T, O] and rewards [T], got the shapes "
            f"{[list(found[name].shape) for name in ('observations', 'rewards')]}"
        )
    whole = found["actions"].dtype.kind in "iub"
    return {
        name: array.astype(np.int32 if name == "actions" and whole else np.float32)
        for name, array in found.items()
    }


def read(path: Path, *, held_out: float) -> Records:
    """`observations` [N, T, O], `actions`, `rewards`, zeros behind an episode's end,
    and `length` int32 [N]. ValueError, naming the file, where arrays are missing or do
    not fit each other or the first file's."""
    files = (
        [p for p in own.listing(path) if p.suffix == ".npz"] if path.is_dir() else []
    )
    if len(files) < 2:
        raise ValueError(
            f"{path}: expected a folder of 2 .npz files or more, got {len(files)}"
        )
    episodes = [_episode(file) for file in files]
    for file, episode in zip(files, episodes, strict=True):
        for name in NAMES:
            first, here = episodes[0][name], episode[name]
            if (first.shape[1:], first.dtype) != (here.shape[1:], here.dtype):
                raise ValueError(
                    f"{file}: expected {name} of {first.dtype} {list(first.shape[1:])} "
                    f"a step as in {files[0].name}, got {here.dtype} "
                    f"{list(here.shape[1:])}"
                )
    length = np.array([len(episode["rewards"]) for episode in episodes], np.int32)
    arrays = {"length": length}
    for name in NAMES:
        first = episodes[0][name]
        whole = np.zeros((len(files), length.max(), *first.shape[1:]), first.dtype)
        for row, episode in zip(whole, episodes, strict=True):
            row[: len(episode[name])] = episode[name]
        arrays[name] = whole
    names = [file.relative_to(path).as_posix() for file in files]
    held = own_files.held_out(names, held_out)
    train, validation = own_files.parted(arrays, held)
    return Records(str(path), own_files.identity(path, files), train, validation)
