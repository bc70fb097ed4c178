"""Grids of pixels as sequences of raw patches and back, numpy and jax alike.

A grid is an image (rows x columns), a video (frames x rows x columns; its patches are
tubelets), or a field on any number of dimensions, with the channels last. A patch is
one token: its pixels flattened, channels fastest. Tokens run through the grid in
reading order, the last dimension fastest, as in `network/positions.axial`. (ViT,
Dosovitskiy et al. 2020, arXiv 2010.11929, section 3.1; tubelets: ViViT, Arnab et al.
2021, arXiv 2103.15691, section 3.2.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)


def grid(shape: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """The number of patches of `size` along each dimension of `shape` pixels.

    ValueError unless they fill it exactly.
    """
    fits = len(shape) == len(size) and all(
        patch > 0 and pixels > 0 and pixels % patch == 0
        for pixels, patch in zip(shape, size, strict=True)
    )
    if not fits:
        raise ValueError(
            f"expected pixels that are a multiple of the patch {_by(size)}, "
            f"got {_by(shape)}"
        )
    return tuple(pixels // patch for pixels, patch in zip(shape, size, strict=True))


def patchify(pixels: Array, size: Sequence[int]) -> Array:
    """[..., *grid, channels] to raw patches [..., L, P]; the grid has as many
    dimensions as `size`. P is the product of `size` and the channels."""
    first = pixels.ndim - len(size) - 1
    if first < 0:
        raise ValueError(
            f"expected {len(size)} dimensions of pixels and one of channels, "
            f"got the shape {tuple(pixels.shape)}"
        )
    lead, channels = pixels.shape[:first], pixels.shape[-1]
    counts = grid(pixels.shape[first:-1], size)
    split = [n for pair in zip(counts, size, strict=True) for n in pair]
    divided = pixels.reshape(*lead, *split, channels)
    order = [*range(0, 2 * len(size), 2), *range(1, 2 * len(size), 2)]
    patches_first = divided.transpose(
        *range(first), *(first + axis for axis in order), divided.ndim - 1
    )
    return patches_first.reshape(*lead, math.prod(counts), math.prod(size) * channels)


def unpatchify(raw: Array, shape: Sequence[int], size: Sequence[int]) -> Array:
    """The inverse of `patchify`: raw patches [..., L, P] to [..., *shape, channels]."""
    counts = grid(shape, size)
    channels, rest = divmod(raw.shape[-1], math.prod(size))
    if rest or not channels or raw.shape[-2] != math.prod(counts):
        raise ValueError(
            f"expected {math.prod(counts)} patches of a multiple of {math.prod(size)} "
            f"features, got the shape {tuple(raw.shape)}"
        )
    first, dimensions = raw.ndim - 2, len(size)
    divided = raw.reshape(*raw.shape[:-2], *counts, *size, channels)
    order = [n for axis in range(dimensions) for n in (axis, dimensions + axis)]
    interleaved = divided.transpose(
        *range(first), *(first + axis for axis in order), divided.ndim - 1
    )
    return interleaved.reshape(*raw.shape[:-2], *shape, channels)


def from_images(images: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """8-bit images [..., rows, columns, channels], or videos, as raw patches
    [..., L, P] from -1 to 1, float32."""
    return patchify(images.astype(np.float32) / 127.5 - 1, size)


def to_images(raw: Any, shape: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The 8-bit images of `shape` nearest to raw patches, numpy: the inverse of
    `from_images`."""
    levels = np.rint((unpatchify(np.asarray(raw), shape, size) + 1) * 127.5)
    return levels.clip(0, 255).astype(np.uint8)


class PatchTokenizer(NamedTuple):
    """8-bit images of `shape` (rows, columns, channels) as rows of raw patches of
    `size` (rows, columns), numpy, and back."""

    shape: tuple[int, ...]
    size: tuple[int, int]

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches down and across an image. ValueError unless they fill it."""
        return grid(self.shape[:2], self.size)

    @property
    def length(self) -> int:
        """The number of patches of an image, L."""
        return math.prod(self.grid)

    @property
    def features(self) -> int:
        """The number of features of a raw patch, P."""
        return math.prod(self.size) * self.shape[2]

    @property
    def abstract_row(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one row, (1, L, P)."""
        return jax.ShapeDtypeStruct((1, self.length, self.features), np.float32)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """`from_images`: [..., *shape] to [..., L, P]."""
        return from_images(images, self.size)

    def decode(self, raw: Any) -> np.ndarray:
        """`to_images`: [..., L, P] to [..., *shape]."""
        return to_images(raw, self.shape[:2], self.size)

    def prepare(
        self, example: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A `records.Prepare` of labeled images: `raw_BLP` and `label_B`."""
        return {"raw_BLP": self.encode(example["image"]), "label_B": example["label"]}


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(str(size) for size in sizes)
