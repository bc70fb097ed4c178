"""What the annotation of a flag says of its values: ranges, roles and paths.

`depth: Depth = 3`, where `Depth = Annotated[int, Range(1, 128), FIXED]`, is a whole
number from 1 to 128 that stays as it is for the life of a run. `flags.py` checks both.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Annotated, Any, NamedTuple, cast

import numpy as np


class Range(NamedTuple):
    """The numbers from `low` to `high`, both included unless `open_low` or `open_high`;
    and 0 if `or_zero`."""

    low: float
    high: float
    open_low: bool = False
    or_zero: bool = False
    open_high: bool = False

    def __contains__(self, value: Any) -> bool:
        # NaN compares false, so it is in no range.
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return (above and below) or (self.or_zero and value == 0)

    def __str__(self) -> str:
        """As in mathematics: [1, 128], (0, 1], [0, 1)."""
        low, high = (f"{bound:.10g}" for bound in (self.low, self.high))
        ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
        zero = " or 0" if self.or_zero else ""
        return f"{ends[0]}{low}, {high}{ends[1]}{zero}"


class Role(NamedTuple):
    """What a flag decides. experiment: of whose runs it names one, else empty."""

    word: str
    experiment: str = ""


# The parameters or their meaning: the flag cannot change in the folder of a run.
FIXED = Role("fixed")
# The data: `evaluate` measures a run on other data by this flag.
DATA = Role("data")
# A folder that may be in an object store; other paths are of a file system.
FOLDER = Role("folder")
# Text for a model: bytes of a command line that are no text are refused.
TEXT = Role("text in UTF-8")
# The run of an experiment, which the report reads.
CLASSIFIER = Role("folder", "classify_images")
SCORER = Role("folder", "clip")

# JAX counts in int32, and seeds in uint32.
Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Depth = Annotated[int, Range(1, 128), FIXED]
Width = Annotated[int, Range(8, 16384), FIXED]
VocabSize = Annotated[int, Range(2, 2**20), FIXED]
SequenceLength = Annotated[int, Range(2, 2**20)]
GrayLevels = Annotated[int, Range(2, 256), FIXED]
ImageSize = Annotated[int, Range(1, 4096), FIXED]
PatchSize = Annotated[int, Range(1, 1024), FIXED]
Source = Annotated[str, DATA]
Prompt = Annotated[str, TEXT]
Folder = Annotated[Path, FOLDER]
Classifier = Annotated[Path, CLASSIFIER]
Scorer = Annotated[Path, SCORER]
FixedCount = Annotated[int, Range(1, 2**31 - 1), FIXED]
LearningRate = Annotated[float, Range(0, 10, open_low=True)]
Fraction = Annotated[float, Range(0, 1)]
# Of what is left over 1 - x, as the decay of an average: at 1 nothing would ever count.
ProperFraction = Annotated[float, Range(0, 1, open_high=True)]
PositiveFraction = Annotated[float, Range(0, 1, open_low=True)]
Scale = Annotated[float, Range(0, 1000)]
ReturnScale = Annotated[float, Range(0, 1e9, open_low=True), FIXED]
PositiveScale = Annotated[float, Range(0, 1000, open_low=True)]
# 0 is the most likely choice; colder than the least is the same, and rounding.
Temperature = Annotated[float, Range(0.001, 1000, or_zero=True)]

# Scheme of an object store -> the library by which fsspec reads it, of PyPI.
LIBRARIES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/")
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
# Errors of a path that the user gave, not of the disk or of the program.
_OF_PATHS = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENXIO,
)


def check_indices(name: str, values: Any, count: int) -> None:
    """ValueError for whole numbers that are not from 0 to `count` - 1. JAX would take
    the nearest index in range, in silence."""
    wrong = [int(value) for value in np.ravel(values) if not 0 <= value < count]
    if wrong:
        raise ValueError(f"{name}: expected 0 to {count - 1}, got {wrong[0]}")


def at_least(name: str, value: Any, minimum: Any) -> Any:
    """`value`, or ValueError where it is less than `minimum`."""
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {value}")
    return value


def expand_home(path: Path) -> Path:
    """`path` with its `~` or `~user` as that user's home; ValueError where there is
    none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"expected a user who has a home, got {path}") from None


