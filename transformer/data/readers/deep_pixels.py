"""Images of more than 8 bits a channel, in full range, as 8 bits.

Pillow holds 16 bits of gray, but of color one byte a channel: the high one, unless its
raw mode says otherwise. So color is decoded twice, once for each byte.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, NamedTuple

import numpy as np

COLOR = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "LA")
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION = 258, 262, 284  # TIFF tags
BLOCK_ROWS = 256  # that are converted at a time, which bounds memory
NATIVE = {"little": "L", "big": "B"}[sys.byteorder]


class Pixels(NamedTuple):
    """values: uint16 [rows, columns, channels]. layout: of the channels: L, LA, RGB,
    RGBA, RGBa (multiplied by alpha) or CMYK. highest: the value of white."""

    values: np.ndarray
    layout: str
    highest: int = 65535


def raw_mode(opened: Any) -> str:
    """How the pixels of a Pillow image lie in the file, such as RGB;16B."""
    arguments = opened.tile[0][3] if opened.tile else ""
    return arguments if isinstance(arguments, str) else str(arguments[0])


def color(opened: Any) -> str:
    """The channels, such as RGBA, of color or gray and alpha of 16 bits; else empty."""
    name, _, order = raw_mode(opened).partition(";16")
    return name if name in COLOR and order in ("B", "L", "N") else ""


def ppm_highest(opened: Any) -> int:
    """The value of white in a PPM; 65535 of gray, which Pillow scales."""
    arguments = opened.tile[0][3]
    if opened.mode == "I":
        return 65535
    return 255 if isinstance(arguments, str) else int(arguments[1])


def are_planes(opened: Any) -> bool:
    """Whether a TIFF of more than 8 bits has its channels one after the other."""
    if opened.format != "TIFF" or opened.tag_v2.get(PLANAR_CONFIGURATION) != 2:
        return False
    bits = opened.tag_v2.get(BITS_PER_SAMPLE, (1,))
    return max(bits) > 8 and opened.mode[0] != "I"


def _set_raw_mode(opened: Any, raw: str) -> None:
    def replace(arguments: Any) -> Any:
        return raw if isinstance(arguments, str) else (raw, *arguments[1:])

    opened.tile = [tile._replace(args=replace(tile.args)) for tile in opened.tile]


def _color_pixels(
    opened: Any, open_again: Callable[[], AbstractContextManager[Any]]
) -> Pixels:
    layout = color(opened)
    if layout == "LA":  # Pillow has four bytes for a pixel, as the file has.
        _set_raw_mode(opened, "RGBA")
        bytes_ = np.asarray(opened).astype(np.uint16)
        return Pixels(bytes_[..., 0::2] << 8 | bytes_[..., 1::2], layout)
    name = layout.replace("a", "A")  # Pillow would divide RGBa by alpha.
    order = raw_mode(opened)[-1].replace("N", NATIVE)
    other = {"L": "B", "B": "L"}[order]
    _set_raw_mode(opened, f"{name};16{order}")
    high = np.asarray(opened).astype(np.uint16)
    with open_again() as again:
        _set_raw_mode(again, f"{name};16{other}")
        return Pixels(high << 8 | np.asarray(again), layout.removesuffix("X"))


def _gray_pixels(opened: Any) -> Pixels:
    highest = 4095 if ";12" in raw_mode(opened) else 65535  # decoding forgets it
    is_inverted = opened.format == "TIFF" and opened.tag_v2.get(PHOTOMETRIC) == 0
    values = np.asarray(opened).astype(np.uint16)[..., None]
    return Pixels(highest - values if is_inverted else values, "L", highest)


def _ppm_pixels(opened: Any, file: BinaryIO) -> Pixels:
    # Pillow decodes a PPM of 16 bits value by value in Python.
    columns, rows = opened.size
    codec, _, offset, _ = opened.tile[0]
    highest = ppm_highest(opened)
    file.seek(offset)
    if codec == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b"", file.read()).split()
        values = np.array(words[: 3 * rows * columns]).astype(np.int64)
    else:
        values = np.frombuffer(file.read(6 * rows * columns), ">u2")
    shaped = values.reshape(rows, columns, 3).clip(0, highest).astype(np.uint16)
    return Pixels(shaped, "RGB", highest)


def read(
    opened: Any,
    open_again: Callable[[], AbstractContextManager[Any]],
    open_file: Callable[[], BinaryIO],
) -> Pixels:
    """The pixels of a Pillow image that is not decoded yet, of more than 8 bits a
    channel. open_again: the same Pillow image. open_file: its bytes."""
    key: Any = opened.info.get("transparency")
    if opened.format == "PPM" and opened.mode == "RGB":
        with open_file() as file:
            return _ppm_pixels(opened, file)
    is_color = bool(color(opened))
    pixels = _color_pixels(opened, open_again) if is_color else _gray_pixels(opened)
    if key is None:
        return pixels
    is_clear = (pixels.values == np.uint16(key)).all(-1, keepdims=True)
    return pixels._replace(values=np.where(is_clear, pixels.highest, pixels.values))


def _scale(values: np.ndarray, layout: str, highest: int) -> np.ndarray:
    """0..highest to 0..255, rounded; alpha composited on white."""
    if layout[-1] not in "aA":
        scaled = (values.astype(np.uint32) * 255 + highest // 2) // highest
        return scaled.astype(np.uint8)
    wide = values.astype(np.uint64)
    channels, alpha = wide[..., :-1], wide[..., -1:]
    factor = np.uint64(highest) if layout[-1] == "a" else alpha
    squared = highest * highest
    on_white = channels * factor + highest * (highest - alpha)
    scaled = (on_white.clip(max=squared) * 255 + squared // 2) // squared
    return scaled.astype(np.uint8)


def to_8_bits(pixels: Pixels) -> np.ndarray:
    """uint8 [rows, columns, channels]: gray, RGB or CMYK; alpha composited on white."""
    values, layout, highest = pixels
    channels = len(layout.upper().removesuffix("A"))
    out = np.empty((*values.shape[:2], channels), np.uint8)
    for top in range(0, len(out), BLOCK_ROWS):
        block = slice(top, top + BLOCK_ROWS)
        out[block] = _scale(values[block], layout, highest)
    return out


def is_constant(pixels: Pixels) -> bool:
    """Whether all pixels are equal."""
    return bool((pixels.values == pixels.values[:1, :1]).all())
