"""Images in a few gray levels as rows of tokens and back, numpy.

A token is a pixel, or a patch x patch block of pixels as the digits of one number.
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
    """The tokens [N, L] int32 of 8-bit images [N, rows, columns, 1], each pixel the
    nearest of `gray_levels` equally spaced levels; blocks in the order of
    `patches.patchify`.

    vocab_size is gray_levels ** (patch * patch). ValueError where it is above 65536.
    """
    if not 2 <= gray_levels <= 256 or gray_levels ** (patch * patch) > 65536:
        raise ValueError(
            f"expected from 2 to 256 gray levels and at most 65536 tokens, "
            f"got {gray_levels} levels in patches of {patch}"
        )
    scaled = images.astype(np.float32) * (gray_levels - 1) / 255
    nearest = np.rint(scaled).astype(np.int32)
    return patches.patchify(nearest, (patch, patch)) @ _powers(gray_levels, patch)


def dequantize(
    ids: np.ndarray, gray_levels: int, side: int, *, patch: int = 1
) -> np.ndarray:
    """The inverse: 8-bit images [N, side, side, 1] of tokens [N, L]."""
    digits = np.asarray(ids)[..., None] // _powers(gray_levels, patch) % gray_levels
    gray = np.rint(digits * (255 / (gray_levels - 1))).astype(np.uint8)
    return patches.unpatchify(gray, (side, side), (patch, patch))


def _powers(gray_levels: int, patch: int) -> np.ndarray:
    return gray_levels ** np.arange(patch * patch, dtype=np.int32)


class QuantizedImages(NamedTuple):
    """Square images, downsampled, as rows of tokens.

    train, validation: `ids_BL` int32 and `label_B`. full_side, side: of an image before
    and after downsampling, in pixels. patch: pixels along the side of a token.
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    full_side: int
    side: int
    gray_levels: int
    patch: int

    @property
    def vocab_size(self) -> int:
        return self.gray_levels ** (self.patch * self.patch)

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
        small = dequantize(ids, self.gray_levels, self.side, patch=self.patch)
        return resize(small, self.full_side, self.full_side)


def quantize_records(
    data: Records, *, gray_levels: int, factor: int, patch: int = 1
) -> QuantizedImages:
    """The images of `data`, each side divided by `factor`. ValueError unless they are
    square, of one channel, and divide into patches."""
    full_side, columns, channels = data.train["image"].shape[1:]
    if full_side != columns or channels != 1:
        raise ValueError(
            f"{data.name}: expected square images of one channel, "
            f"got {full_side} x {columns} x {channels}"
        )
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
    return QuantizedImages(train, validation, full_side, side, gray_levels, patch)
