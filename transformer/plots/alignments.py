"""A figure of the attention between the words of two texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.interpretability.alignment import Alignment


def plot_alignments(panels: Sequence[Alignment]) -> Any:
    """A matplotlib figure: for each alignment of one layer the target words down, the
    source words across, dark where the attention is high (Bahdanau et al. 2014, arXiv
    1409.0473, figure 3)."""
    from matplotlib.figure import Figure

    widths = [len(one.source) for one in panels]
    tallest = max(len(one.target) for one in panels)
    size = 0.33 * sum(widths) + 1.3 * len(panels), 0.27 * tallest + 1.4
    figure = Figure(size, layout="constrained")
    ratios: Any = {"width_ratios": widths}
    grid: Any = figure.subplots(1, len(panels), squeeze=False, gridspec_kw=ratios)
    for axes, (weights, target, source) in zip(grid[0], panels, strict=True):
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(source)), source, rotation=60, ha="left", fontsize=9)
        axes.set_yticks(range(len(target)), target, fontsize=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_frame_on(False)
        axes.set_xticks(np.arange(len(source) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(target) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    return figure
