"""Drawn images as pictures: a sheet, a text for the terminal, and how their quality
grows with the steps of generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from transformer.evaluation.frechet import Quality

SHADES = " .:-=+*#%@"


def sheet(images: np.ndarray, *, enlarged: int = 3, gap: int = 1) -> np.ndarray:
    """8-bit images [down, across, rows, columns, channels] as one, [..., 3], each
    pixel `enlarged` times as large, `gap` such pixels of grey between images."""
    images = np.asarray(images)
    sides = [(0, 0), (0, 0), (0, gap), (0, gap), (0, 0)]
    framed = np.pad(images, sides, constant_values=64)
    down, across, rows, columns, channels = framed.shape
    whole = framed.swapaxes(1, 2).reshape(down * rows, across * columns, channels)
    whole = whole[: -gap or None, : -gap or None]
    coloured = np.broadcast_to(whole, (*whole.shape[:2], 3))
    return coloured.repeat(enlarged, axis=0).repeat(enlarged, axis=1)


def typed(images: Sequence[np.ndarray] | np.ndarray) -> str:
    """8-bit images [rows, columns, 1] side by side in characters, for a terminal."""
    row = np.concatenate(list(images), axis=1)[..., 0].astype(int)
    shade = row * (len(SHADES) - 1) // 255
    # A character is about twice as high as it is wide.
    return "\n".join("".join(2 * SHADES[level] for level in line) for line in shade)


def moving(films: np.ndarray, *, marked: int, enlarged: int = 4) -> bytes:
    """8-bit films [down, across, frames, rows, columns, channels] side by side as one
    GIF that goes round; from frame `marked` on with a bar of another colour below."""
    from PIL import Image

    frames = []
    for number in range(films.shape[2]):
        picture = sheet(films[:, :, number], enlarged=enlarged)
        bar = np.full((2 * enlarged, picture.shape[1], 3), 64, np.uint8)
        done = (number + 1) * picture.shape[1] // films.shape[2]
        bar[:, :done] = (230, 140, 40) if number >= marked else (90, 140, 220)
        frames.append(Image.fromarray(np.concatenate([picture, bar])))
    file = BytesIO()
    first, *rest = frames
    first.save(file, "gif", save_all=True, append_images=rest, duration=160, loop=0)
    return file.getvalue()


def steps(
    curves: Mapping[str, Mapping[int, Quality]], *, real: Quality, title: str = ""
) -> Any:
    """A matplotlib figure of what the judge recognises, and of the Frechet distance,
    against the steps of generation. real: of real images, as a dashed line."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in curves.items():
        share = [100 * point.recognised for point in points.values()]
        away = [point.distance for point in points.values()]
        left.plot(list(points), share, marker="o", label=name)
        right.plot(list(points), away, marker="o", label=name)
    left.axhline(100 * real.recognised, ls="--", color="gray", label="real, held out")
    right.axhline(real.distance, ls="--", color="gray", label="real, held out")
    left.set(ylabel="recognised as asked, %", ylim=(None, 102))
    right.set(ylabel="Fréchet distance", yscale="log")
    ticks = sorted({step for points in curves.values() for step in points})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xlabel("steps of generation")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    left.legend(frameon=False)
    if title:
        figure.suptitle(title)
    return figure
