"""Images with what they are called: by whom, and by looking where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.plots import heatmaps

RIGHT, WRONG, OTHER = "#1a7f37", "#b35900", "#8c8c8c"


class Named(NamedTuple):
    """An 8-bit image, its name, what the model calls it, and what another does."""

    image: np.ndarray
    name: str
    said: str
    other: str


def sheet(found: Sequence[Named], *, across: int = 6) -> Any:
    """A matplotlib figure: below each image its name, then what the model says, green
    where that is the name, and what the other does, grey."""
    from matplotlib.figure import Figure

    down = -(-len(found) // across)
    figure = Figure((1.75 * across, 1.55 * down))
    grid: Any = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(0.01, 0.11, 0.99, 0.995, wspace=0.1, hspace=0.85)
    for axes in grid.flat:
        axes.axis("off")
    for axes, one in zip(grid.flat, found, strict=False):
        heatmaps.draw(axes, one.image)
        told = RIGHT if one.said == one.name else WRONG
        lines = (one.name, "black"), (one.said, told), (one.other, OTHER)
        for place, (text, colour) in enumerate(lines):
            where: Any = {"transform": axes.transAxes, "ha": "center", "va": "top"}
            axes.text(
                0.5, -0.06 - 0.2 * place, cut(text), color=colour, fontsize=8, **where
            )
    return figure


def cut(text: str, most: int = 27) -> str:
    """The text, its end left out where it is longer than `most`."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def looked(
    images: Sequence[np.ndarray], words: Sequence[tuple[Sequence[str], np.ndarray]]
) -> Any:
    """A matplotlib figure: for each word said of an image the shares [words, down,
    across] of its patches in that word, as heat; then the image itself."""
    strips = [
        heatmaps.Strip(
            "",
            [image] * (len(said) + 1),
            said,
            shares,
        )
        for image, (said, shares) in zip(images, words, strict=True)
    ]
    return heatmaps.sheet(strips)


def beside(
    real: np.ndarray, drawn: np.ndarray, names: Sequence[str] | np.ndarray
) -> Any:
    """A matplotlib figure of pairs of 8-bit images [N, ...], each with its name: the
    real one and, to its right, the one that was drawn for it."""
    from matplotlib.figure import Figure

    across = 5
    down = -(-len(real) // across)
    figure = Figure((2.1 * across, 1.25 * down))
    grid: Any = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, wspace=0.08, hspace=0.25)
    gap = np.full((*real.shape[1:2], 2, 3), 255, np.uint8)
    for axes in grid.flat:
        axes.axis("off")
    for axes, *pair, name in zip(grid.flat, real, drawn, names, strict=False):
        heatmaps.draw(axes, np.concatenate([pair[0], gap, pair[1]], 1))
        axes.set_title(cut(str(name), 30), fontsize=8, pad=2)
    return figure