@contextmanager
def refuse_unreadable() -> Iterator[None]:
    """ValueError, which names the path, for an OSError of a path of the user's: it is
    not there, a folder, or may not be read."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.errno not in _OF_PATHS:
            raise
        raise ValueError(
            f"{error.filename}: expected a file or folder that can be read, got "
            f"{error.strerror}"
        ) from None


def parse_path(text: PurePath | str) -> Path:
    """The path of `text`, `~` expanded: a pathlib.Path, or an
    `object_store.ObjectPath`, which has the same methods.

    Raises ValueError for no text, a home that is not known, a scheme that is not in
    `LIBRARIES`, and without a bucket.
    """
    if not isinstance(text, str):
        is_local = isinstance(text, Path)
        return expand_home(text) if is_local else cast(Path, text)
    if not text:
        raise ValueError("expected a path, got none")
    found = _SCHEME.match(text)
    if found is None or not text.startswith(f"{found[1]}://"):
        return expand_home(Path(text))
    if found[1] not in LIBRARIES or not text.removeprefix(found[0]).strip("/"):
        schemes = ", ".join(f"{name}://" for name in LIBRARIES)
        raise ValueError(
            f"expected a path of a file system, or of a bucket at {schemes}, got {text}"
        )
    from transformer import object_store

    made: Any = object_store.ObjectPath(text)
    return made


def is_remote(path: PurePath | str) -> bool:
    """Whether a path, or the text of one, is in an object store."""
    if isinstance(path, str):
        scheme, separator, _ = path.partition("://")
        return bool(separator) and scheme in LIBRARIES
    return not isinstance(path, Path)


def run_folder(flag: str, path: Path) -> None:
    """Raise ValueError for a path at which no run can be: of a store to which Orbax
    writes no arrays, or without a folder in its bucket, or not in UTF-8."""
    text = utf8(flag, str(path))
    found = _SCHEME.match(text)
    if found is None:
        return
    is_folder = is_remote(path) and text.startswith("gs://")
    if not is_folder or "/" not in text.removeprefix("gs://").strip("/"):
        raise ValueError(
            f"{flag}: expected a folder of a file system or gs://bucket/folder, got "
            f"{text}"
        )


def writable_folder(flag: str, path: Path) -> None:
    """ValueError for the local path of a folder that cannot be made or written, as what
    is there is a file, or does not belong to the user."""
    if is_remote(path):
        return
    there = next((p for p in (path, *path.parents) if p.exists()), path)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        got = "cannot be written" if there.is_dir() else "is no folder"
        raise ValueError(
            f"{flag}: expected a folder that can be written, got {path}: {there} {got}"
        )


def fits_memory(what: str, size: int) -> None:
    """ValueError where `size` bytes are more than the memory of this machine."""
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > there:
        raise ValueError(
            f"{what}: expected at most {there / 2**30:.1f} GiB, the memory of this "
            f"machine, got {size / 2**30:.1f} GiB"
        )


def regular_file(path: Path) -> Path:
    """`path`, or ValueError where what is there is no file. Opening a pipe would wait,
    without an end, for a program that writes to it; a device may have no end."""
    try:
        kind = stat.S_IFREG if is_remote(path) else stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return path  # Who opens it says why it cannot.
    if kind != stat.S_IFREG:
        got = _KINDS.get(kind, "a device")
        raise ValueError(f"{path}: expected a file, got {got}")
    return path


def output_file(name: str, path: Path | None) -> None:
    """ValueError for the path of a file that cannot be written, as it is a folder or in
    none: before the work of which it is the result."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ValueError(f"{name}: expected a file in a folder that exists, got {path}")


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode it, as it cannot what was none on a command line."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def utf8(name: str, text: str) -> str:
    """`text`, or ValueError where UTF-8 cannot encode it: a command line that is not
    UTF-8 reaches Python as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: expected text in UTF-8, got {text[error.start]!a} at character "
            f"{error.start}"
        ) from None
    return text
