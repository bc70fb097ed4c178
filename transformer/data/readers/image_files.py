"""One image of the user's own, decoded by Pillow as 8-bit gray or RGB.

Gray are images of one channel, with or without alpha; all else is color. EXIF
orientation is applied, transparency is composited on white, of several frames the first
is taken. 16 bits a channel are scaled from 0..65535 to 0..255 and rounded
(`deep_pixels`); refused are those of which fewer than 16 levels would be left, and a
TIFF of more than 8 bits whose channels follow one another.

Resized images are squares: the short side is resized to `image_size`, bicubic with
antialiasing, and the center is cropped, as for CLIP (Radford et al. 2021, arXiv
2103.00020) and ADM (Dhariwal and Nichol 2021, arXiv 2105.05233).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from transformer.data.readers import deep_pixels, files

# Not all that Pillow knows: for some formats (EPS) it starts another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
ANIMATED = ("GIF", "PNG", "WEBP")
GRAY = ("1", "L", "LA")
FEWEST_LEVELS = 16
EXIF_ORIENTATION = 0x0112
TIFF_SIZE = 256, 257  # the tags of width and height


class ImageFile(NamedTuple):
    """An encoded image: the file `path`, or its bytes start..stop.

    name: for messages and the split, such as a path within a folder.
    """

    path: Path
    name: str
    start: int = 0
    stop: int | None = None

    def open(self) -> BinaryIO:
        if self.stop is None:
            return open(self.path, "rb")
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return io.BytesIO(file.read(self.stop - self.start))

    def __str__(self) -> str:
        return str(self.path) if self.stop is None else f"{self.path}: {self.name}"


class ImageHeader(NamedTuple):
    """What the header of an image says: its size, upright, whether it is gray, and the
    conversions when it is read, in words."""

    rows: int
    columns: int
    gray: bool
    conversions: tuple[str, ...] = ()


@contextmanager
def _open(file: ImageFile) -> Iterator[Any]:
    """The Pillow image; ValueError where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with file.open() as raw, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # What matters is raised as well.
            with Image.open(raw, formats=FORMATS) as opened:
                yield opened
    except Exception as error:  # A damaged image raises any kind of error.
        if isinstance(error, _Refusal):
            raise ValueError(str(error)) from None
        got = files.one_line(error)
        if isinstance(error, UnidentifiedImageError):
            got = "another kind of file"  # Its message has the repr of a Python object.
        elif isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{file}: expected an image, got {got}") from None


class _Refusal(ValueError):
    """An image that can be decoded, but not in its full range."""


def _bits(file: ImageFile, opened: Any) -> int:
    """8, or 16 where there are more; ValueError for what cannot be read in full."""
    raw, mode = deep_pixels.raw_mode(opened), opened.mode
    expected = f"{file}: expected 8 or 16 bits a channel"
    if deep_pixels.are_planes(opened):
        raise _Refusal(f"{expected}, together in a pixel, got channels as planes")
    if opened.format == "PPM" and mode != "F":
        return 16 if deep_pixels.ppm_highest(opened) > 255 else 8
    if opened.format in ("PNG", "TIFF") and (";16" in raw or ";12" in raw):
        if mode.startswith("I;16") or deep_pixels.color(opened):
            return 16
        raise _Refusal(f"{expected}, got {raw}")
    if mode[0] in "IF":
        raise _Refusal(f"{expected}, got the mode {mode}")
    return 8


def _orientation(opened: Any) -> int:
    """The EXIF orientation, 1 to 8. Of a PNG that is not decoded yet, only what stands
    before its pixels."""
    if opened.format == "PNG" and opened.tile and "exif" not in opened.info:
        return 1
    found = opened.getexif().get(EXIF_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _is_clear(opened: Any) -> bool:
    """Whether the image has transparency."""
    return opened.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (
        "transparency" in opened.info
    )


def read_header(file: ImageFile) -> ImageHeader:
    """The header of an image, without decoding it. ValueError, naming the file, where
    it is no image, or one that cannot be read in its full range."""
    with _open(file) as opened:
        mode, deep = opened.mode, _bits(file, opened) == 16
        columns, rows = opened.size
        if opened.format == "TIFF":  # Pillow may have turned the size, not the pixels.
            columns, rows = (opened.tag_v2[tag] for tag in TIFF_SIZE)
        orientation = _orientation(opened)
        if orientation > 4:  # by a quarter
            rows, columns = columns, rows
        of_mode = {"1": "1 bit to gray", "P": "palette to RGB", "PA": "palette to RGB"}
        if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            of_mode[mode] = f"{mode} to RGB"
        found = {
            of_mode.get(mode): mode in of_mode,
            "16 bits rounded to 8": deep,
            "alpha composited on white": _is_clear(opened),
            "rotated by EXIF": orientation > 1,
            "first of several frames": getattr(opened, "is_animated", False),
        }
        gray = mode in GRAY or mode[0] == "I" or deep_pixels.color(opened) == "LA"
    conversions = tuple(str(words) for words, holds in found.items() if holds)
    return ImageHeader(rows, columns, gray, conversions)


def _check_levels(file: ImageFile, brightest: int) -> None:
    if brightest < FEWEST_LEVELS:
        raise _Refusal(
            f"{file}: expected 16 bits a channel with values up to 65535, got at most "
            f"{257 * brightest + 128}: in 8 bits it would be black"
        )


def _decode_deep(file: ImageFile, opened: Any) -> Any:
    """A Pillow image of mode L or RGB from one of more than 8 bits a channel."""
    from PIL import Image

    pixels = deep_pixels.read(opened, lambda: _open(file), file.open)
    scaled = deep_pixels.to_8_bits(pixels)
    rows, columns, channels = scaled.shape
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    decoded = Image.frombytes(mode, (columns, rows), scaled.tobytes())
    if mode == "CMYK":
        decoded = decoded.convert("RGB")
    if not deep_pixels.is_constant(pixels):
        _check_levels(file, int(np.asarray(decoded).max()))
    return decoded


def _flatten(opened: Any) -> Any:
    """An image of 8 bits, or the frame that it is at, of mode L or RGB."""
    from PIL import Image

    if _is_clear(opened):
        layer = opened.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer)
    decoded = opened if opened.mode == "L" else opened.convert("RGB")
    decoded.load()
    return decoded


