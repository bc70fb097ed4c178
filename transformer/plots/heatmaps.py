"""Rows of images with captions and heatmaps; a classifier's worst mistakes; deletion
curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.interpretability.deletion import DeletionCurves


class ImageRow(NamedTuple):
    """8-bit images [rows, columns, 1 or 3], with an optional caption and an optional
    heatmap of patches [down, across] for each: transparent at its minimum, bright at
    its maximum."""

    name: str
    images: Sequence[np.ndarray] | np.ndarray
    captions: Sequence[str] = ()
    heat: Sequence[np.ndarray] | np.ndarray = ()


def plot_rows(rows: Sequence[ImageRow]) -> Any:
    """A matplotlib figure of rows of images."""
    from matplotlib.figure import Figure

    across = max(len(row.images) for row in rows)
    figure = Figure((1.1 * across + 0.4, 1.3 * len(rows)), layout="constrained")
    grid: Any = figure.subplots(len(rows), across, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for place, one in enumerate(axes):
            one.set(xticks=[], yticks=[])
            one.set_frame_on(False)
            if place < len(row.images):
                show_image(one, row.images[place])
            if place < len(row.captions):
                one.set_title(row.captions[place], fontsize=9)
            if place < len(row.heat):
                _show_heat(one, row.heat[place], row.images[place].shape)
        axes[0].set_ylabel(row.name, fontsize=9)
    return figure


def show_image(axes: Any, image: np.ndarray) -> None:
    """One image [rows, columns, 1 or 3], gray or RGB."""
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)


def _show_heat(axes: Any, heat: np.ndarray, pixels: Sequence[int]) -> None:
    low, high = heat.min(), heat.max()
    level = (heat - low) / max(high - low, 1e-12)
    edges = (-0.5, pixels[1] - 0.5, pixels[0] - 0.5, -0.5)
    axes.imshow(level, cmap="inferno", alpha=0.15 + 0.6 * level, extent=edges)


def plot_mistakes(
    images: np.ndarray,
    label: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
    *,
    max_images: int = 20,
) -> Any:
    """A matplotlib figure of the 8-bit images [N, ...] whose label's logit is furthest
    below the largest logit [N, V], with the names of label and prediction."""
    own = logits[np.arange(len(label)), label]
    worst = np.argsort(own - logits.max(1))[:max_images]
    pairs = zip(label[worst].tolist(), logits[worst].argmax(1).tolist(), strict=True)
    captions = [f"{names[true]} → {names[predicted]}" for true, predicted in pairs]
    half = -(-len(worst) // 2)
    return plot_rows(
        [
            ImageRow("", images[worst[at : at + half]], captions[at : at + half])
            for at in (0, half)
        ]
    )


def plot_deletion_curves(curves: DeletionCurves) -> Any:
    """A matplotlib figure of accuracy against the number of deleted patches."""
    from matplotlib.figure import Figure

    figure = Figure((7.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, accuracy in curves.accuracy.items():
        axes.plot(curves.counts, accuracy, marker=".", label=name)
    axes.set(xlabel="patches deleted", ylabel="accuracy", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(frameon=False, title="deleted first", **outside)
    return figure
