"""Images with texts: captions, word heatmaps, retrieval results, pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.plots import heatmaps

CORRECT, WRONG, OTHER = "#1a7f37", "#b35900", "#8c8c8c"


class CaptionComparison(NamedTuple):
    """An 8-bit image with three captions: the reference, the model's, a baseline's."""

    image: np.ndarray
    reference: str
    caption: str
    baseline: str


def plot_captions(captions: Sequence[CaptionComparison], *, across: int = 6) -> Any:
    """A matplotlib figure: below each image the reference, the model's caption (green
    where equal to the reference) and the baseline's (gray)."""
    from matplotlib.figure import Figure

    down = -(-len(captions) // across)
    figure = Figure((1.75 * across, 1.55 * down))
    grid: Any = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(0.01, 0.11, 0.99, 0.995, wspace=0.1, hspace=0.85)
    for axes in grid.flat:
        axes.axis("off")
    for axes, one in zip(grid.flat, captions, strict=False):
        heatmaps.show_image(axes, one.image)
        color = CORRECT if one.caption == one.reference else WRONG
        lines = (one.reference, "black"), (one.caption, color), (one.baseline, OTHER)
        for place, (text, color) in enumerate(lines):
            where: Any = {"transform": axes.transAxes, "ha": "center", "va": "top"}
            height = -0.06 - 0.2 * place
            axes.text(0.5, height, truncate(text), color=color, fontsize=8, **where)
    return figure


def truncate(text: str, max_length: int = 27) -> str:
    """The text, cut with an ellipsis where it is longer than `max_length`."""
    return text if len(text) <= max_length else text[: max_length - 1].rstrip() + "…"


def plot_word_heatmaps(
    images: Sequence[np.ndarray], words: Sequence[tuple[Sequence[str], np.ndarray]]
) -> Any:
    """A matplotlib figure: a row for each image, with a heatmap of its patches for each
    word of its caption, then the image itself. words: the words of a caption, and their
    heatmaps [words, down, across]."""
    rows = [
        heatmaps.ImageRow("", [image] * (len(caption) + 1), caption, heat)
        for image, (caption, heat) in zip(images, words, strict=True)
    ]
    return heatmaps.plot_rows(rows)


def plot_pairs(
    real: np.ndarray, samples: np.ndarray, captions: Sequence[str] | np.ndarray
) -> Any:
    """A matplotlib figure of pairs of 8-bit images [N, ...] with their caption: the
    real one left, the sample right."""
    from matplotlib.figure import Figure

    across = 5
    down = -(-len(real) // across)
    figure = Figure((2.1 * across, 1.25 * down))
    grid: Any = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, wspace=0.08, hspace=0.25)
    gap = np.full((*real.shape[1:2], 2, 3), 255, np.uint8)
    for axes in grid.flat:
        axes.axis("off")
    for axes, *pair, text in zip(grid.flat, real, samples, captions, strict=False):
        heatmaps.show_image(axes, np.concatenate([pair[0], gap, pair[1]], 1))
        axes.set_title(truncate(str(text), 30), fontsize=8, pad=2)
    return figure


def plot_retrieval(
    queries: np.ndarray,
    keys: np.ndarray,
    captions: Sequence[str] | np.ndarray,
    images: np.ndarray,
    query_indices: Sequence[int] | np.ndarray,
    *,
    max_images: int = 5,
) -> Any:
    """A matplotlib figure: for the queries at `query_indices`, their caption
    and the best `max_images` images, the best first; the matching image is framed.

    queries, keys: embeddings [N, D] of captions and images.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        (1.0 * max_images + 2.6, 0.95 * len(query_indices)), layout="constrained"
    )
    ratios: Any = {"width_ratios": [2.6, *[1] * max_images]}
    grid: Any = figure.subplots(
        len(query_indices), 1 + max_images, squeeze=False, gridspec_kw=ratios
    )
    for axes, query in zip(grid, query_indices, strict=True):
        best = np.argsort(-(keys @ queries[query]))[:max_images]
        style: Any = {"ha": "right", "va": "center", "fontsize": 10, "wrap": True}
        axes[0].text(1.0, 0.5, captions[query], **style)
        axes[0].axis("off")
        for one, number in zip(axes[1:], best, strict=True):
            heatmaps.show_image(one, images[number])
            one.set(xticks=[], yticks=[])
            match = number == query
            one.spines[:].set(color="#2a9d3a" if match else "#dddddd")
            one.spines[:].set_linewidth(3 if match else 0.5)
    return figure
