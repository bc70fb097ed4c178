"""Grids of images as one image, and videos as a GIF."""

from __future__ import annotations

from io import BytesIO

import numpy as np


def make_grid(images: np.ndarray, *, zoom: int = 3, gap: int = 1) -> np.ndarray:
    """8-bit images [down, across, rows, columns, channels] as one image [..., 3]: each
    pixel `zoom` x `zoom`, `gap` such pixels of gray between images."""
    images = np.asarray(images)
    sides = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
    framed = np.pad(images, sides, constant_values=64)
    down, across, rows, columns, channels = framed.shape
    grid = framed.swapaxes(1, 2).reshape(down * rows, across * columns, channels)
    grid = grid[: -gap or None, : -gap or None]
    color = np.broadcast_to(grid, (*grid.shape[:2], 3))
    return color.repeat(zoom, axis=0).repeat(zoom, axis=1)


def class_grid(
    images: np.ndarray, label: np.ndarray, *, max_images: int = 10
) -> np.ndarray:
    """`make_grid` with a row of up to `max_images` images for each class."""
    rows = [images[label == c][:max_images] for c in np.unique(label)]
    fewest = min(len(row) for row in rows)
    return make_grid(np.stack([row[:fewest] for row in rows]))


def gif(videos: np.ndarray, *, context_frames: int, zoom: int = 4) -> bytes:
    """8-bit videos [down, across, frames, rows, columns, channels] in a grid as a GIF
    that loops. The progress bar changes color at frame `context_frames`, the first
    predicted one."""
    from PIL import Image

    frames = []
    for number in range(videos.shape[2]):
        picture = make_grid(videos[:, :, number], zoom=zoom)
        bar = np.full((2 * zoom, picture.shape[1], 3), 64, np.uint8)
        done = (number + 1) * picture.shape[1] // videos.shape[2]
        bar[:, :done] = (230, 140, 40) if number >= context_frames else (90, 140, 220)
        frames.append(Image.fromarray(np.concatenate([picture, bar])))
    file = BytesIO()
    first, *rest = frames
    first.save(file, "gif", save_all=True, append_images=rest, duration=160, loop=0)
    return file.getvalue()
