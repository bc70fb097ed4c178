"""TensorFlow Datasets by name, without TensorFlow: random access to array_record.

The splits are TFDS's own `train` and `validation`; where there is no `validation`, the
last `held_out` fraction of `train`. The shipped data sets are prepared in the user's
cache folder, all others where TFDS stores its data. Here text is read as documents, in
`arrays.py` all that fits in memory.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from transformer import storage
from transformer.data.shipped import BUILDERS, files
from transformer.data.text import documents

FORMAT = "array_record"
# Each after twice the time of the one before, from 0.4 s on: 6 s. TFDS makes 10, with
# which a machine without network says so after three minutes and a half.
RETRIES = 5
# Read at once, since each read starts threads: as many examples as have so many bytes;
# few where TFDS does not know their bytes.
READ_BYTES, MOST_EXAMPLES, UNKNOWN_BYTES = 2**22, 4096, 2**16


def _first_line(error: Exception) -> str:
    message = str(error).split('}": ')[-1]  # TFDS puts all its arguments in front
    lines = message.strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" :")


def _is_relevant(record: logging.LogRecord) -> bool:
    """False for TFDS's advice to install OpenCV, printed at the first image."""
    return "OpenCV is not installed" not in record.getMessage()


def _builder(name: str, folder: Path | None) -> Any:
    """The TFDS builder of that name; ValueError with the nearest names if unknown."""
    import tensorflow_datasets as tfds

    from transformer.data.shipped import builders  # noqa: F401  (registers the members)

    logging.getLogger("absl").addFilter(_is_relevant)

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


def _shipped_builder(name: str) -> Any:
    """The builder of a shipped data set, prepared in the cache where it is missing."""

    def build(folder: Path) -> None:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            _builder(name, folder).download_and_prepare()

    digest = storage.short_hash(repr(files.record(BUILDERS[name])))
    return _builder(name, storage.cached_folder(f"shipped/{name}-{digest}", build))


def paths(features: Any, fits: Callable[[Any], bool], prefix: str = "") -> list[str]:
    """Paths of the features that fit, nested names joined by `/`."""
    import tensorflow_datasets as tfds

    found = []
    for key, feature in features.items():
        if fits(feature):
            found.append(prefix + key)
        elif isinstance(feature, tfds.features.FeaturesDict):
            found += paths(feature, fits, f"{prefix}{key}/")
    return found


def at(tree: Any, path: str) -> Any:
    """The value at a path of a nested dictionary."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def text_features(features: Any) -> list[str]:
    """Paths of the Text features."""
    import tensorflow_datasets as tfds

    return paths(features, lambda feature: isinstance(feature, tfds.features.Text))


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    Image.fromarray(flat).save(buffer, format="png")
    return buffer.getvalue()


def _encode_by_pillow(features: Any) -> None:
    """Let builders yield 8-bit images as arrays where TensorFlow is not installed.

    TFDS encodes them with TensorFlow only; it decodes them with Pillow.
    """
    import tensorflow_datasets as tfds

    if find_spec("tensorflow"):
        return
    for path in paths(features, lambda one: isinstance(one, tfds.features.Image)):
        image = at(features, path)
        if image.np_dtype == np.uint8 and image.encoding_format in (None, "png"):
            image._image_encoder._encode_image = _png


def _tfds_builder(name: str) -> Any:
    """The builder of any other name, downloaded and prepared where it is missing."""
    from tensorflow_datasets.core.download import downloader

    builder = _builder(name, None)
    downloader.MAX_RETRIES = RETRIES
    with storage.claim(storage.cache_home() / f"tfds-{storage.short_hash(name)}"):
        try:
            _encode_by_pillow(builder.info.features)
            builder.download_and_prepare()
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{name}: expected a data set that the installed packages can prepare, "
                f"got one that needs {error.name} (once; reading does not need it)"
            ) from error
        except Exception as error:
            raise ValueError(
                f"{name}: expected TFDS to prepare it, got {_first_line(error)}"
            ) from error
    return builder


def prepared_builder(name: str) -> Any:
    """The builder of a data set, prepared."""
    return _shipped_builder(name) if name in BUILDERS else _tfds_builder(name)


def pick_text_feature(name: str, features: list[str], wanted: str | None) -> str:
    """The `wanted` feature, or the one called `text`, or the only one."""
    if wanted in features:
        return str(wanted)
    if wanted is None and "text" in features:
        return "text"
    if wanted is None and len(features) == 1:
        return features[0]
    got = ", ".join(features) or "none"
    expected = "one text feature" if wanted is None else f"the text feature {wanted!r}"
    raise ValueError(f"{name}: expected {expected}, got {got}")


def ranges(builder: Any, held_out: float) -> dict[str, tuple[str, int, int]]:
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


def string(data: bytes, place: str) -> str:
    """`data` as text; ValueError names the place and the byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: expected UTF-8, got byte 0x{data[error.start]:02x} "
            f"at offset {error.start} ({error.reason})"
        ) from None


def examples(builder: Any, split: tuple[str, int, int]) -> Iterator[tuple[str, Any]]:
    """(place, example) of each example of a TFDS split, first to one past the last."""
    part, start, stop = split
    source, info = builder.as_data_source(split=part), builder.info.splits[part]
    one = int(info.num_bytes) // max(1, info.num_examples) or UNKNOWN_BYTES
    at_once = min(max(1, READ_BYTES // one), MOST_EXAMPLES)
    for first in range(start, stop, at_once):
        numbers = range(first, min(first + at_once, stop))
        for number, example in zip(numbers, source.__getitems__(numbers), strict=True):
            yield f"{builder.name}, {part} example {number}", example


def fingerprint(name: str, builder: Any, feature: Any, held_out: float) -> str:
    """A hash of the data set, the feature that is read, and the split."""
    splits = sorted(builder.info.splits.items())
    sizes = [(key, info.num_examples, int(info.num_bytes)) for key, info in splits]
    division = sorted(ranges(builder, held_out).items())
    facts = repr([builder.info.full_name, feature, division, sizes])
    return storage.short_hash(
        facts, repr(files.record(BUILDERS[name])) if name in BUILDERS else ""
    )


def read(name: str, *, feature: str | None, held_out: float) -> documents.TextDataset:
    """The TFDS data set `name` as a `TextDataset`, prepared where it is missing."""
    builder = prepared_builder(name)
    chosen = pick_text_feature(name, text_features(builder.info.features), feature)
    splits = ranges(builder, held_out)

    def pieces(split: str) -> Iterator[documents.Piece]:
        documents.check_split(split)
        for place, example in examples(builder, splits[split]):
            yield from documents.pieces_of([string(at(example, chosen), place)])

    stamp = fingerprint(name, builder, chosen, held_out)
    return documents.TextDataset(name, stamp, pieces)
