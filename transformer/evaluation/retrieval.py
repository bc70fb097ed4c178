"""Which of many things is found when its other view is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.plots import heatmaps


def ranks(score: np.ndarray) -> np.ndarray:
    """Of the scores [..., N, N] of N queries (down) with the N things that they belong
    to: for each query how many score at least as high as its own, itself included: 1
    is the best, N the worst."""
    own = np.diagonal(score, axis1=-2, axis2=-1)[..., None]
    return (score >= own).sum(-1)


def nearness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Minus the squared distance between 8-bit images [N, ...] and others: [N, N]."""
    a, b = (images.reshape(len(images), -1) / 255 for images in (one, other))
    return 2 * a @ b.T - np.square(b).sum(1)[None] - np.square(a).sum(1)[:, None]


def recalls(rank: np.ndarray) -> dict[str, float]:
    """Of the ranks [..., N] of N things among each other: the share of first places,
    that of the first ten, the median, and the first again in units of chance, 1 / N."""
    first = float(np.mean(rank == 1))
    return {
        "recall@1": first,
        "recall@10": float(np.mean(rank <= 10)),
        "median rank": float(np.median(rank)),
        "recall@1 / chance": first * rank.shape[-1],
    }


def found(
    queries: np.ndarray,
    vectors: np.ndarray,
    names: Sequence[str] | np.ndarray,
    images: np.ndarray,
    chosen: Sequence[int] | np.ndarray,
    *,
    most: int = 5,
) -> Any:
    """A matplotlib figure: for some of the queries, their name and the `most` nearest
    of the images [N, ...], the best first; the right one framed."""
    from matplotlib.figure import Figure

    figure = Figure((1.0 * most + 2.6, 0.95 * len(chosen)), layout="constrained")
    ratios: Any = {"width_ratios": [2.6, *[1] * most]}
    grid: Any = figure.subplots(
        len(chosen), 1 + most, squeeze=False, gridspec_kw=ratios
    )
    for axes, query in zip(grid, chosen, strict=True):
        best = np.argsort(-(vectors @ queries[query]))[:most]
        said: Any = {"ha": "right", "va": "center", "fontsize": 10, "wrap": True}
        axes[0].text(1.0, 0.5, names[query], **said)
        axes[0].axis("off")
        for one, number in zip(axes[1:], best, strict=True):
            heatmaps.draw(one, images[number])
            one.set(xticks=[], yticks=[])
            right = number == query
            one.spines[:].set(color="#2a9d3a" if right else "#dddddd")
            one.spines[:].set_linewidth(3 if right else 0.5)
    return figure
