"""Figures of what a model looks at and what it makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transformer.interpretability.deletion import Study


class Strip(NamedTuple):
    """A row of a sheet: 8-bit images [rows, columns, 1 or 3], a caption over each, and
    over each, if there are any, shares of its patches [down, across], drawn as heat:
    clear where they are least, bright where they are largest."""

    name: str
    images: Sequence[np.ndarray] | np.ndarray
    captions: Sequence[str] = ()
    shares: Sequence[np.ndarray] | np.ndarray = ()


def sheet(strips: Sequence[Strip]) -> Any:
    """A matplotlib figure of strips of images, one below the other."""
    from matplotlib.figure import Figure

    across = max(len(strip.images) for strip in strips)
    figure = Figure((1.1 * across + 0.4, 1.3 * len(strips)), layout="constrained")
    grid: Any = figure.subplots(len(strips), across, squeeze=False)
    for axes, strip in zip(grid, strips, strict=True):
        for place, one in enumerate(axes):
            one.set(xticks=[], yticks=[])
            one.set_frame_on(False)
            if place < len(strip.images):
                draw(one, strip.images[place])
            if place < len(strip.captions):
                one.set_title(strip.captions[place], fontsize=9)
            if place < len(strip.shares):
                _heat(one, strip.shares[place], strip.images[place].shape)
        axes[0].set_ylabel(strip.name, fontsize=9)
    return figure


def draw(axes: Any, image: np.ndarray) -> None:
    """One image [rows, columns, 1 or 3], grey or in colour."""
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(image)


def _heat(axes: Any, share: np.ndarray, pixels: Sequence[int]) -> None:
    low, high = share.min(), share.max()
    level = (share - low) / max(high - low, 1e-12)
    edges = (-0.5, pixels[1] - 0.5, pixels[0] - 0.5, -0.5)
    axes.imshow(level, cmap="inferno", alpha=0.15 + 0.6 * level, extent=edges)


def mistakes(
    images: np.ndarray,
    label: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
    *,
    most: int = 20,
) -> Any:
    """A matplotlib figure of the 8-bit images [N, ...] whose class is furthest below
    the one of the largest logit [N, V], each with the names of both."""
    right = logits[np.arange(len(label)), label]
    worst = np.argsort(right - logits.max(1))[:most]
    pairs = zip(label[worst].tolist(), logits[worst].argmax(1).tolist(), strict=True)
    said = [f"{names[true]} → {names[told]}" for true, told in pairs]
    half = -(-len(worst) // 2)
    return sheet(
        [
            Strip("", images[worst[at : at + half]], said[at : at + half])
            for at in (0, half)
        ]
    )


def erasing(study: Study) -> Any:
    """A matplotlib figure of accuracy against the number of erased patches."""
    from matplotlib.figure import Figure

    figure = Figure((7.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, accuracy in study.curves.items():
        axes.plot(study.counts, accuracy, marker=".", label=name)
    axes.set(xlabel="patches erased", ylabel="accuracy", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    outside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes.legend(frameon=False, title="erased first", **outside)
    return figure
