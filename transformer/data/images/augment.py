"""Random image augmentation for training: `records.Prepare` functions.

Each takes one example, its arrays without the first dimension, and the generator of its
place in the run, the only source of randomness.
"""

from __future__ import annotations

import functools

import numpy as np

from transformer.data.records import Prepare

# Control points of a bend along each dimension: the fewest that bend, not tilt.
CONTROLS = 4


def chain(*steps: Prepare) -> Prepare:
    """The composition of `steps`, the first one first."""

    def prepare(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        for step in steps:
            row = step(row, rng)
        return row

    return prepare


def random_affine(
    *,
    shift: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
    elastic: float = 0.0,
    name: str = "image",
) -> Prepare:
    """Warp the image `name` [rows, columns, channels], bilinear, in its own dtype;
    outside its edge the nearest pixel is repeated.

    shift: maximum in pixels, along each side. rotation: maximum in degrees, either way.
    scale: each side's factor is exp(u), |u| at most this. elastic: standard deviation,
    in pixels, of a smooth displacement between 4 x 4 points (after Simard et al. 2003,
    "Best Practices for Convolutional Neural Networks", section 2).
    """

    def prepare(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        image = row[name]
        angle = np.deg2rad(rotation) * rng.uniform(-1, 1)
        stretch = np.exp(scale * rng.uniform(-1, 1, 2))
        cosine, sine = np.cos(angle), np.sin(angle)
        matrix = np.array([[cosine, -sine], [sine, cosine]]) / stretch
        offset = shift * rng.uniform(-1, 1, 2)
        controls = elastic * rng.standard_normal((2, CONTROLS, CONTROLS))
        coordinates = _coordinates(image.shape[:2], matrix, offset, controls)
        return {**row, name: _sample(image, coordinates)}

    return prepare


def random_distortion(amount: float = 1.0) -> Prepare:
    """`random_affine` that keeps the class of a small image: at 1 shifts of 2 pixels,
    rotations of 12 degrees and scales of 12 % at most, bends of 1 pixel."""
    return random_affine(
        shift=2 * amount, rotation=12 * amount, scale=0.12 * amount, elastic=amount
    )


def random_symmetry(share: float, *, channels: int, name: str = "image") -> Prepare:
    """Of this share of rows, mirror half from left to right, and permute the colors of
    all if `channels` is 3. The last dimension of the image `name` holds one or more
    images of `channels` channels each, all of which change alike, so that a model
    learns what they have in common and not each by heart."""

    def prepare(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        if rng.random() >= share:
            return row
        image = row[name]
        image = image[:, ::-1] if rng.random() < 0.5 else image
        if channels == 3:
            colors = image.reshape(*image.shape[:-1], -1, channels)
            image = colors[..., rng.permutation(channels)].reshape(image.shape)
        return {**row, name: image}

    return prepare


def _coordinates(
    shape: tuple[int, ...], matrix: np.ndarray, offset: np.ndarray, controls: np.ndarray
) -> np.ndarray:
    """[2, rows, columns]: the place in the image that each new pixel samples."""
    rows, columns = (_bend_weights(size) for size in shape)
    center = (np.array(shape, np.float32) - 1) / 2
    down = np.arange(shape[0], dtype=np.float32)[:, None] - center[0]
    right = np.arange(shape[1], dtype=np.float32) - center[1]
    places = rows @ controls.astype(np.float32) @ columns.T
    places[0] += matrix[0, 0] * down + matrix[0, 1] * right + (center[0] - offset[0])
    places[1] += matrix[1, 0] * down + matrix[1, 1] * right + (center[1] - offset[1])
    return places


@functools.lru_cache(maxsize=8)
def _bend_weights(size: int) -> np.ndarray:
    """[size, CONTROLS]: the weight of each control point at each pixel, by Lagrange's
    cubic through all of them."""
    at = np.linspace(0, CONTROLS - 1, size)
    weights = np.ones((size, CONTROLS))
    for i in range(CONTROLS):
        for other in set(range(CONTROLS)) - {i}:
            weights[:, i] *= (at - other) / (i - other)
    return weights.astype(np.float32)


def _sample(image: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """`image` at `coordinates` [2, rows, columns], bilinear, in its dtype."""
    from scipy.ndimage import map_coordinates

    out = np.empty((*coordinates.shape[1:], image.shape[-1]), image.dtype)
    for channel in range(image.shape[-1]):
        map_coordinates(
            image[..., channel],
            coordinates,
            out[..., channel],
            order=1,
            mode="nearest",
        )
    return out
