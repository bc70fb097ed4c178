"""Many images of the user's own as one array, decoded once by parallel processes.

Large sets lie in the cache as one array that is mapped into memory: a second start
reads no image. Its key is the fingerprint of the files (their bytes up to 64 MiB, else
paths, sizes and times), their order and the size of the images. Reading holds a batch
of images for each process in memory.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer import checks, storage
from transformer.data.readers import files as own_files
from transformer.data.readers import image_files
from transformer.data.readers.image_files import ImageFile, ImageHeader
from transformer.data.records import Arrays, Records

BATCH = 32
# Fewer are decoded at every start, by this process.
FEWEST_CACHED = 1000
FEWEST_CACHED_BYTES = 4 << 20
VERSION = 2  # of the decoding; other pixels need another one


def _is_large(files: Sequence[ImageFile]) -> bool:
    if len(files) >= FEWEST_CACHED:
        return True
    paths = {file.path for file in files}
    return sum(path.stat().st_size for path in paths) >= FEWEST_CACHED_BYTES


def _over_batches(
    function: Callable[[int, Sequence[ImageFile]], Any],
    files: Sequence[ImageFile],
    *,
    what: str,
) -> Iterator[Any]:
    """function(start, files[start : start + BATCH]) in order, in parallel processes
    where there are many, with a progress bar on a terminal."""
    starts = range(0, len(files), BATCH)
    jobs = ((start, files[start : start + BATCH]) for start in starts)
    if not _is_large(files):
        results = (function(*job) for job in jobs)
    else:
        import joblib

        # Processes of loky import neither the program's main module nor JAX.
        options: Any = {"return_as": "generator", "idle_worker_timeout": 10}
        run = joblib.Parallel(n_jobs=joblib.cpu_count(), **options)
        results: Any = run(joblib.delayed(function)(*job) for job in jobs)
    with _bar(len(files), what) as bar:
        for start, result in zip(starts, results, strict=True):
            if bar is not None:
                bar.update(min(BATCH, len(files) - start))
            yield result


def _bar(total: int, what: str) -> Any:
    if not sys.stderr.isatty():
        return nullcontext()
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit="image", leave=False, dynamic_ncols=True)


def _headers(start: int, files: Sequence[ImageFile]) -> list[ImageHeader]:
    return [image_files.read_header(file) for file in files]


def _decode(
    target: np.ndarray | Path,
    gray: bool,
    image_size: int | None,
    start: int,
    files: Sequence[ImageFile],
) -> None:
    """The images of a batch into rows start, ... of an array or of an `.npy` file."""
    if isinstance(target, Path):
        target = np.lib.format.open_memmap(target, mode="r+")
    for row, file in enumerate(files, start):
        found = image_files.pixels(file, gray=gray, image_size=image_size)
        if found.shape != target.shape[1:]:  # an orientation behind the pixels
            raise ValueError(
                f"{file}: expected {target.shape[1]} x {target.shape[2]} pixels, got "
                f"{found.shape[0]} x {found.shape[1]}"
            )
        target[row] = found


def _check_sizes(files: Sequence[ImageFile], headers: Sequence[ImageHeader]) -> None:
    sizes = [(found.rows, found.columns) for found in headers]
    (usual, _), *others = Counter(sizes).most_common()
    if others:
        wrong = [file for file, size in zip(files, sizes, strict=True) if size != usual]
        first = min(wrong, key=str)
        got = sizes[files.index(first)]
        raise ValueError(
            f"{first}: expected {usual[0]} x {usual[1]} pixels like the others, got "
            f"{got[0]} x {got[1]}; --image_size=N resizes and crops all to N x N"
        )


def describe(
    source: str, headers: Sequence[ImageHeader], *, gray: bool, image_size: int | None
) -> str:
    """What was converted, counted, in one line; empty where that is nothing."""
    counts: Counter[str] = Counter()
    images = 0
    for found in headers:
        words = [*found.conversions]
        if found.gray and not gray:
            words.append("gray to RGB")
        if gray and not found.gray:
            words.append("RGB to gray")
        if image_size and (found.rows, found.columns) != (image_size, image_size):
            words.append(f"resized and cropped to {image_size} x {image_size}")
        counts.update(words)
        images += bool(words)
    if not images:
        return ""
    conversions = ", ".join(f"{count} {words}" for words, count in counts.most_common())
    return f"{source}: {images} of {len(headers)} images: {conversions}"


def _read(
    source: str,
    files: Sequence[ImageFile],
    image_size: int | None,
    allocate: Callable[[tuple[int, ...]], np.ndarray | Path],
) -> tuple[np.ndarray | Path, str]:
    """All images into what `allocate` makes for their shape, and `describe`."""
    headers = [
        found
        for batch in _over_batches(_headers, files, what="image headers")
        for found in batch
    ]
    if image_size is None:
        _check_sizes(files, headers)
    gray = all(found.gray for found in headers)
    size = (image_size, image_size) if image_size else headers[0][:2]
    target = allocate((len(files), *size, 1 if gray else 3))
    decode = partial(_decode, target, gray, image_size)
    for _ in _over_batches(decode, files, what="images"):
        pass
    return target, describe(source, headers, gray=gray, image_size=image_size)


def _reserve(path: Path) -> None:
    """Raise OSError where the disk has no place for the file: writing to a mapped file
    would end the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _build(
    source: str, files: Sequence[ImageFile], image_size: int | None, folder: Path
) -> None:
    """`image.npy` and `conversions.txt` in the folder."""

    def allocate(shape: tuple[int, ...]) -> Path:
        path = folder / "image.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        _reserve(path)
        return path

    _, conversions = _read(source, files, image_size, allocate)
    (folder / "conversions.txt").write_text(conversions)


