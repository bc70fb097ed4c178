"""The user's own videos in class folders: animated GIF, PNG or WebP, or `.npz` files
with an array `frames`, uint8 [frames, rows, columns, 3].

    videos/jump/1.gif, videos/walk/a/7.npz, ...

The class of a file is its first folder. Of each class the files with the smallest
sha256 of their path are held out. Sub-folders `train` and `validation`, each with the
same classes, are used as given. Frames are read when they are needed, at evenly spaced
places of a video, as many as the model has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer import storage
from transformer.data.notices import print_once
from transformer.data.readers import files as own_files
from transformer.data.readers import image_files, image_folder, text_files
from transformer.data.records import Records
from transformer.data.text import documents

ARRAY = "frames"
VERSION = "1"


def even_places(frames: int, count: int) -> np.ndarray:
    """The middles of `frames` equal parts of a video of `count` frames (as temporal
    segment networks, Wang et al. 2016, arXiv 1608.00859, section 3.1); int64, rising,
    the same frame several times where `count` is smaller."""
    return (2 * np.arange(frames) + 1) * count // (2 * frames)


def _read(path: Path, frames: int) -> tuple[np.ndarray, int]:
    """The chosen frames of a video, and how many it has."""
    counts: list[int] = []

    def choose(count: int) -> Sequence[int]:
        counts.append(count)
        return even_places(frames, count).tolist()

    if path.suffix.lower() != ".npz":
        return image_files.frames(path, choose), counts[0]
    found = own_files.npz_arrays(path, required=[ARRAY])[ARRAY]
    is_video = found.ndim == 4 and found.shape[-1] == 3 and found.dtype == np.uint8
    if not is_video or found.size == 0:
        raise ValueError(
            f"{path}: expected {ARRAY} uint8 [frames, rows, columns, 3], got "
            f"{found.dtype} {list(found.shape)}"
        )
    return found[choose(len(found))], counts[0]


def read_video(path: Path | str, frames: int) -> np.ndarray:
    """uint8 [`frames`, rows, columns, 3], at `even_places`. ValueError, naming the
    file, for what is no video."""
    return _read(Path(path), frames)[0]


def _lengths(root: Path, files: Sequence[Path], frames: int) -> list[int]:
    """How many frames each video has; those that are used are decoded once, cached."""
    key = storage.short_hash(VERSION, own_files.fingerprint(root, files), str(frames))

    def build(folder: Path) -> None:
        lengths = [_read(file, frames)[1] for file in files]
        (folder / "lengths.json").write_text(json.dumps(lengths))

    folder = storage.cached_folder(f"videos/{key}", build)
    return json.loads((folder / "lengths.json").read_text())


def _listing(folder: Path) -> tuple[list[Path], list[str]]:
    """The videos and their classes."""
    found = image_folder.classes(folder, what="videos")
    pairs = [(file, label) for label, listed in found.items() for file in listed]
    return [file for file, _ in pairs], [label for _, label in pairs]


def read(path: Path, *, frames: int, held_out: float) -> Records:
    """`file`, an array of paths, and `label`, int32 [N]; `labels` are the classes. No
    pixels are kept.

    frames: of a video, that are used. Videos that have fewer are counted in a line.
    ValueError, naming the file, for what is no video, for an empty class and for other
    classes in `validation` than in `train`.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: expected a folder of class folders, got a file")
    splits = [path / split for split in documents.SPLITS]
    if all(split.is_dir() for split in splits):
        (files, labels), (others, other_labels) = map(_listing, splits)
        if {*labels} != {*other_labels}:
            raise ValueError(
                f"{splits[1]}: expected the classes of train, "
                f"{', '.join(sorted({*labels}))}; got "
                f"{', '.join(sorted({*other_labels}))}"
            )
        held = np.arange(len(files) + len(others)) >= len(files)
        files, labels = files + others, labels + other_labels
        text_files.report_unread(path, documents.SPLITS)
    else:
        files, labels = _listing(path)
        names = [file.relative_to(path).as_posix() for file in files]
        held = image_folder.held_out_rows(path, names, labels, held_out, what="videos")
    lengths = _lengths(path, files, frames)
    short = sum(length < frames for length in lengths)
    if short:
        print_once(
            f"{path}: {short} of {len(files)} videos have fewer than {frames} frames, "
            "some of which are repeated"
        )
    classes = own_files.class_names(labels)
    number = {name: index for index, name in enumerate(classes)}
    arrays = {
        "file": own_files.strings([str(file) for file in files]),
        "label": np.array([number[name] for name in labels], np.int32),
    }
    train, validation = own_files.split(arrays, held)
    stamp = own_files.fingerprint(path, files)
    return Records(str(path), stamp, train, validation, classes)
