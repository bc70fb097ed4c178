"""Text out of TensorFlow Datasets, without TensorFlow: random access to array_record.

The splits are TFDS's own `train` and `validation`; where there is no `validation`, the
last `held_out` share of the examples of `train`. The shipped members are prepared under
the user's cache folder, any other name where TFDS keeps its data.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer.data import cache, documents
from transformer.data.suite import files

SHIPPED = ("austen",)
FORMAT = "array_record"
READ_EXAMPLES = 64


def _first_line(error: Exception) -> str:
    said = str(error).split('}": ')[-1]  # TFDS puts all its arguments in front
    lines = said.strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" :")


def _builder(name: str, folder: Path | None) -> Any:
    """The TFDS builder of that name; ValueError with the nearest names if unknown."""
    import tensorflow_datasets as tfds

    from transformer.data.suite import builders  # noqa: F401  (registers the members)

    try:
        return tfds.builder(name, data_dir=folder, file_format=FORMAT)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(re.split("[/:]", name)[0], known, n=3)
        hint = f"; nearest names: {', '.join(near)}" if near else ""
        raise ValueError(
            f"expected an existing file or folder or a TFDS name, got {name!r}{hint}"
        ) from None
    except Exception as error:
        raise ValueError(
            f"expected a TFDS name, got {name!r}: {_first_line(error)}"
        ) from error


def _shipped(name: str) -> Any:
    """The builder of a member of the suite, prepared in the cache if need be."""

    def build(folder: Path) -> None:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            _builder(name, folder).download_and_prepare()

    stamp = cache.digest(repr(files.record(name)))
    return _builder(name, cache.folder(f"suite/{name}-{stamp}", build))


def _named(name: str) -> Any:
    """The builder of any other TFDS name, downloaded and prepared if need be."""
    builder = _builder(name, None)
    with cache.locked(cache.home() / "locks" / f"tfds-{cache.digest(name)}"):
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise ValueError(
                f"{name}: expected TFDS to prepare it, got {_first_line(error)}"
            ) from error
    return builder


def text_features(features: Any, prefix: str = "") -> list[str]:
    """Paths of the Text features, `/` between the names of nested dictionaries."""
    import tensorflow_datasets as tfds

    found = []
    for key, feature in features.items():
        if isinstance(feature, tfds.features.Text):
            found.append(prefix + key)
        elif isinstance(feature, tfds.features.FeaturesDict):
            found += text_features(feature, f"{prefix}{key}/")
    return found


def choose(name: str, found: list[str], asked: str | None) -> str:
    """The feature asked for, or the one called `text`, or the only one."""
    if asked in found:
        return str(asked)
    if asked is None and "text" in found:
        return "text"
    if asked is None and len(found) == 1:
        return found[0]
    got = ", ".join(found) or "none"
    want = "one text feature" if asked is None else f"the text feature {asked!r}"
    raise ValueError(f"{name}: expected {want}, got {got}")


def _ranges(builder: Any, held_out: float) -> dict[str, tuple[str, int, int]]:
    """Our split -> (TFDS split, first example, one past the last)."""
    sizes = {name: info.num_examples for name, info in builder.info.splits.items()}
    if "train" not in sizes:
        got = ", ".join(sorted(sizes)) or "none"
        raise ValueError(f"{builder.name}: expected a split train, got {got}")
    if "validation" in sizes:
        return {split: (split, 0, sizes[split]) for split in documents.SPLITS}
    size = sizes["train"]
    if size < 2:
        raise ValueError(f"{builder.name}: expected 2 examples or more, got {size}")
    middle = max(1, min(round(size * (1 - held_out)), size - 1))
    return {"train": ("train", 0, middle), "validation": ("train", middle, size)}


def _string(example: Any, path: list[str], place: str) -> str:
    for key in path:
        example = example[key]
    try:
        return example.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: expected UTF-8, got byte 0x{example[error.start]:02x} "
            f"at offset {error.start} ({error.reason})"
        ) from None


def text(name: str, *, feature: str | None, held_out: float) -> documents.Text:
    """The TFDS data set `name` as a `Text`, prepared first if need be."""
    builder = _shipped(name) if name in SHIPPED else _named(name)
    chosen = choose(name, text_features(builder.info.features), feature)
    path, ranges = chosen.split("/"), _ranges(builder, held_out)

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        part, start, stop = ranges[split]
        source = builder.as_data_source(split=part)
        for first in range(start, stop, READ_EXAMPLES):
            numbers = range(first, min(first + READ_EXAMPLES, stop))
            examples = source.__getitems__(numbers)
            for number, example in zip(numbers, examples, strict=True):
                where = f"{name}, {part} example {number}"
                yield from documents.cut([_string(example, path, where)])

    splits = sorted(builder.info.splits.items())
    sizes = [(key, info.num_examples, int(info.num_bytes)) for key, info in splits]
    facts = repr([builder.info.full_name, chosen, sorted(ranges.items()), sizes])
    stamp = repr(files.record(name)) if name in SHIPPED else ""
    return documents.Text(name, cache.digest(facts, stamp), pieces)