def _decode(file: ImageFile, *, gray: bool) -> Any:
    """A Pillow image of mode L or RGB, upright."""
    from PIL import ImageOps

    with _open(file) as opened:
        if _bits(file, opened) == 16:
            decoded = _decode_deep(file, opened)
        else:
            decoded = _flatten(opened)
        orientation = _orientation(opened)
        if orientation > 1:
            decoded.getexif()[EXIF_ORIENTATION] = orientation
            decoded = ImageOps.exif_transpose(decoded)
        return decoded.convert("L" if gray else "RGB")


def frames(path: Path, choose: Callable[[int], Sequence[int]]) -> np.ndarray:
    """The frames of an animated GIF, PNG or WebP that `choose` names, of as many as the
    file has, in rising order: uint8 [frames, rows, columns, 3]. Transparency is
    composited on white. ValueError, naming the file, for one without frames, of more
    than 8 bits, and for a damaged one."""
    file, found = ImageFile(path, path.name), []
    with _open(file) as opened:
        if opened.format not in ANIMATED or not getattr(opened, "is_animated", False):
            raise _Refusal(
                f"{file}: expected several frames, in {', '.join(ANIMATED)}, got one "
                f"in {opened.format}"
            )
        if _bits(file, opened) == 16:
            raise _Refusal(f"{file}: expected frames of 8 bits a channel, got 16")
        for number in choose(opened.n_frames):
            opened.seek(number)
            found.append(np.asarray(_flatten(opened).convert("RGB")))
    return np.stack(found)


def resize_and_crop(opened: Any, image_size: int) -> Any:
    """The Pillow image as a square: its short side resized, its center cropped."""
    from PIL import Image

    short = min(opened.size)
    columns, rows = (
        max(image_size * side // short, image_size) for side in opened.size
    )
    if opened.size != (columns, rows):
        opened = opened.resize((columns, rows), Image.Resampling.BICUBIC)
    left, top = (columns - image_size) // 2, (rows - image_size) // 2
    return opened.crop((left, top, left + image_size, top + image_size))


def resize_and_crop_array(image: np.ndarray, image_size: int) -> np.ndarray:
    """`resize_and_crop` of uint8 [rows, columns, 1 or 3]."""
    from PIL import Image

    channels = image.shape[-1]
    opened = Image.fromarray(image[..., 0] if channels == 1 else image)
    square = np.asarray(resize_and_crop(opened, image_size))
    return square.reshape(image_size, image_size, channels)


def pixels(file: ImageFile, *, gray: bool, image_size: int | None) -> np.ndarray:
    """uint8 [rows, columns, 1 or 3]. ValueError as `read_header`, and for a damaged
    image."""
    decoded = _decode(file, gray=gray)
    if image_size is not None:
        decoded = resize_and_crop(decoded, image_size)
    return np.asarray(decoded).reshape(decoded.height, decoded.width, -1)


def image(path: Path) -> np.ndarray:
    """uint8 [rows, columns, channels]: 1 channel for gray images, 3 for all others."""
    file = ImageFile(path, path.name)
    return pixels(file, gray=read_header(file).gray, image_size=None)


def resized_image(
    path: Path, shape: Sequence[int], *, crop: bool = False
) -> np.ndarray:
    """`image` as uint8 of `shape` [rows, columns, 1 or 3]; gray where `shape` has one
    channel. Scaled to fit, its aspect ratio kept, padded with white; or, with `crop`,
    to a square as `resize_and_crop`."""
    from PIL import ImageOps

    rows, columns, channels = shape
    decoded = _decode(ImageFile(path, path.name), gray=channels == 1)
    if crop:
        return np.asarray(resize_and_crop(decoded, rows)).reshape(shape)
    padded = ImageOps.pad(decoded, (columns, rows), color="white")
    return np.asarray(padded).reshape(shape)
