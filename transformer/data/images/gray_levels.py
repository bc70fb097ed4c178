"""Images in a few gray levels as rows of tokens and back, numpy.

A token is a pixel, or a patch x patch block of pixels as the digits of one number. A
pixel in color has a digit for each of its three channels: of 4 levels, 64 colors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from transformer.data.images import patches
from transformer.data.records import Records


def downsample(images: np.ndarray, factor: int) -> np.ndarray:
    """8-bit images [N, rows, columns, channels], each side divided by `factor`: a pixel
    is the rounded mean of a block. ValueError where blocks do not fill the image."""
    count, rows, columns, channels = images.shape
    if factor < 1 or rows % factor or columns % factor:
        raise ValueError(
            f"expected sides that are multiples of {factor}, got {rows} x {columns}"
        )
    split = count, rows // factor, factor, columns // factor, factor, channels
    return np.rint(images.reshape(split).mean((2, 4))).astype(np.uint8)


def resize(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """8-bit images [N, ..., channels] resized to rows x columns by Lanczos-3."""
    shape = len(images), rows, columns, images.shape[-1]
    smooth = jax.image.resize(images.astype(np.float32), shape, "lanczos3")
    return np.rint(np.asarray(smooth)).clip(0, 255).astype(np.uint8)


def quantize(images: np.ndarray, gray_levels: int, *, patch: int = 1) -> np.ndarray:
    """The tokens [N, L] int32 of 8-bit images [N, rows, columns, channels], each value
    the nearest of `gray_levels` equally spaced levels; blocks in the order of
    `patches.patchify`.

    vocab_size is gray_levels ** (patch * patch * channels). ValueError where it is
    above 65536.
    """
    channels = images.shape[-1]
    levels = patch * patch * channels
    if not 2 <= gray_levels <= 256 or gray_levels**levels > 65536:
        of = f" of {channels} channels" * (channels > 1)
        raise ValueError(
            f"expected from 2 to 256 gray levels and at most 65536 tokens, "
            f"got {gray_levels} levels in patches of {patch}{of}"
        )
    scaled = images.astype(np.float32) * (gray_levels - 1) / 255
    nearest = np.rint(scaled).astype(np.int32)
    return patches.patchify(nearest, (patch, patch)) @ _powers(gray_levels, levels)


def dequantize(
    ids: np.ndarray, gray_levels: int, side: int, *, patch: int = 1, channels: int = 1
) -> np.ndarray:
    """The inverse: 8-bit images [N, side, side, channels] of tokens [N, L]."""
    levels = _digits(ids, gray_levels, patch * patch * channels)
    gray = np.rint(levels * (255 / (gray_levels - 1))).astype(np.uint8)
    return patches.unpatchify(gray, (side, side), (patch, patch))


def _powers(gray_levels: int, count: int) -> np.ndarray:
    return gray_levels ** np.arange(count, dtype=np.int32)


def _digits(ids: np.ndarray, gray_levels: int, count: int) -> np.ndarray:
    return np.asarray(ids)[..., None] // _powers(gray_levels, count) % gray_levels


class QuantizedImages(NamedTuple):
    """Square images, downsampled, as rows of tokens.

    train, validation: `ids_BL` int32 and `label_B`. full_side, side: of an image before
    and after downsampling, in pixels. patch: pixels along the side of a token.
    channels: of a pixel, each of `gray_levels`.
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    full_side: int
    side: int
    gray_levels: int
    patch: int
    channels: int = 1

    @property
    def levels_per_token(self) -> int:
        """The number of gray levels that make up a token."""
        return self.patch * self.patch * self.channels

    @property
    def vocab_size(self) -> int:
        return self.gray_levels**self.levels_per_token

    @property
    def palette(self) -> np.ndarray:
        """The 8-bit color of each token that is one pixel, [V, channels]."""
        every = np.arange(self.vocab_size)[:, None]
        images = dequantize(every, self.gray_levels, 1, channels=self.channels)
        return images[:, 0, 0]

    def levels(self, ids: np.ndarray) -> np.ndarray:
        """Tokens [N, L] as gray levels [N, L * levels_per_token]."""
        levels = _digits(ids, self.gray_levels, self.levels_per_token)
        return levels.reshape(len(ids), -1)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens down and across an image."""
        return self.side // self.patch, self.side // self.patch

    @property
    def length(self) -> int:
        """The number of tokens of an image, L."""
        return math.prod(self.grid)

    @property
    def abstract_row(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one row, (1, L)."""
        return jax.ShapeDtypeStruct((1, self.length), np.int32)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """The 8-bit images of tokens [N, L], resized to their full side."""
        sizes = {"patch": self.patch, "channels": self.channels}
        small = dequantize(ids, self.gray_levels, self.side, **sizes)
        return resize(small, self.full_side, self.full_side)


def quantize_records(
    data: Records, *, gray_levels: int, factor: int, patch: int | None = None
) -> QuantizedImages:
    """The images of `data`, each side divided by `factor`.

    patch: by default 2, of color images 1. ValueError unless they are square and divide
    into patches.
    """
    full_side, columns, channels = data.train["image"].shape[1:]
    if full_side != columns:
        raise ValueError(
            f"{data.name}: expected square images, got {full_side} x {columns}; "
            "--image_size=N resizes and crops all to N x N"
        )
    patch = patch or (2 if channels == 1 else 1)
    train, validation = (
        {
            "ids_BL": quantize(
                downsample(arrays["image"], factor), gray_levels, patch=patch
            ),
            "label_B": arrays["label"],
        }
        for arrays in (data.train, data.validation)
    )
    side = full_side // factor
    sizes = full_side, side, gray_levels, patch, channels
    return QuantizedImages(train, validation, *sizes)
