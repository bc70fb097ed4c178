"""Images as raw patches, prepared as `preprocessor_config.json` of a folder says.

As the processors of transformers that use Pillow: resize, crop, scale, normalize.
Images are decoded by `data.readers.image_files`: what has transparency is composited on
white, where transformers drops the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transformer import checks
from transformer.data.images import patches
from transformer.data.notices import print_once
from transformer.data.readers import image_arrays, image_files
from transformer.interchange import tensor_files
from transformer.interchange.architectures.encoders import ImageSizes
from transformer.interchange.config import Reader

FILE = "preprocessor_config.json"
# Of processors: which class reads the file, and what it does for other tasks.
HARMLESS = (
    *("image_processor_type", "feature_extractor_type", "processor_class"),
    *("_valid_processor_keys", "data_format", "input_data_format", "device"),
    *("return_tensors", "disable_grouping", "size_divisor", "default_to_square"),
)


class Preprocessing(NamedTuple):
    """size: rows and columns, or the short side, that images are resized to by Pillow's
    filter `resample`; None leaves them. crop: rows and columns of the center, or None.
    scale, mean, std: pixels become (pixels * scale - mean) / std, by channel."""

    size: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_preprocessing(folder: Path, image: ImageSizes) -> Preprocessing:
    """What a folder says. ValueError where it says nothing, what is not expressed here,
    or another size than the model's."""
    file = folder / FILE
    if not file.is_file():
        raise ValueError(f"{folder}: expected {FILE}, got none")
    config = Reader(tensor_files.read_json_file(file), str(file))
    config.get("do_convert_rgb", True)
    config.only("do_pad", False)
    size = _read_size(config, "size") if config.flag("do_resize", True) else None
    crop = (
        _read_size(config, "crop_size")
        if config.flag("do_center_crop", False)
        else None
    )
    config.get("crop_size", 0)
    config.get("size", 0)
    if isinstance(crop, int):
        crop = crop, crop
    rescale, factor = (
        config.flag("do_rescale", True),
        config.number("rescale_factor", 1 / 255),
    )
    zeros, ones = [0.0] * image.channels, [1.0] * image.channels
    normalize = config.flag("do_normalize", True)
    mean, std = config.get("image_mean", zeros), config.get("image_std", ones)
    for key, values in (("image_mean", mean), ("image_std", std)):
        are_numbers = isinstance(values, list) and all(
            type(one) in (int, float) for one in values
        )
        if not are_numbers or len(values) != image.channels:
            raise config.error(key, f"{image.channels} numbers")
    if 0 in std:
        raise config.error("image_std", "numbers other than 0")
    resample = config.whole("resample", 2, least=0)
    if resample > 5:
        raise config.error("resample", "0 to 5, a filter of Pillow")
    config.finish(HARMLESS)
    got = crop or size
    if got not in (image.side, (image.side, image.side), None):
        raise ValueError(
            f"{file}: expected images of {image.side} x {image.side}, which "
            f"the model has, got {got}"
        )
    return Preprocessing(
        size,
        resample,
        crop,
        factor if rescale else 1.0,
        tuple(mean if normalize else zeros),
        tuple(std if normalize else ones),
    )


def _read_size(config: Reader, key: str) -> tuple[int, int] | int:
    """Rows and columns, or the short side."""
    value = config.get(key)
    if type(value) is int:
        value = {"height": value, "width": value}
    keys = set(value) if isinstance(value, dict) else set()
    numbers = list(value.values()) if keys else []
    if not all(type(one) is int and 0 < one <= 2**14 for one in numbers):
        keys = set()
    if keys == {"height", "width"}:
        return value["height"], value["width"]
    if keys == {"shortest_edge"}:
        return value["shortest_edge"]
    raise config.error(key, "height and width, or shortest_edge, in pixels")


def prepare(pixels: np.ndarray, how: Preprocessing) -> np.ndarray:
    """uint8 [rows, columns, channels] to float32 of the model's size."""
    from PIL import Image

    channels = pixels.shape[-1]
    opened = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if how.size is not None:
        rows, columns = _target_size(how.size, opened.height, opened.width)
        opened = opened.resize((columns, rows), Image.Resampling(how.resample))
    found = np.asarray(opened).reshape(opened.height, opened.width, channels)
    if how.crop is not None:
        found = _center(found, *how.crop)
    scaled = found.astype(np.float32) * np.float32(how.scale)
    return (scaled - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)


def _target_size(
    size: tuple[int, int] | int, rows: int, columns: int
) -> tuple[int, int]:
    if isinstance(size, tuple):
        return size
    short, long = sorted((rows, columns))
    longer = int(size * long / short)
    return (size, longer) if rows <= columns else (longer, size)


def _center(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The center of an image; black around where it is smaller."""
    missing = [
        max(0, n - have) for n, have in zip((rows, columns), pixels.shape, strict=False)
    ]
    before = [(n + 1) // 2 for n in missing]
    pad = [(b, n - b) for b, n in zip(before, missing, strict=True)]
    pixels = np.pad(pixels, [*pad, (0, 0)])
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def read_patches(
    paths: Sequence[Path], image: ImageSizes, how: Preprocessing
) -> np.ndarray:
    """Raw patches [N, L, P] of image files; prints in one line what was converted on
    the way to 8-bit RGB, or gray. ValueError, naming the file, for what is no image,
    and where it is not of the model's size when it is prepared."""
    gray, rows, headers = image.channels == 1, [], []
    for path in paths:
        file = image_files.ImageFile(path, path.name)
        headers.append(image_files.read_header(file))
        pixels = image_files.pixels(file, gray=gray, image_size=None)
        rows.append(to_patches(pixels, image, how, str(path)))
    if not rows:
        raise ValueError("expected images, got none")
    line = image_arrays.describe("images", headers, gray=gray, image_size=None)
    if line:
        print(line, flush=True)
    return np.stack(rows)


def to_patches(
    pixels: np.ndarray, image: ImageSizes, how: Preprocessing, name: str
) -> np.ndarray:
    """Raw patches [L, P] of an image, uint8 [rows, columns, channels]. ValueError where
    it is not of the model's size when it is prepared."""
    prepared = prepare(pixels, how)
    if prepared.shape[:2] != (image.side, image.side):
        raise ValueError(
            f"{name}: expected {image.side} x {image.side} pixels, got "
            f"{prepared.shape[0]} x {prepared.shape[1]}"
        )
    read = prepared[: image.patched_side, : image.patched_side]
    return patches.patchify(read, (image.patch, image.patch))


def preparation(
    name: str, channels: int, image: ImageSizes, how: Preprocessing
) -> Callable[[np.ndarray], np.ndarray]:
    """`to_patches` of the images of a data set, which have `channels`. Gray ones have
    as many equal channels as the model, which a printed line says. ValueError for
    other numbers of channels than the model's."""
    repeats = image.channels if channels == 1 else 1
    if channels * repeats != image.channels:
        raise ValueError(
            f"{name}: expected images of {image.channels} channels, got {channels}"
        )
    if repeats > 1:
        print_once(f"{name}: gray images are given to {repeats} channels")
    return lambda pixels: to_patches(pixels.repeat(repeats, -1), image, how, name)


def image_paths(text: str) -> list[Path]:
    """The files that a comma list names; those of a folder, in order of their names."""
    found: list[Path] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        path = checks.expand_home(Path(part))
        if path.is_dir():
            visible = (p for p in path.iterdir() if not p.name.startswith("."))
            found += sorted(p for p in visible if p.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"images: expected files or folders, got {part}")
    return found
