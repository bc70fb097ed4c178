"""Images of a few grey levels as rows of symbols, and back, numpy.

A symbol is a pixel, or a square of them read as the digits of one number.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from transformer.data.images import patches
from transformer.data.records import Records


def shrunk(images: np.ndarray, times: int) -> np.ndarray:
    """8-bit images [N, rows, columns, channels] `times` smaller on each side, a pixel
    the mean of a square, rounded. ValueError where squares do not fill the image."""
    count, rows, columns, channels = images.shape
    if times < 1 or rows % times or columns % times:
        raise ValueError(
            f"expected sides that are multiples of {times}, got {rows} x {columns}"
        )
    split = count, rows // times, times, columns // times, times, channels
    return np.rint(images.reshape(split).mean((2, 4))).astype(np.uint8)


def enlarged(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """8-bit images [N, ..., channels] as rows x columns, by Lanczos's three lobes."""
    shape = len(images), rows, columns, images.shape[-1]
    smooth = jax.image.resize(images.astype(np.float32), shape, "lanczos3")
    return np.rint(np.asarray(smooth)).clip(0, 255).astype(np.uint8)


def of_images(images: np.ndarray, levels: int, *, square: int = 1) -> np.ndarray:
    """The symbols [N, L] int32 of 8-bit images [N, rows, columns, 1] in the nearest of
    `levels` equally spaced greys, squares in reading order, as `patches.cut` has them.

    There are levels ** (square * square) symbols. ValueError where they are too many.
    """
    if not 2 <= levels <= 256 or levels ** (square * square) > 65536:
        raise ValueError(
            f"expected from 2 to 256 levels and at most 65536 symbols, "
            f"got {levels} levels in squares of {square}"
        )
    nearest = np.rint(images.astype(np.float32) * (levels - 1) / 255).astype(np.int32)
    return patches.cut(nearest, (square, square)) @ _powers(levels, square)


def to_images(
    symbols: np.ndarray, levels: int, side: int, *, square: int = 1
) -> np.ndarray:
    """The 8-bit images [N, side, side, 1] that such symbols [N, L] stand for."""
    digits = np.asarray(symbols)[..., None] // _powers(levels, square) % levels
    grey = np.rint(digits * (255 / (levels - 1))).astype(np.uint8)
    return patches.joined(grey, (side, side), (square, square))


def _powers(levels: int, square: int) -> np.ndarray:
    return levels ** np.arange(square * square, dtype=np.int32)


class Greys(NamedTuple):
    """Square images, shrunk, as rows of symbols.

    train, validation: `ids_BL` int32 and `label_B`. full, side: of an image before and
    after, in pixels. levels: of grey. square: pixels along the side of a symbol.
    """

    train: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    full: int
    side: int
    levels: int
    square: int

    @property
    def symbols(self) -> int:
        """How many different ones there are."""
        return self.levels ** (self.square * self.square)

    @property
    def places(self) -> tuple[int, int]:
        """Symbols down and across an image."""
        return self.side // self.square, self.side // self.square

    def images(self, ids: np.ndarray) -> np.ndarray:
        """The 8-bit images of symbols [N, L], as large as they were."""
        small = to_images(ids, self.levels, self.side, square=self.square)
        return enlarged(small, self.full, self.full)


def greys(data: Records, *, levels: int, shrink: int, square: int = 1) -> Greys:
    """The images of `data`, `shrink` times smaller on each side. ValueError unless they
    are square, of one channel, and divide into squares."""
    full, columns, channels = data.train["image"].shape[1:]
    if full != columns or channels != 1:
        raise ValueError(
            f"{data.name}: expected square images of one channel, "
            f"got {full} x {columns} x {channels}"
        )
    train, validation = (
        {
            "ids_BL": of_images(shrunk(part["image"], shrink), levels, square=square),
            "label_B": part["label"],
        }
        for part in (data.train, data.validation)
    )
    return Greys(train, validation, full, full // shrink, levels, square)
