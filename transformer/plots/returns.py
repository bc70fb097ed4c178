"""A figure of returns against target returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def plot_returns(
    target: np.ndarray, returns: np.ndarray, baselines: Mapping[str, float]
) -> Any:
    """A matplotlib figure: mean and standard deviation of the returns of episodes by
    their target return, both [N]; up to three baselines by name as lines."""
    from matplotlib.figure import Figure

    figure = Figure((5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    values = np.unique(target)
    mean = np.array([returns[target == value].mean() for value in values])
    spread = np.array([returns[target == value].std() for value in values])
    axes.plot(values, values, color="#bbbbbb", label="target")
    axes.errorbar(values, mean, spread, fmt="o-", capsize=3, label="return")
    styles = zip((":", "--", "-."), baselines.items(), strict=True)
    for style, (name, value) in styles:
        axes.axhline(value, color="#777777", linestyle=style, linewidth=1, label=name)
    axes.set(xlabel="target return", ylabel="return")
    axes.legend(frameon=False)
    return figure
