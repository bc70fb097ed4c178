"""Grids of images, and images as characters."""

from __future__ import annotations

import numpy as np

from transformer.generation import terminal_images
from transformer.plots import image_grid

RNG = np.random.default_rng(0)


def test_every_image_is_in_its_place() -> None:
    images = RNG.integers(0, 256, (2, 3, 4, 5, 1)).astype(np.uint8)
    sheet = image_grid.make_grid(images, zoom=2, gap=1)
    assert sheet.shape == (2 * (2 * 5 - 1), 2 * (3 * 6 - 1), 3)
    for down, across in np.ndindex(2, 3):
        part = sheet[10 * down : 10 * down + 8 : 2, 12 * across : 12 * across + 10 : 2]
        np.testing.assert_array_equal(part, images[down, across].repeat(3, -1))


def test_a_gif_is_a_gif() -> None:
    videos = RNG.integers(0, 256, (2, 1, 3, 4, 4, 1)).astype(np.uint8)
    assert image_grid.gif(videos, context_frames=1)[:6] == b"GIF89a"


def test_a_pixel_is_two_characters() -> None:
    white = np.full((1, 2, 2, 1), 255, np.uint8)
    assert terminal_images.ascii_art(white) == "@@@@\n@@@@"
    blue = white * np.array([0, 0, 1], np.uint8)
    assert terminal_images.ascii_art(blue) == "----\n----"  # the mean of its channels
