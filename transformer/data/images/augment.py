"""Images moved a little for training: building blocks of `records.Prepare`.

Each takes one example, its arrays without the first dimension, and the generator that
belongs to its place in the run, so that what is drawn depends on nothing else.
"""

from __future__ import annotations

import functools

import numpy as np

from transformer.data.records import Prepare

# Control points of a bend along each dimension: the coarsest that bends, not tilts.
CONTROLS = 4


def chain(*steps: Prepare) -> Prepare:
    """The steps one after another, as one."""

    def chained(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        for step in steps:
            row = step(row, rng)
        return row

    return chained


def moved(
    *,
    shift: float = 0.0,
    rotation: float = 0.0,
    scale: float = 0.0,
    bend: float = 0.0,
    name: str = "image",
) -> Prepare:
    """The image `name` [rows, columns, channels] drawn a little elsewhere, in its own
    dtype; beyond its edge it goes on as at the edge.

    shift: at most so many pixels each way. rotation: at most so many degrees either
    way. scale: each side's factor is exp(u), |u| at most this. bend: deviation, in
    pixels, of a smooth displacement between 4 x 4 points (after Simard et al. 2003,
    "Best Practices for Convolutional Neural Networks", section 2).
    """

    def prepare(
        row: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        image = row[name]
        turn = np.deg2rad(rotation) * rng.uniform(-1, 1)
        stretch = np.exp(scale * rng.uniform(-1, 1, 2))
        cosine, sine = np.cos(turn), np.sin(turn)
        matrix = np.array([[cosine, -sine], [sine, cosine]]) / stretch
        away = shift * rng.uniform(-1, 1, 2)
        controls = bend * rng.standard_normal((2, CONTROLS, CONTROLS))
        places = _places(image.shape[:2], matrix, away, controls)
        return {**row, name: sampled(image, places)}

    return prepare


def jittered(amount: float = 1.0) -> Prepare:
    """`moved` by what leaves the class of a small image: at 1 shifts of 2 pixels, turns
    of 12 degrees and stretches of 12 % at most, bends of 1 pixel."""
    return moved(
        shift=2 * amount, rotation=12 * amount, scale=0.12 * amount, bend=amount
    )


def _places(
    shape: tuple[int, ...], matrix: np.ndarray, away: np.ndarray, controls: np.ndarray
) -> np.ndarray:
    """[2, rows, columns]: where in the image each pixel of the new one comes from."""
    rows, columns = (_weights(size) for size in shape)
    centre = (np.array(shape, np.float32) - 1) / 2
    down = np.arange(shape[0], dtype=np.float32)[:, None] - centre[0]
    right = np.arange(shape[1], dtype=np.float32) - centre[1]
    bent = rows @ controls.astype(np.float32) @ columns.T
    bent[0] += matrix[0, 0] * down + matrix[0, 1] * right + (centre[0] - away[0])
    bent[1] += matrix[1, 0] * down + matrix[1, 1] * right + (centre[1] - away[1])
    return bent


@functools.lru_cache(maxsize=8)
def _weights(size: int) -> np.ndarray:
    """[size, CONTROLS]: how much of each control point a pixel takes, by a cubic
    through all of them (Lagrange's)."""
    at = np.linspace(0, CONTROLS - 1, size)
    weights = np.ones((size, CONTROLS))
    for i in range(CONTROLS):
        for other in set(range(CONTROLS)) - {i}:
            weights[:, i] *= (at - other) / (i - other)
    return weights.astype(np.float32)


def sampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`image` [rows, columns, channels] at `places` [2, ...], between pixels bilinear:
    [..., channels] in its dtype."""
    last = np.array(image.shape[:2], np.float32).reshape(2, *[1] * (places.ndim - 1))
    places = np.clip(places, 0, last - 1)
    low = np.minimum(places.astype(np.int32), (last - 2).astype(np.int32).clip(0))
    part = (places - low)[..., None].astype(np.float32)
    columns, channels = image.shape[1:]
    flat = image.reshape(-1, channels)
    corner = low[0] * columns + low[1]
    below = columns if image.shape[0] > 1 else 0
    right = 1 if columns > 1 else 0
    upper = flat[corner] * (1 - part[1]) + flat[corner + right] * part[1]
    lower = (
        flat[corner + below] * (1 - part[1]) + flat[corner + below + right] * (part[1])
    )
    mixed = upper * (1 - part[0]) + lower * part[0]
    if np.issubdtype(image.dtype, np.integer):
        mixed = np.rint(mixed)
    return mixed.astype(image.dtype)
