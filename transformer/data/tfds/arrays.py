"""Images, pairs, captions and labeled text from TensorFlow Datasets, as arrays.

Decoded arrays are cached: a second start maps them into memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer import checks, storage
from transformer.data import records
from transformer.data.text import documents
from transformer.data.tfds import text as tfds_text


class Column(NamedTuple):
    """An array: its name, its feature, the function that decodes one value, and what
    is not in the source of that function."""

    name: str
    feature: str
    decode: Callable[[Any, str], Any]
    options: tuple[Any, ...] = ()


def _images(features: Any) -> list[str]:
    """Paths of the features that are 8-bit images."""
    import tensorflow_datasets as tfds

    def fits(feature: Any) -> bool:
        kinds = tfds.features.Image, tfds.features.Tensor
        if not isinstance(feature, kinds) or feature.np_dtype != np.uint8:
            return False
        return len(feature.get_tensor_info().shape) == 3

    return tfds_text.paths(features, fits)


def _classes(features: Any) -> list[str]:
    import tensorflow_datasets as tfds

    return tfds_text.paths(
        features, lambda feature: isinstance(feature, tfds.features.ClassLabel)
    )


def _one(name: str, features: list[str], what: str, usual: tuple[str, ...]) -> str:
    """The only feature, or the one of a usual name; ValueError otherwise."""
    named = [path for path in usual if path in features]
    if len(features) == 1 or named:
        return (named or features)[0]
    got = ", ".join(features) or "none"
    raise ValueError(f"{name}: expected one {what} feature, got {got}")


def _pixels(image: Any, place: str) -> np.ndarray:
    if np.ndim(image) != 3:
        raise ValueError(
            f"{place}: expected an image of rows, columns and channels, got the shape "
            f"{np.shape(image)}"
        )
    return image


def _image_column(feature: str, image_size: int | None) -> Column:
    if image_size is None:
        return Column("image", feature, _pixels)
    from transformer.data.readers import image_files

    def decode(image: Any, place: str) -> np.ndarray:
        return image_files.resize_and_crop_array(_pixels(image, place), image_size)

    return Column("image", feature, decode, (image_size,))


def _label(number: Any, place: str) -> np.int32:
    if number < 0:
        raise ValueError(f"{place}: expected a label, got {number}")
    return np.int32(number)


def stack(values: list[Any], places: list[str], name: str) -> np.ndarray:
    """Values along a new first dimension, strings as objects; ValueError where a shape
    is not that of the first."""
    if isinstance(values[0], str):
        return np.array(values, dtype=object)
    shape = np.shape(values[0])
    for value, place in zip(values, places, strict=True):
        if np.shape(value) != shape:
            raise ValueError(
                f"{place}: expected {name} of shape {shape} like {places[0]}, "
                f"got {np.shape(value)}"
            )
    return np.stack(values)


def _decode(
    builder: Any, split: tuple[str, int, int], columns: tuple[Column, ...]
) -> dict[str, np.ndarray]:
    places: list[str] = []
    values: dict[str, list[Any]] = {column.name: [] for column in columns}
    for place, example in tfds_text.examples(builder, split):
        places.append(place)
        for column in columns:
            value = tfds_text.at(example, column.feature)
            values[column.name].append(column.decode(value, place))
            if len(places) == 1:
                size = np.asarray(values[column.name][0]).nbytes * (split[2] - split[1])
                checks.fits_memory(f"{builder.name}: {column.name}", size)
    return {name: stack(listed, places, name) for name, listed in values.items()}


def _write(file: Path, array: np.ndarray) -> None:
    if array.dtype == object:
        text = json.dumps(array.tolist(), ensure_ascii=False)
        file.with_suffix(".json").write_text(text, encoding="utf-8")
    else:
        np.save(file.with_suffix(".npy"), array)


def _read(file: Path) -> np.ndarray:
    if file.with_suffix(".npy").exists():
        return np.load(file.with_suffix(".npy"), mmap_mode="r").view(np.ndarray)
    texts = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    return np.array(texts, dtype=object)


def _records(
    name: str,
    builder: Any,
    columns: tuple[Column, ...],
    labels: tuple[str, ...],
    held_out: float,
) -> records.Records:
    """The columns of both splits, decoded once per machine."""
    chosen = [(column.name, column.feature, *column.options) for column in columns]
    fingerprint = tfds_text.fingerprint(name, builder, chosen, held_out)
    splits = tfds_text.ranges(builder, held_out)

    def build(folder: Path) -> None:
        for split in documents.SPLITS:
            for key, array in _decode(builder, splits[split], columns).items():
                _write(folder / f"{split}-{key}", array)

    folder = storage.cached_folder(f"records/{builder.name}-{fingerprint}", build)
    parts: dict[str, Mapping[str, np.ndarray]] = {
        split: {
            column.name: _read(folder / f"{split}-{column.name}") for column in columns
        }
        for split in documents.SPLITS
    }
    return records.Records(name, fingerprint, **parts, labels=labels)


def images(
    name: str, *, held_out: float, image_size: int | None = None
) -> records.Records:
    """`image` uint8 [N, rows, columns, channels] and `label` int32 [N] of a data set
    with one image and one ClassLabel feature (or several, called image and label)."""
    builder = tfds_text.prepared_builder(name)
    features = builder.info.features
    image = _one(name, _images(features), "8-bit image", ("image",))
    label = _one(name, _classes(features), "ClassLabel", ("label",))
    columns = _image_column(image, image_size), Column("label", label, _label)
    labels = tuple(tfds_text.at(features, label).names)
    return _records(name, builder, columns, labels, held_out)


def pairs(name: str, *, held_out: float) -> records.Records:
    """`first` and `second`, strings, of a data set with exactly two text features;
    `labels` are the last words of their paths, as en and pt."""
    builder = tfds_text.prepared_builder(name)
    features = tfds_text.text_features(builder.info.features)
    if len(features) != 2:
        got = ", ".join(features) or "none"
        raise ValueError(f"{name}: expected two text features, got {got}")
    labels = tuple(path.split("/")[-1] for path in features)
    columns = tuple(
        Column(key, path, tfds_text.string)
        for key, path in zip(("first", "second"), features, strict=True)
    )
    return _records(name, builder, columns, labels, held_out)


def captions(
    name: str, *, language: str, held_out: float, image_size: int | None = None
) -> records.Records:
    """`image` as in `images`, and `text`: the text feature with the name of the
    language, else the one called text or caption, else the only one. `style` int32 [N]
    of a ClassLabel feature of that name, if there is one, whose names are `labels`."""
    builder = tfds_text.prepared_builder(name)
    features = builder.info.features
    image = _one(name, _images(features), "8-bit image", ("image",))
    text_paths = tfds_text.text_features(features)
    in_language = [path for path in text_paths if path.split("/")[-1] == language]
    kind = f"text (or one called {language})"
    text = _one(name, text_paths, kind, (*in_language, "text", "caption"))
    columns = (
        _image_column(image, image_size),
        Column("text", text, tfds_text.string),
    )
    if "style" not in _classes(features):
        return _records(name, builder, columns, (), held_out)
    styles = tuple(features["style"].names)
    style = Column("style", "style", _label)
    return _records(name, builder, (*columns, style), styles, held_out)


def labeled_text(name: str, *, held_out: float) -> records.Records:
    """`text`, strings, and `label` int32 [N] of a data set with one text and one
    ClassLabel feature (or several, called text and label)."""
    builder = tfds_text.prepared_builder(name)
    features = builder.info.features
    text = _one(name, tfds_text.text_features(features), "text", ("text",))
    label = _one(name, _classes(features), "ClassLabel", ("label",))
    columns = Column("text", text, tfds_text.string), Column("label", label, _label)
    labels = tuple(tfds_text.at(features, label).names)
    return _records(name, builder, columns, labels, held_out)
