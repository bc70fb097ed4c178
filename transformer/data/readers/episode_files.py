"""The user's own episodes: a folder of `.npz` files, one for each.

Arrays `observations` [T, O], `actions` [T] of whole numbers from 0 or [T, A], and
`rewards` [T]. Nothing is unpickled. The files with the smallest sha256 of their path
are held out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transformer.data.readers import files as own_files
from transformer.data.readers import text_files
from transformer.data.records import Records

NAMES = ("observations", "actions", "rewards")
# Each is a token of the model, as those of a vocabulary.
MAX_ACTION = 2**20 - 1


def _discrete_actions(path: Path, actions: np.ndarray) -> np.ndarray:
    """int32; ValueError names the first step whose action is out of range."""
    wrong = np.flatnonzero((actions < 0) | (actions > MAX_ACTION))
    if len(wrong):
        raise ValueError(
            f"{path}: expected actions from 0 to {MAX_ACTION}, got "
            f"{actions[wrong[0]]} at step {wrong[0]}"
        )
    return actions.astype(np.int32)


def _finite(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """float32; ValueError names the first step that is not finite."""
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    wrong = np.argwhere(~np.isfinite(numbers))
    if len(wrong):
        raise ValueError(
            f"{path}: expected finite {name}, got {array[tuple(wrong[0])]} at step "
            f"{wrong[0, 0]}"
        )
    return numbers


def _episode(path: Path) -> dict[str, np.ndarray]:
    """One file's arrays, float32, but int32 for `actions` [T] of integers."""
    found = own_files.npz_arrays(path, required=NAMES)
    for name, array in found.items():
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{path}: expected {name} of numbers, got {array.dtype}")
    lengths = {name: len(a) if a.ndim else 0 for name, a in found.items()}
    if len(set(lengths.values())) > 1 or not lengths["rewards"]:
        raise ValueError(
            f"{path}: expected as many observations as actions and rewards, at least "
            f"1, got {lengths}"
        )
    actions = found["actions"]
    discrete = actions.ndim == 1 and actions.dtype.kind in "iub"
    dimensions = {"observations": 2, "actions": 1 if discrete else 2, "rewards": 1}
    for name, array in found.items():
        if array.ndim != dimensions[name]:
            raise ValueError(
                f"{path}: expected observations [T, O], actions [T] of whole numbers "
                f"or [T, A], rewards [T]; got {name} of {array.dtype} "
                f"{list(array.shape)}"
            )
    made = {name: _finite(path, name, array) for name, array in found.items()}
    return made | ({"actions": _discrete_actions(path, actions)} if discrete else {})


def read(path: Path, *, held_out: float) -> Records:
    """`observations` [N, T, O], `actions`, `rewards`, padded with zeros, and `length`
    int32 [N]. ValueError, naming the file, where arrays are missing or their shapes do
    not match each other or the first file's."""
    files = (
        [p for p in text_files.listing(path) if p.suffix == ".npz"]
        if path.is_dir()
        else []
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
        padded = np.zeros((len(files), length.max(), *first.shape[1:]), first.dtype)
        for row, episode in zip(padded, episodes, strict=True):
            row[: len(episode[name])] = episode[name]
        arrays[name] = padded
    names = [file.relative_to(path).as_posix() for file in files]
    held = own_files.held_out(names, held_out)
    train, validation = own_files.split(arrays, held)
    return Records(str(path), own_files.fingerprint(path, files), train, validation)