def read(
    source: str,
    files: Sequence[ImageFile],
    *,
    fingerprint: str,
    image_size: int | None,
) -> np.ndarray:
    """uint8 [N, rows, columns, channels] of the files in order: 1 channel where all
    are gray, else 3; read-only where it is mapped from the cache. What was converted is
    printed in one line.

    ValueError names the first file that is no image, or of another size than the
    others where there is no `image_size`.
    """
    if _is_large(files):
        names = repr([file.name for file in files])
        key = storage.short_hash(fingerprint, names, repr((image_size, VERSION)))
        build = partial(_build, source, files, image_size)
        folder = storage.cached_folder(f"images/{key}", build)
        pixels = np.load(folder / "image.npy", mmap_mode="r").view(np.ndarray)
        conversions = (folder / "conversions.txt").read_text()
    else:

        def empty(shape: tuple[int, ...]) -> np.ndarray:
            checks.fits_memory(f"{source}: images", math.prod(shape))
            return np.empty(shape, np.uint8)

        pixels, conversions = _read(source, files, image_size, empty)
    if conversions:
        print(conversions, flush=True)
    assert isinstance(pixels, np.ndarray)
    return pixels


def split_records(
    source: Path,
    files: Sequence[ImageFile],
    columns: Arrays,
    is_held_out: np.ndarray,
    *,
    root: Path,
    tables: Sequence[Path] = (),
    image_size: int | None,
    labels: tuple[str, ...] = (),
) -> Records:
    """The images as `image`, beside the other columns [N], in two splits.

    root: the folder whose place does not matter to the fingerprint. tables: the files
    that list the images.
    """
    paths = {*tables, *(file.path for file in files)}
    fingerprint = own_files.fingerprint(root, paths)
    if image_size is not None:
        fingerprint = storage.short_hash(fingerprint, str(image_size))
    # Both splits are views of one array: nothing is copied into memory.
    order = np.argsort(is_held_out, kind="stable")
    listed = [files[row] for row in order]
    options: Any = {"fingerprint": fingerprint, "image_size": image_size}
    pixels = read(str(source), listed, **options)
    sorted_columns = {name: column[order] for name, column in columns.items()}
    arrays = {"image": pixels, **sorted_columns}
    cut = len(files) - int(is_held_out.sum())
    # Where all are held out, both splits are the whole.
    train = {name: array[: cut or None] for name, array in arrays.items()}
    validation = {name: array[cut:] for name, array in arrays.items()}
    return Records(str(source), fingerprint, train, validation, labels)
